"""Self-curation: which rated pairs become A_k."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence

from humpback_ray.config.settings import SelectionSettings
from humpback_ray.errors import UserError

SHOWN_SHARES = (0.01, 0.05, 0.10, 0.25)  # of the pairs, whose thresholds a record tells


def thresholds(scores: Sequence[float]) -> dict[str, float]:
    """The k at which `threshold` selects each of some shares of the pairs, or more where tied.

    Rounded down to four decimals, so that a k copied from a record loses no pair.
    """
    ranked = sorted(scores, reverse=True)
    return {
        f"{share:.0%}": math.floor(ranked[max(round(share * len(ranked)), 1) - 1] * 1e4) / 1e4
        for share in SHOWN_SHARES
        if ranked
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


def select(scored: Sequence[tuple[str, float]], settings: SelectionSettings) -> set[str]:
    """Ids of the selected pairs, out of (candidate_id, score) of all eligible pairs.

    `threshold` takes every pair of at least k (paper: A_5 is score >= 4.5), `best` and `share` the
    highest scores, ties broken by id so that the choice never depends on the order of the rows.
    `max_pairs` draws some of them; a larger draw has every pair of a smaller one.

    Raises:
        UserError: nothing is left, with the scores there are and the ways out.
    """
    if not scored:
        raise UserError("no pair has a score, so none can be selected; see the rating's outcomes")
    ranked = sorted(scored, key=lambda pair: (-pair[1], pair[0]))
    chosen = ranked[: num_chosen(ranked, settings)]
    if not chosen:
        rule = {"threshold": f"k = {settings.k}", "share": f"share = {settings.share}"}
        raise UserError(
            f"none of the {len(ranked)} rated pairs is selected by {rule[settings.method]}: scores "
            f"run from {ranked[-1][1]:.2f} to {ranked[0][1]:.2f}; lower settings.selection.k, or "
            "set settings.selection.method to best or share"
        )
    ids = [name for name, _ in chosen]
    return set(sorted(ids, key=_draw_key)[: settings.max_pairs])


def num_chosen(scored: Sequence[tuple[str, float]], settings: SelectionSettings) -> int:
    """Number of pairs that the method chooses, before `max_pairs` draws some of them."""
    if settings.method == "threshold":
        return sum(score >= settings.k for _, score in scored)
    if settings.method == "best":
        return min(settings.num_best, len(scored))
    return len(scored) if settings.method == "all" else round(settings.share * len(scored))


def _draw_key(candidate_id: str) -> str:
    return hashlib.sha256(candidate_id.encode()).hexdigest()
