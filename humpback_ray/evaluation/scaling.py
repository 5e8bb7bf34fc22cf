"""Data scaling: the fit of w = α · ln N + C, where w is a win rate and N a number of examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from humpback_ray.evaluation.estimates import CONFIDENCE

# arXiv 2308.06259, at 7B: points of win rate against text-davinci-003 by the logarithm of N, whose
# base the paper does not give. Here it is the natural one.
PAPER_ALPHAS = {
    "Humpback": 6.95,
    "WizardLLM": 5.69,
    "Alpaca-GPT4": 5.40,
    "Vicuna": 4.53,
    "Open Assistant": 4.43,
    "LIMA": 2.86,
    "Alpaca": 1.99,
    "FLAN v2": 0.22,
}


@dataclass(frozen=True)
class ScalingFit:
    """The line through some points; without an interval where two points fix it."""

    alpha: float  # points of win rate when N grows by the factor e
    low: float | None
    high: float | None
    constant: float
    num_points: int


def fit(sizes: Sequence[int], win_rates: Sequence[float]) -> ScalingFit | None:
    """Fit the line by least squares; None unless there are two different sizes.

    The 95% interval of α is Student's t of the residuals, with two degrees of freedom less than
    points: it takes the points as scattered about a line by equal and independent errors.

    Args:
        sizes: numbers of examples, above 0.
        win_rates: in percent.
    """
    if len(set(sizes)) < 2:
        return None
    line = stats.linregress(np.log(sizes), win_rates)
    n, alpha = len(sizes), float(line.slope)
    if n == 2:
        return ScalingFit(alpha, None, None, float(line.intercept), n)
    reach = float(stats.t.ppf(0.5 + CONFIDENCE / 2, n - 2) * line.stderr)
    return ScalingFit(alpha, alpha - reach, alpha + reach, float(line.intercept), n)
