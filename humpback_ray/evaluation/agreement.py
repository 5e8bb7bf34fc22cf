"""Agreement of raters, and the win rate of a judge corrected for its errors.

A figure is None where the data do not determine it. Every interval covers 95%. Bootstraps resample
items, because the ratings of one item depend on each other.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from humpback_ray.evaluation.bootstrap import quantile_interval, resample_weights
from humpback_ray.evaluation.estimates import Estimate, Z, estimate, share_of

# --- raters among themselves ----------------------------------------------------------------------


def krippendorff_alpha(
    ratings: Sequence[Sequence[Hashable]], random_seed: int = 0
) -> Estimate | None:
    """Krippendorff's alpha for nominal values, with a bootstrap interval over items.

    1 is perfect agreement, 0 what chance gives. Items with fewer than two values say nothing about
    agreement and are left out. Alpha is undefined if all raters give one and the same value.
    (Krippendorff 2011, Computing Krippendorff's Alpha-Reliability.)

    Args:
        ratings: for each item the values that raters gave, in any order.
    """
    paired = [values for values in ratings if len(values) > 1]
    if not paired:
        return None
    names = {value: n for n, value in enumerate(dict.fromkeys(v for item in paired for v in item))}
    counts = np.zeros((len(paired), len(names)))  # (items, values)
    for number, values in enumerate(paired):
        for value in values:
            counts[number, names[value]] += 1
    every_item_once = np.ones((1, len(paired)))
    (alpha,) = _alphas(counts, every_item_once)
    if math.isnan(alpha):
        return None
    # A draw of items that all have one value gives no alpha.
    alphas = _alphas(counts, resample_weights(len(paired), seed=random_seed))
    interval = quantile_interval(alphas, len(paired))
    return estimate(float(alpha), len(paired), interval.low, interval.high)


def _alphas(counts: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Alpha for each row of weights; NaN where one value alone occurs.

    Args:
        counts: (items, values), how many raters gave the item this value.
        weights: (draws, items), how often each draw has the item.
    """
    num_ratings = counts.sum(axis=1)
    # Pairs of raters who disagree on an item; each rating has a total weight of 1.
    disagreement = (num_ratings**2 - (counts**2).sum(axis=1)) / (num_ratings - 1)
    total = weights @ num_ratings
    expected = (total**2 - ((weights @ counts) ** 2).sum(axis=1)) / (total - 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(expected > 0, 1 - (weights @ disagreement) / expected, np.nan)


def self_consistency(twice: Sequence[tuple[Hashable, Hashable]]) -> Estimate | None:
    """The share of repeated items that got the same value both times."""
    return share_of(sum(first == second for first, second in twice), len(twice))


def left_share(choices: Sequence[str]) -> Estimate | None:
    """The share of `left` among votes for one side; sides are drawn, so 0.5 is unbiased."""
    decided = [choice for choice in choices if choice in ("left", "right")]
    return share_of(decided.count("left"), len(decided))


@dataclass(frozen=True)
class Pace:
    """Seconds per vote, and the number of votes that came too fast to have been read for."""

    median_seconds: float | None
    floor_seconds: float
    num_below_floor: int
    num_votes: int


def pace(seconds: Sequence[float], floor_seconds: float) -> Pace:
    """Seconds per vote. Votes below the floor are counted, not dropped."""
    below = sum(value < floor_seconds for value in seconds)
    return Pace(median(seconds) if seconds else None, floor_seconds, below, len(seconds))


# --- a judge against people -----------------------------------------------------------------------


@dataclass(frozen=True)
class JudgeErrors:
    """A judge's verdicts on pairs that people decided."""

    num_wins: int  # pairs that the model wins by people
    num_wins_seen: int  # of these, the judge says so too
    num_losses: int
    num_losses_seen: int

    @property
    def agreement(self) -> Estimate | None:
        """The share of pairs on which the judge and people agree."""
        seen = self.num_wins_seen + self.num_losses_seen
        return share_of(seen, self.num_wins + self.num_losses)


def judge_errors(wins: Sequence[tuple[bool, bool]]) -> JudgeErrors:
    """The errors of a judge on pairs as (the model wins by people, the model wins by the judge)."""
    by_judge = {True: [j for h, j in wins if h], False: [j for h, j in wins if not h]}
    return JudgeErrors(
        num_wins=len(by_judge[True]),
        num_wins_seen=sum(by_judge[True]),
        num_losses=len(by_judge[False]),
        num_losses_seen=len(by_judge[False]) - sum(by_judge[False]),
    )


@dataclass(frozen=True)
class CorrectedRate:
    """A judge's win rate as it is and corrected, as shares; `problem` says why there is none."""

    raw: Estimate | None
    corrected: Estimate | None
    errors: JudgeErrors
    problem: str = ""


def corrected_rate(num_wins: int, num_judged: int, errors: JudgeErrors) -> CorrectedRate:
    """The win rate that people would give, estimated from a judge's and the judge's errors.

    The estimate is Rogan and Gladen's, clipped to [0, 1]:
    (rate + specificity - 1) / (sensitivity + specificity - 1). The interval is Lang and
    Reiczigel's, which carries the uncertainty of the judged pairs and of the pairs that people
    decided. (Lang and Reiczigel 2014, Confidence limits for prevalence of disease adjusted for
    estimated sensitivity and specificity; for judges: arXiv 2511.21140.)
    """
    raw = share_of(num_wins, num_judged)
    if raw is None:
        return CorrectedRate(raw, None, errors, "the judge decided no pair")
    if errors.num_wins == 0 or errors.num_losses == 0:
        missing = "wins" if errors.num_wins == 0 else "loses"
        return CorrectedRate(raw, None, errors, f"no judged pair that the model {missing} by "
                             "people, so an error rate of the judge is unknown")  # fmt: skip
    sensitivity = errors.num_wins_seen / errors.num_wins
    specificity = errors.num_losses_seen / errors.num_losses
    if sensitivity + specificity <= 1:
        return CorrectedRate(raw, None, errors, "the judge agrees with people no better than "
                             "chance")  # fmt: skip
    value = _unit((raw.value + specificity - 1) / (sensitivity + specificity - 1))
    low, high = _lang_reiczigel(num_wins, num_judged, errors)
    # The interval's centre is another estimate, so for few labels it might miss this one.
    corrected = Estimate(value, num_judged, min(low, value), max(high, value))
    return CorrectedRate(raw, corrected, errors)


def _lang_reiczigel(num_wins: int, num_judged: int, errors: JudgeErrors) -> tuple[float, float]:
    n, n1, n0 = num_judged + Z**2, errors.num_wins + 2, errors.num_losses + 2
    rate = (num_wins + Z**2 / 2) / n
    sensitivity, specificity = (errors.num_wins_seen + 1) / n1, (errors.num_losses_seen + 1) / n0
    strength = sensitivity + specificity - 1
    value = (rate + specificity - 1) / strength
    from_sensitivity = sensitivity * (1 - sensitivity) / n1
    from_specificity = specificity * (1 - specificity) / n0
    shift = 2 * Z**2 * (value * from_sensitivity - (1 - value) * from_specificity)
    variance = (
        rate * (1 - rate) / n + value**2 * from_sensitivity + (1 - value) ** 2 * from_specificity
    )
    half = Z * math.sqrt(variance) / strength
    return _unit(value + shift - half), _unit(value + shift + half)


def _unit(value: float) -> float:
    return min(max(value, 0.0), 1.0)
