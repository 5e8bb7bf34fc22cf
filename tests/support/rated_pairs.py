"""Rated pairs of numbered segments."""

from __future__ import annotations

from humpback_ray.rows import RatedPair, RatingOutcome


def pair(segment: int, candidate: int, score: float | None) -> RatedPair:
    """A candidate of a segment with its score; None: the rating has failed."""
    outcome = RatingOutcome.EMPTY if score is None else RatingOutcome.SCORED
    name = f"s{segment}-{candidate}"
    return RatedPair(
        name, f"s{segment}", f"x of {name}", f"y of s{segment}", score, None, None,
        int(score is not None), outcome, "", False, 9, 0, 1,
    )  # fmt: skip
