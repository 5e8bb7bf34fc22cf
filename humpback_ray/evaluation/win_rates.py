"""From preferences to win rates: a prompt is the unit of every figure and of every interval.

A *preference* is a judge's liking for the first of two models, from 0 to 1, where 0.5 is a tie.
Both orders of a prompt's answers make one *score*, their mean, so that a judge's liking for a place
cancels out and no interval counts a prompt twice. A bootstrap that draws single verdicts would: two
orders of one prompt agree mostly, and its intervals come out too narrow.

Rates, differences, errors and limits of intervals are in percent, from 0 to 100.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Floats = NDArray[np.float64]

NUM_DRAWS = 2000
CONFIDENCE = 0.95
POWER = 0.8
# A score from fewer prompts is a rump's: what was not judged may be what was hard to judge.
REQUIRED_JUDGED_SHARE = 0.99
# Added to both sides of a game, so that a model that wins every prompt has a finite strength.
HALF_A_WIN = 0.5
# Scores so near to a win, or to a loss, say no more than a win or a loss.
ALMOST_SURE = 0.01
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


@dataclass(frozen=True)
class Interval:
    """The 95% interval of a figure, in the figure's units."""

    low: float
    high: float


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
        return self.num_judged >= REQUIRED_JUDGED_SHARE * self.num_prompts


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
        interval=_percent(mean_interval(judged, (0.0, 1.0), seed, num_draws)),
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
        _percent(mean_interval(pairs, (-1.0, 1.0), seed, num_draws)),
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


def mean_interval(
    values: Floats, limits: tuple[float, float], seed: int = 0, num_draws: int = NUM_DRAWS
) -> Interval:
    """The interval of a mean by bootstrap over the values.

    Args:
        values: (n,), one of each prompt.
        limits: the least and the greatest value that is possible.
    """
    least, greatest = limits
    if len(values) < 2:
        return Interval(least, greatest)
    # No draw shows what no prompt has shown. Where all prompts are won, the bound is that of an
    # exact binomial interval: with a lower rate the chance to see no loss would be below 2.5%.
    width = greatest - least
    unseen = width * (1 - ((1 - CONFIDENCE) / 2) ** (1 / len(values)))
    if values.min() > greatest - width * ALMOST_SURE:
        return Interval(greatest - unseen, greatest)
    if values.max() < least + width * ALMOST_SURE:
        return Interval(least, least + unseen)
    means = resample_weights(len(values), num_draws, seed) @ values / len(values)
    return quantile_interval(means, len(values))


def quantile_interval(draws: Floats, num_prompts: int) -> Interval:
    """The interval between two quantiles of bootstrap draws, wider for few prompts.

    The plain 2.5% and 97.5% quantiles are too narrow for a small sample, as a normal quantile in
    place of Student's t is (Hesterberg's "expanded percentile" interval, arXiv 1411.5279).
    """
    n = num_prompts
    tail = stats.norm.cdf(-math.sqrt(n / (n - 1)) * stats.t.ppf(0.5 + CONFIDENCE / 2, n - 1))
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Interval(float(low), float(high))


@lru_cache(maxsize=4)
def resample_weights(num_prompts: int, num_draws: int = NUM_DRAWS, seed: int = 0) -> Floats:
    """Counts of each prompt in each draw of a bootstrap.

    The same prompts, seed and number of draws give the same draws, so figures of several games over
    one set of prompts stay paired.

    Returns:
        (draws, prompts); every row adds up to the number of prompts.
    """
    random = np.random.default_rng(seed)
    taken = random.integers(0, num_prompts, (num_draws, num_prompts))
    rows = np.arange(num_draws)[:, None] * num_prompts
    counts = np.bincount((taken + rows).ravel(), minlength=num_draws * num_prompts)
    weights = counts.reshape(num_draws, num_prompts).astype(np.float64)
    weights.setflags(write=False)
    return weights


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
    rate = 100 * _sigmoid(_fit_intercepts(judged, feature, whole))
    rates = 100 * _sigmoid(_fit_intercepts(judged, feature, weights))
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
        chances = _sigmoid(a[:, None] + b[:, None] * feature)  # (fits, prompts)
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


