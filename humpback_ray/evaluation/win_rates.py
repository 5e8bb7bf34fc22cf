"""From preferences to win rates: a prompt is the unit of every figure and of every interval.

A *preference* is a judge's liking for the first of two models, from 0 to 1, where 0.5 is a tie.
Both orders of a prompt's answers make one *score*, their mean, so that a judge's liking for a place
cancels out and no interval counts a prompt twice. A bootstrap that draws single verdicts would: two
orders of one prompt agree mostly, and its intervals come out too narrow.

Rates, differences, errors and limits of intervals are in percent, from 0 to 100.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from humpback_ray.evaluation.bootstrap import (
    NUM_DRAWS,
    Floats,
    Interval,
    mean_interval,
    quantile_interval,
    resample_weights,
)
from humpback_ray.evaluation.estimates import CONFIDENCE

POWER = 0.8
# A score from fewer prompts is a rump's: what was not judged may be what was hard to judge.
REQUIRED_JUDGED_SHARE = 0.99
MAX_NEWTON_STEPS = 100
NEWTON_TOLERANCE = 1e-10
LONGEST_STEP = 2.0  # logits, of one step of Newton's method
# Keeps both coefficients finite where every prompt is won; it weighs a thousandth of a prompt.
RIDGE = 1e-3
LENGTH_CONTROLLED_MINIMAL = (
    "length_controlled_minimal: sigmoid(a) of the fit preference = sigmoid(a + b tanh(d)), where d "
    "is the difference of the two answers' characters over its standard deviation"
)


# --- scores of prompts ----------------------------------------------------------------------------


def prompt_scores(preferences: ArrayLike) -> Floats:
    """The score of each prompt, the mean of its two orders; NaN where one of them is missing.

    One order alone would bring the judge's liking for a place into the score.

    Args:
        preferences: (prompts, orders), each from 0 to 1, NaN for no verdict.

    Returns:
        (prompts,)
    """
    return np.asarray(preferences, np.float64).mean(axis=1)


def order_disagreement(preferences: ArrayLike) -> float | None:
    """The share of prompts whose two orders name different winners; a tie is a third winner.

    None without a prompt that has both orders.
    """
    both = np.asarray(preferences, np.float64)
    winners = np.sign(both[~np.isnan(both).any(axis=1)] - 0.5)
    return float((winners[:, 0] != winners[:, 1]).mean()) if len(winners) else None


# --- one figure with its interval -----------------------------------------------------------------


def is_enough_judged(num_judged: int, num_prompts: int) -> bool:
    """True if so many judged prompts give a score."""
    return 0 < num_judged >= REQUIRED_JUDGED_SHARE * num_prompts


@dataclass(frozen=True)
class WinRate:
    """The share of judged prompts that a model wins against its opponent, in percent."""

    win_rate: float
    standard_error: float  # the sample's standard deviation over the root of the number of prompts
    interval: Interval
    num_prompts: int
    num_judged: int  # prompts with a verdict in both orders; the other figures are about these
    num_wins: int
    num_losses: int
    num_draws: int

    @property
    def discrete_win_rate(self) -> float:
        """The percentage of prompts won, where each counts as won, lost, or half for a draw."""
        return 100 * (self.num_wins + self.num_draws / 2) / self.num_judged

    @property
    def is_complete(self) -> bool:
        """True if enough of the prompts are judged for a score."""
        return is_enough_judged(self.num_judged, self.num_prompts)


def win_rate(scores: ArrayLike, seed: int = 0, num_draws: int = NUM_DRAWS) -> WinRate | None:
    """The win rate over prompts; None without a judged prompt.

    Args:
        scores: (prompts,) of `prompt_scores`.
        seed: of the bootstrap.
    """
    given = np.asarray(scores, np.float64)
    judged = _judged(given)
    if not len(judged):
        return None
    return WinRate(
        win_rate=100 * float(judged.mean()),
        standard_error=100 * _standard_error(judged),
        interval=_percent(mean_interval(judged, (0.0, 1.0), None, seed, num_draws)),
        num_prompts=len(given),
        num_judged=len(judged),
        num_wins=int((judged > 0.5).sum()),
        num_losses=int((judged < 0.5).sum()),
        num_draws=int((judged == 0.5).sum()),
    )


@dataclass(frozen=True)
class Difference:
    """One model's win rate less another's against the same opponent, in percentage points."""

    difference: float
    standard_error: float
    interval: Interval
    num_prompts: int  # judged for both


def paired_difference(
    scores: ArrayLike, others: ArrayLike, seed: int = 0, num_draws: int = NUM_DRAWS
) -> Difference | None:
    """The difference of two models on the same prompts; None without a prompt judged for both.

    What makes a prompt easy for both models cancels out, so the interval is narrower than that of
    two separate samples (Miller, arXiv 2411.00640).
    """
    pairs = _judged(np.asarray(scores, np.float64) - np.asarray(others, np.float64))
    if not len(pairs):
        return None
    return Difference(
        100 * float(pairs.mean()),
        100 * _standard_error(pairs),
        _percent(mean_interval(pairs, (-1.0, 1.0), None, seed, num_draws)),
        len(pairs),
    )


def smallest_difference(standard_error: float) -> float:
    """The true difference that a 95% interval tells from none in four of five evaluations.

    (Miller, arXiv 2411.00640.)

    Args:
        standard_error: of the measured difference; the result has its units.
    """
    z = stats.norm.ppf(1 - (1 - CONFIDENCE) / 2) + stats.norm.ppf(POWER)
    return float(z * standard_error)


def _judged(scores: Floats) -> Floats:
    return scores[~np.isnan(scores)]


def _standard_error(values: Floats) -> float:
    return float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.inf


def _percent(interval: Interval) -> Interval:
    return Interval(100 * interval.low, 100 * interval.high)


# --- length ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LengthControlled:
    """The win rate, in percent, as it would be if both models' answers were equally long."""

    win_rate: float
    standard_error: float  # of the bootstrap
    interval: Interval
    formula: str = LENGTH_CONTROLLED_MINIMAL


