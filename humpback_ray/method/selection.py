"""Self-curation: which rated pairs become A_k."""

from __future__ import annotations

import math
from collections.abc import Sequence

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


def select(scored: Sequence[tuple[str, float]], settings: SelectionSettings) -> set[str]:
    """Ids of the selected pairs, out of (candidate_id, score) of all pairs with a score.

    `threshold` takes every pair of at least k (paper: A_5 is score >= 4.5), `best` and `share` the
    highest scores, ties broken by id so that the choice never depends on the order of the rows.

    Raises:
        UserError: nothing is left, with the scores there are and the ways out.
    """
    if not scored:
        raise UserError("no pair has a score, so none can be selected; see the rating's outcomes")
    ranked = sorted(scored, key=lambda pair: (-pair[1], pair[0]))
    if settings.method == "threshold":
        chosen = [pair for pair in ranked if pair[1] >= settings.k]
    elif settings.method == "best":
        chosen = ranked[: settings.num_best]
    else:
        chosen = ranked[: round(settings.share * len(ranked))]
    if not chosen:
        rule = {"threshold": f"k = {settings.k}", "share": f"share = {settings.share}"}
        raise UserError(
            f"none of the {len(ranked)} rated pairs is selected by {rule[settings.method]}: scores "
            f"run from {ranked[-1][1]:.2f} to {ranked[0][1]:.2f}; lower settings.selection.k, or "
            "set settings.selection.method to best or share"
        )
    return {pair[0] for pair in chosen}