def _sigmoid(logits: Floats) -> Floats:
    return 0.5 * (1 + np.tanh(logits / 2))  # overflows nowhere


# --- strengths ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Strength:
    """A model's Bradley-Terry strength: the logit of its chance against a model of strength 0."""

    model: str
    strength: float
    interval: Interval


def bradley_terry(
    games: Mapping[tuple[str, str], ArrayLike],
    zero: str,
    seed: int = 0,
    num_draws: int = NUM_DRAWS,
) -> list[Strength]:
    """The strengths of all models that games connect with the model `zero`, strongest first.

    A tie is half a win for either side. Every game gets half a win for both sides in addition.

    Args:
        games: scores of `prompt_scores` by (model, opponent), over the same prompts.
        zero: the model whose strength is 0.
    """
    tables = {pair: np.asarray(scores, np.float64) for pair, scores in games.items()}
    played = {pair: scores for pair, scores in tables.items() if not np.isnan(scores).all()}
    models = _connected(list(played), zero)
    if len(models) < 2:
        return []
    places = {model: place for place, model in enumerate(models)}
    between = {
        (places[model], places[opponent]): scores
        for (model, opponent), scores in played.items()
        if model in places
    }
    num_prompts = len(next(iter(between.values())))
    whole = _strengths(between, len(models), np.ones((1, num_prompts)))[0]
    weights = resample_weights(num_prompts, num_draws, seed)
    draws = _strengths(between, len(models), weights)
    rows = [
        Strength(model, float(whole[at]), _interval_of_strength(draws[:, at], num_prompts))
        for model, at in places.items()
    ]
    return sorted(rows, key=lambda row: -row.strength)


def _interval_of_strength(draws: Floats, num_prompts: int) -> Interval:
    if num_prompts < 2:
        return Interval(-math.inf, math.inf)
    return quantile_interval(draws, num_prompts)


def _connected(pairs: Sequence[tuple[str, str]], zero: str) -> list[str]:
    """The models that a chain of games connects with the first one, which comes first."""
    reached = [zero]
    for model in reached:
        for pair in pairs:
            if model in pair:
                reached += [other for other in pair if other not in reached]
    return reached


def _strengths(games: Mapping[tuple[int, int], Floats], num_models: int, weights: Floats) -> Floats:
    """(draws, models) strengths by Newton's method on all draws at once; model 0 has strength 0."""
    wins = np.zeros((len(weights), num_models, num_models))  # [d, i, j]: wins of i over j
    for (i, j), scores in games.items():
        is_judged = ~np.isnan(scores)
        filled = np.where(is_judged, scores, 0.0)
        won = weights @ filled
        wins[:, i, j] += won + HALF_A_WIN
        wins[:, j, i] += weights @ is_judged.astype(np.float64) - won + HALF_A_WIN
    num_games = wins + wins.transpose(0, 2, 1)
    strengths = np.zeros((len(weights), num_models))
    for _ in range(MAX_NEWTON_STEPS):
        chances = _sigmoid(strengths[:, :, None] - strengths[:, None, :])
        slopes = (wins - num_games * chances).sum(2)[:, 1:]
        between = num_games * chances * (1 - chances)
        curvature = between.sum(2)[:, :, None] * np.eye(num_models) - between
        steps = np.linalg.solve(curvature[:, 1:, 1:], slopes[:, :, None])[:, :, 0]
        strengths[:, 1:] += np.clip(steps, -LONGEST_STEP, LONGEST_STEP)
        if np.abs(steps).max() < NEWTON_TOLERANCE:
            break
    return strengths


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
        "win_rate": rate.win_rate, "standard_error": _finite(rate.standard_error),
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


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
