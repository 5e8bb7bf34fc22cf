"""Self-curation: which rated pairs become A_k."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from humpback_ray.config.settings import SelectionSettings
from humpback_ray.errors import UserError

SHOWN_SHARES = (0.01, 0.05, 0.10, 0.25)  # of the pairs, whose thresholds a record tells


def thresholds(num_scores: int, ranked: Callable[[int], float]) -> dict[str, float]:
    """The k at which `threshold` selects each of some shares of the pairs, or more where tied.

    Rounded down to four decimals, so that a k copied from a record loses no pair.

    Args:
        ranked: the score with so many better ones before it.
    """
    return {
        f"{share:.0%}": math.floor(ranked(max(round(share * num_scores), 1) - 1) * 1e4) / 1e4
        for share in SHOWN_SHARES
    }


def eligible(
    scored: Iterable[tuple[str, str, float]], settings: SelectionSettings
) -> list[tuple[str, float]]:
    """(candidate_id, score) of one candidate of each segment, out of all pairs with a score.

    The best rated one, of equals the one with the first id. `all` takes the one with the first id,
    because the best one would be curated.

    Args:
        scored: (candidate_id, segment_id, score).
    """
    first: dict[str, tuple[float, str, float]] = {}
    for candidate, segment, score in scored:
        place = (0.0 if settings.method == "all" else -score, candidate, score)
        first[segment] = min(place, first.get(segment, place))
    return [(candidate, score) for _, candidate, score in first.values()]


def num_chosen(num_eligible: int, num_at_least_k: int, settings: SelectionSettings) -> int:
    """Number of pairs that the method chooses, before `max_pairs` draws some of them.

    `threshold` takes every pair of at least k (paper: A_5 is score >= 4.5), `best` and `share` the
    highest scores.
    """
    if settings.method == "threshold":
        return num_at_least_k
    if settings.method == "best":
        return min(settings.num_best, num_eligible)
    return num_eligible if settings.method == "all" else round(settings.share * num_eligible)


def is_by_rank(settings: SelectionSettings) -> bool:
    """True if it takes the other pairs to say whether a pair is chosen."""
    return settings.method in ("best", "share")


@dataclass(frozen=True)
class Edge:
    """The last pairs of a selection; None where there is no such limit."""

    rank: tuple[float, str] | None  # (-score, id) of the last pair that the method chooses
    draw: str | None  # `draw_key` of the last pair that `max_pairs` draws

    @classmethod
    def of(cls, rank: Sequence[Any] | None, draw: str | None) -> Edge:
        """An edge from the values that a JSON file holds."""
        return cls((rank[0], rank[1]) if rank else None, draw)


def is_chosen(candidate: str, score: float, settings: SelectionSettings, edge: Edge) -> bool:
    """True for an eligible pair that is selected.

    Ties are broken by id, so that the choice never depends on the order of the rows. A larger draw
    has every pair of a smaller one.
    """
    if settings.method == "threshold" and score < settings.k:
        return False
    if edge.rank is not None and (-score, candidate) > edge.rank:
        return False
    return edge.draw is None or draw_key(candidate) <= edge.draw


def draw_key(candidate: str) -> str:
    """The place of a pair in the order of the draw."""
    return hashlib.sha256(candidate.encode()).hexdigest()


def refuse_none(
    num_chosen: int, num_eligible: int, scores: Sequence[float], settings: SelectionSettings
) -> None:
    """Refuse a selection without pairs.

    Args:
        scores: the lowest and the highest one among them.

    Raises:
        UserError: nothing is chosen, with the scores there are and the ways out.
    """
    if not num_eligible:
        raise UserError("no pair has a score, so none can be selected; see the rating's outcomes")
    if not num_chosen:
        rule = {"threshold": f"k = {settings.k}", "share": f"share = {settings.share}"}
        raise UserError(
            f"none of the {num_eligible} rated pairs is selected by {rule[settings.method]}: "
            f"scores run from {min(scores):.2f} to {max(scores):.2f}; lower settings.selection.k, "
            "or set settings.selection.method to best or share"
        )
