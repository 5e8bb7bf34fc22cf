"""Bradley-Terry strengths: of two models by hand, of several by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from humpback_ray.evaluation.bootstrap import Interval
from humpback_ray.evaluation.strengths import bradley_terry


def test_strengths_of_two_models_are_the_logit_of_the_win_rate():
    scores = np.array([1.0] * 300 + [0.0] * 100)
    first, zero = bradley_terry({("M_1", "base"): scores}, "base")
    assert (first.model, zero.model) == ("M_1", "base")
    assert first.strength == pytest.approx(math.log(300.5 / 100.5))
    assert (zero.strength, zero.interval) == (0.0, Interval(0.0, 0.0))
    assert first.interval.low < math.log(3) < first.interval.high


def test_strengths_of_several_games_recover_those_that_made_them():
    random = np.random.default_rng(4)
    true = {"base": 0.0, "M_0": 0.8, "M_1": 1.2, "M_2": 1.5}
    pairs = [("M_0", "base"), ("M_1", "M_0"), ("M_2", "M_1"), ("M_2", "base"), ("M_2", "M_0")]
    games = {
        (a, b): (random.random(4000) < 1 / (1 + math.exp(true[b] - true[a]))).astype(float)
        for a, b in pairs
    }
    found = bradley_terry(games, "base", num_draws=500)
    assert [row.model for row in found] == ["M_2", "M_1", "M_0", "base"]
    for row in found:
        assert row.strength == pytest.approx(true[row.model], abs=0.1)
        assert row.interval.low <= true[row.model] <= row.interval.high


def test_strength_of_a_model_that_wins_everything_is_finite():
    first, _ = bradley_terry({("M_1", "base"): np.ones(20)}, "base")
    assert first.strength == pytest.approx(math.log(20.5 / 0.5))
    assert math.isfinite(first.interval.high)


def test_model_without_a_judged_game_has_no_strength():
    games = {
        ("M_1", "base"): np.array([1.0, 0.0, math.nan]),
        ("M_2", "M_1"): np.full(3, math.nan),
        ("other", "stranger"): np.ones(3),
    }
    assert {row.model for row in bradley_terry(games, "base")} == {"M_1", "base"}
    assert bradley_terry({}, "base") == []
