"""The fit of win rate and size."""

from __future__ import annotations

import numpy as np
import pytest

from humpback_ray.evaluation.scaling import PAPER_ALPHAS, fit

SIZES = (3_200, 6_400, 12_800, 25_600)


def points(alpha: float, noise: np.ndarray | float = 0.0) -> list[float]:
    return list(12.0 + alpha * np.log(SIZES) + noise)


@pytest.mark.parametrize("alpha", PAPER_ALPHAS.values(), ids=PAPER_ALPHAS)
def test_fit_of_points_on_a_line_has_the_lines_alpha_and_no_width(alpha):
    found = fit(SIZES, points(alpha))
    assert found.alpha == pytest.approx(alpha)
    assert found.constant == pytest.approx(12)
    assert found.high - found.low < 1e-6
    assert found.num_points == 4


def test_interval_covers_the_true_alpha_in_about_95_of_100_fits():
    random = np.random.default_rng(0)
    fits = [fit(SIZES, points(6.95, random.normal(0, 1.5, len(SIZES)))) for _ in range(800)]
    covered = np.mean([found.low <= 6.95 <= found.high for found in fits])
    assert 0.93 <= covered <= 0.97
    assert np.mean([found.alpha for found in fits]) == pytest.approx(6.95, abs=0.15)


def test_two_points_fix_the_line_and_leave_no_interval():
    found = fit((100, 200), (40.0, 45.0))
    assert found.alpha == pytest.approx(5 / np.log(2))
    assert (found.low, found.high) == (None, None)


@pytest.mark.parametrize("sizes", [(), (100,), (100, 100)])
def test_one_size_has_no_fit(sizes):
    assert fit(sizes, [50.0] * len(sizes)) is None
