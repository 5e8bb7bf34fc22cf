"""Intervals by bootstrap: one rule for win rates, losses, strengths and agreement.

The *units* are what could have been others: prompts, pairs, items. A draw takes as many units as
there are, with repetitions, and the interval of a figure lies between two quantiles of its values
over the draws.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from humpback_ray.evaluation.estimates import CONFIDENCE

Floats = NDArray[np.float64]

NUM_DRAWS = 2000
UNLIMITED = (-math.inf, math.inf)
# A value so near to an end of what is possible, in shares of the whole, counts as that end.
ALMOST_AT_END = 0.01


@dataclass(frozen=True)
class Interval:
    """The 95% interval of a figure, in the figure's units; infinite where nothing limits it."""

    low: float
    high: float


def mean_interval(
    values: Floats,
    limits: tuple[float, float] = UNLIMITED,
    weights: Floats | None = None,
    seed: int = 0,
    num_draws: int = NUM_DRAWS,
) -> Interval:
    """The interval of a mean.

    Args:
        values: (n,), one of each unit.
        limits: the least and the greatest value that is possible.
        weights: (n,) above 0, of a weighted mean; None: all are equal.
    """
    least, greatest = limits
    if len(values) < 2:
        return Interval(least, greatest)
    width = greatest - least
    if math.isfinite(width):
        # No draw shows what no unit has shown. Where all prompts are won, the bound is that of an
        # exact binomial interval: with a lower rate the chance to see no loss would be below 2.5%.
        unseen = width * (1 - ((1 - CONFIDENCE) / 2) ** (1 / len(values)))
        if values.min() > greatest - width * ALMOST_AT_END:
            return Interval(greatest - unseen, greatest)
        if values.max() < least + width * ALMOST_AT_END:
            return Interval(least, least + unseen)
    draws = resample_weights(len(values), num_draws, seed)
    of_unit = np.ones(len(values)) if weights is None else weights
    return quantile_interval(draws @ (of_unit * values) / (draws @ of_unit), len(values))


def quantile_interval(draws: Floats, num_units: int) -> Interval:
    """The interval between two quantiles of a figure's values over draws, wider for few units.

    The plain 2.5% and 97.5% quantiles are too narrow for a small sample, as a normal quantile in
    place of Student's t is (Hesterberg's "expanded percentile" interval, arXiv 1411.5279).

    Args:
        draws: NaN where a draw has no such figure.
    """
    n = num_units
    if n < 2:
        return Interval(*UNLIMITED)
    tail = stats.norm.cdf(-math.sqrt(n / (n - 1)) * stats.t.ppf(0.5 + CONFIDENCE / 2, n - 1))
    low, high = np.nanquantile(draws, [tail, 1 - tail])
    return Interval(float(low), float(high))


@lru_cache(maxsize=4)
def resample_weights(num_units: int, num_draws: int = NUM_DRAWS, seed: int = 0) -> Floats:
    """Counts of each unit in each draw.

    The same units, seed and number of draws give the same draws, so figures of several games over
    one set of prompts stay paired.

    Returns:
        (draws, units); every row adds up to the number of units.
    """
    random = np.random.default_rng(seed)
    taken = random.integers(0, num_units, (num_draws, num_units))
    # One count for all draws is ten times as fast as numpy's multinomial.
    rows = np.arange(num_draws)[:, None] * num_units
    counts = np.bincount((taken + rows).ravel(), minlength=num_draws * num_units)
    weights = counts.reshape(num_draws, num_units).astype(np.float64)
    weights.setflags(write=False)
    return weights