def length_controlled(
    scores: ArrayLike,
    lengths: ArrayLike,
    opponent_lengths: ArrayLike,
    seed: int = 0,
    num_draws: int = NUM_DRAWS,
) -> LengthControlled | None:
    """The length-controlled win rate by the minimal formula; None with fewer than two prompts.

    AlpacaEval's own formula has a term for the difficulty of each of its 805 prompts, so it fits no
    other prompts. The minimal one leaves that term out, and the games of answers that were written
    to deceive the judge. Here the fit is by maximum likelihood, and not by a penalty that
    cross-validation chooses. Its interval is a bootstrap over prompts, each draw with its own fit.

    Args:
        scores: (prompts,) of `prompt_scores`.
        lengths: (prompts,) characters of the model's answers.
        opponent_lengths: (prompts,) characters of its opponent's.
    """
    given = np.asarray(scores, np.float64)
    is_judged = ~np.isnan(given)
    judged = given[is_judged]
    if len(judged) < 2:
        return None
    longer = np.asarray(lengths, np.float64) - np.asarray(opponent_lengths, np.float64)
    delta = longer[is_judged]
    spread = float(delta.std(ddof=1))
    # Where all differences are equal there is nothing to tell length from quality by.
    feature = np.tanh(delta / spread) if spread else np.zeros(len(delta))
    weights = resample_weights(len(judged), num_draws, seed)
    whole = np.ones((1, len(judged)))
    rate = 100 * sigmoid(_fit_intercepts(judged, feature, whole))
    rates = 100 * sigmoid(_fit_intercepts(judged, feature, weights))
    return LengthControlled(
        float(rate[0]), float(rates.std(ddof=1)), quantile_interval(rates, len(judged))
    )


def _fit_intercepts(scores: Floats, feature: Floats, weights: Floats) -> Floats:
    """The intercepts of weighted logistic fits to shares, by Newton's method on all at once.

    Args:
        scores: (prompts,) from 0 to 1.
        feature: (prompts,)
        weights: (fits, prompts)
    """
    a = np.zeros(len(weights))
    b = np.zeros(len(weights))
    squared = feature**2
    for _ in range(MAX_NEWTON_STEPS):
        chances = sigmoid(a[:, None] + b[:, None] * feature)  # (fits, prompts)
        errors = weights * (scores - chances)
        certainty = weights * chances * (1 - chances)
        slope_a = errors.sum(1) - RIDGE * a
        slope_b = errors @ feature - RIDGE * b
        aa, ab, bb = certainty.sum(1) + RIDGE, certainty @ feature, certainty @ squared + RIDGE
        determinant = aa * bb - ab**2
        step_a = (bb * slope_a - ab * slope_b) / determinant
        step_b = (aa * slope_b - ab * slope_a) / determinant
        a += np.clip(step_a, -LONGEST_STEP, LONGEST_STEP)
        b += np.clip(step_b, -LONGEST_STEP, LONGEST_STEP)
        if max(np.abs(step_a).max(), np.abs(step_b).max()) < NEWTON_TOLERANCE:
            break
    return a


def sigmoid(logits: Floats) -> Floats:
    """The chance of a logit."""
    return 0.5 * (1 + np.tanh(logits / 2))  # overflows nowhere


# --- a game's figures -----------------------------------------------------------------------------


def game_figures(
    preferences: ArrayLike, lengths: ArrayLike, opponent_lengths: ArrayLike, seed: int = 0
) -> dict[str, Any]:
    """The figures of one game as a record has them; no score where too few prompts are judged.

    Args:
        preferences: (prompts, orders), NaN for no verdict.
        lengths: (prompts,) characters of the model's answers.
        opponent_lengths: (prompts,) characters of the opponent's.
    """
    scores = prompt_scores(preferences)
    rate = win_rate(scores, seed)
    figures: dict[str, Any] = {
        "win_rate": None, "standard_error": None, "low": None, "high": None,
        "discrete_win_rate": None, "num_wins": None, "num_losses": None, "num_draws": None,
        "num_prompts": len(scores), "num_judged": rate.num_judged if rate else 0,
        "order_disagreement": order_disagreement(preferences),
        "length_controlled_win_rate": None, "length_controlled_standard_error": None,
        "length_controlled_low": None, "length_controlled_high": None,
        "formula": LENGTH_CONTROLLED_MINIMAL,
    }  # fmt: skip
    if rate is None or not rate.is_complete:
        return figures
    figures |= {
        "win_rate": rate.win_rate, "standard_error": finite(rate.standard_error),
        "low": rate.interval.low, "high": rate.interval.high,
        "discrete_win_rate": rate.discrete_win_rate, "num_wins": rate.num_wins,
        "num_losses": rate.num_losses, "num_draws": rate.num_draws,
    }  # fmt: skip
    if controlled := length_controlled(scores, lengths, opponent_lengths, seed):
        figures |= {
            "length_controlled_win_rate": controlled.win_rate,
            "length_controlled_standard_error": controlled.standard_error,
            "length_controlled_low": controlled.interval.low,
            "length_controlled_high": controlled.interval.high,
        }
    return figures


def finite(value: float) -> float | None:
    """The value for a record; None for what JSON does not have."""
    return value if math.isfinite(value) else None
