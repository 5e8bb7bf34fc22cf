"""Paired differences with standard errors by clusters, Holm's correction, combined seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from humpback_ray.evaluation.win_rates import smallest_difference

ALPHA = 0.05


@dataclass(frozen=True)
class Mean:
    """A mean of questions in percentage points, with a standard error by clusters."""

    value: float
    standard_error: float
    n: int  # questions
    num_clusters: int

    @property
    def p_above_zero(self) -> float:
        """One-sided p of the hypothesis that the true mean is zero or less."""
        if self.num_clusters < 2:
            return 1.0
        if self.standard_error == 0:
            return 0.0 if self.value > 0 else 1.0
        return float(stats.t.sf(self.value / self.standard_error, self.num_clusters - 1))

    @property
    def smallest_visible(self) -> float:
        """The true difference that such a comparison shows in four of five repetitions."""
        return smallest_difference(self.standard_error)


def clustered_mean(values: ArrayLike, clusters: Sequence[str]) -> Mean:
    """The mean of values, whose standard error lets values of one cluster move together.

    (Miller, arXiv 2411.00640: questions about one entity are right or wrong together.)

    Args:
        values: (n,); differences of two models on the same questions, or right (1) and wrong (0).
        clusters: n names.
    """
    x = 100 * np.asarray(values, np.float64)
    n = len(x)
    if not n:
        return Mean(math.nan, math.inf, 0, 0)
    _, of = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)
    sums = np.bincount(of, weights=x - x.mean())
    k = len(sums)
    error = math.inf if k < 2 else math.sqrt(k / (k - 1) * float((sums**2).sum())) / n
    return Mean(float(x.mean()), error, n, k)


def over_seeds(means: Sequence[Mean]) -> Mean:
    """The mean of seeds' figures, whose standard error is that between seeds.

    A seed is one world and one training, so this is the error that a user's next run has.
    """
    values = np.array([each.value for each in means], np.float64)
    k = len(values)
    error = math.inf if k < 2 else float(values.std(ddof=1)) / math.sqrt(k)
    return Mean(float(values.mean()), error, sum(each.n for each in means), k)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """P-values after Holm's correction: the chance of any false claim stays ALPHA."""
    ranked = sorted(p_values, key=lambda name: p_values[name])
    corrected: dict[str, float] = {}
    highest = 0.0
    for rank, name in enumerate(ranked):
        highest = max(highest, min(1.0, (len(ranked) - rank) * p_values[name]))
        corrected[name] = highest
    return {name: corrected[name] for name in p_values}


def ratio_of_gains(model: float, floor: float, ceiling: float) -> float | None:
    """(model - floor) / (ceiling - floor); None where there is nothing to gain."""
    return (model - floor) / (ceiling - floor) if ceiling > floor else None
