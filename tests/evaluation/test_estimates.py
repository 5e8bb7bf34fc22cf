"""Figures with their intervals: against published ones, by hand, and by simulation."""

from __future__ import annotations

import random

import numpy as np
import pytest

from humpback_ray.evaluation.estimates import share_of, weighted_mean


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [
        (1, 10, 0.0179, 0.4042),  # by hand
        # Newcombe 1998, Two-sided confidence intervals for the single proportion.
        (15, 148, 0.0624, 0.1605),
    ],
)
def test_wilson_interval_is_the_published_one(hits, n, low, high):
    share = share_of(hits, n)
    assert (share.low, share.high) == pytest.approx((low, high), abs=0.0001)


def test_share_of_nothing_is_none_and_no_hit_has_the_lower_bound_zero():
    assert share_of(0, 0) is None
    assert share_of(0, 20).low == 0


def test_mean_has_the_bootstrap_interval_of_a_normal_mean():
    values = np.random.default_rng(3).normal(0.6, 0.4, size=400)
    mean = weighted_mean(values.tolist(), [1.0] * 400)
    half = 1.96 * values.std() / 20
    assert mean.high - mean.value == pytest.approx(half, rel=0.1)
    assert mean.value - mean.low == pytest.approx(half, rel=0.1)


@pytest.mark.parametrize("n", [8, 40])
def test_bootstrap_interval_covers_the_mean_as_often_as_it_says(n):
    """Plain percentiles of eight values cover their mean in 87% of the cases."""
    draw = random.Random(2)
    hits = 0
    for _ in range(600):
        weights = [draw.uniform(0.5, 1.5) for _ in range(n)]
        mean = weighted_mean([draw.gauss(1.0, 1.0) for _ in range(n)], weights)
        hits += mean.low <= 1.0 <= mean.high
    assert 0.91 <= hits / 600 <= 0.97


def test_share_of_items_that_are_all_won_is_not_sure():
    won = weighted_mean([1.0] * 24, limits=(0.0, 1.0))
    assert won.high == 1
    assert won.low**24 == pytest.approx(0.025)
    assert (weighted_mean([1.0], limits=(0.0, 1.0)).low, weighted_mean([1.0]).low) == (0.0, None)


def test_weighted_mean_weighs_and_one_value_has_no_interval():
    assert weighted_mean([1.0, 4.0], [3.0, 1.0]).value == 1.75
    one = weighted_mean([2.0], [5.0])
    assert (one.value, one.n, one.low) == (2.0, 1, None)
    assert weighted_mean([], []) is None
