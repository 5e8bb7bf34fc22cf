"""Figures with their 95% intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95
NUM_RESAMPLES = 2000


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


def weighted_mean(values: Sequence[float], weights: Sequence[float]) -> Estimate | None:
    """The weighted mean, with the interval of a bootstrap over the values; None out of none.

    The draws are the same ones each time. One value alone has no interval.
    """
    import numpy as np

    if not values:
        return None
    x, w = np.asarray(values, float), np.asarray(weights, float)
    n, mean = len(x), float((x * w).sum() / w.sum())
    if n == 1:
        return Estimate(mean, 1)
    drawn = np.random.default_rng(0).integers(0, n, (NUM_RESAMPLES, n))
    means = (x[drawn] * w[drawn]).sum(axis=1) / w[drawn].sum(axis=1)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Estimate(mean, n, float(low), float(high))
