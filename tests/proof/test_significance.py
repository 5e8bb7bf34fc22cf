"""Standard errors by clusters, Holm's correction, worlds taken together."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.proof.significance import Mean, clustered_mean, holm, over_seeds, ratio_of_gains


def test_standard_error_of_single_questions_is_the_usual_one():
    values = np.random.default_rng(0).random(200)
    found = clustered_mean(values, [str(at) for at in range(200)])
    assert found.standard_error == pytest.approx(100 * values.std(ddof=1) / math.sqrt(200))


def test_questions_that_repeat_each_other_add_no_certainty():
    values = np.random.default_rng(0).random(50)
    names = [str(at) for at in range(50)]
    once, thrice = clustered_mean(values, names), clustered_mean(np.tile(values, 3), names * 3)
    assert thrice.standard_error == pytest.approx(once.standard_error)


def test_clustered_interval_covers_the_truth_where_clusters_move_together():
    random = np.random.default_rng(1)
    hits = 0
    for _ in range(400):
        of_cluster = np.repeat(random.normal(0, 1, 40), 10)
        found = clustered_mean(of_cluster + random.normal(0, 1, 400), np.repeat(range(40), 10))
        hits += abs(found.value) < 2.02 * found.standard_error
    assert 0.92 < hits / 400 < 0.98


def test_single_cluster_or_nothing_has_no_certainty():
    assert clustered_mean([1, 0], ["a", "a"]).p_above_zero == 1
    assert clustered_mean([], []).p_above_zero == 1


def test_holm_corrects_the_smallest_most_and_keeps_the_order():
    found = holm({"a": 0.01, "b": 0.04, "c": 0.03})
    assert found == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06})
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}


def test_several_seeds_have_the_error_between_them():
    means = [Mean(value, 0.1, 100, 10) for value in (1.0, 2.0, 3.0)]
    found = over_seeds(means)
    assert (found.value, found.n, found.num_clusters) == (2.0, 300, 3)
    assert found.standard_error == pytest.approx(1 / math.sqrt(3))


def test_share_of_a_gain_that_is_none_is_not_a_number():
    assert ratio_of_gains(3, 1, 5) == 0.5
    assert ratio_of_gains(3, 5, 5) is None
