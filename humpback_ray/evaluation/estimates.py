"""Figures with their 95% intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

CONFIDENCE = 0.95
# Standard errors on each side of a figure whose error is normal.
Z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95% interval; no interval where nothing says how sure it is."""

    value: float
    n: int
    low: float | None = None
    high: float | None = None


def share_of(num_hits: int, n: int) -> Estimate | None:
    """A share with Wilson's interval, which holds for few cases too; None out of none."""
    from scipy.stats import binomtest

    if not n:
        return None
    interval = binomtest(num_hits, n).proportion_ci(CONFIDENCE, method="wilson")
    return Estimate(num_hits / n, n, float(interval.low), float(interval.high))


def weighted_mean(
    values: Sequence[float],
    weights: Sequence[float] | None = None,
    limits: tuple[float, float] = (-math.inf, math.inf),
) -> Estimate | None:
    """The mean of values, each with its weight, and its bootstrap interval; None without weight.

    One value without limits has no interval.

    Args:
        weights: None: all are equal.
        limits: the least and the greatest value that is possible.
    """
    import numpy as np

    from humpback_ray.evaluation.bootstrap import mean_interval

    x = np.asarray(values, float)
    w = np.ones(len(x)) if weights is None else np.asarray(weights, float)
    x, w = x[w > 0], w[w > 0]
    if not len(x):
        return None
    interval = mean_interval(x, limits, w)
    return estimate(float((x * w).sum() / w.sum()), len(x), interval.low, interval.high)


def estimate(value: float, n: int, low: float, high: float) -> Estimate:
    """A figure with its interval; without one where the bounds are infinite."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return Estimate(value, n)
    return Estimate(value, n, low, high)
