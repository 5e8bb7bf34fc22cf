"""Agreement of raters against published values; a judge's corrected win rate by simulation."""

from __future__ import annotations

import numpy as np
import pytest

from humpback_ray.evaluation.agreement import (
    JudgeErrors,
    corrected_rate,
    judge_errors,
    krippendorff_alpha,
    left_share,
    pace,
    self_consistency,
)


def by_item(*observers: str) -> list[list[str]]:
    """Values of each item, from one line per observer; a dot is a missing value."""
    return [[v for v in values if v != "."] for values in zip(*observers, strict=True)]


# Krippendorff 2011, Computing Krippendorff's Alpha-Reliability, sections A, B and C.
BINARY = by_item("0100000010", "1110010000")
TWO_OBSERVERS = by_item("aabbdcccedda", "babbbccceddd")
WITH_MISSING = by_item("123321412...", "1233224125.3", ".3332342251.", "12332441251.")


@pytest.mark.parametrize(
    ("ratings", "alpha"), [(BINARY, 0.095), (TWO_OBSERVERS, 0.692), (WITH_MISSING, 0.743)]
)
def test_alpha_of_published_examples_is_the_published_one(ratings, alpha):
    estimate = krippendorff_alpha(ratings)
    assert estimate.value == pytest.approx(alpha, abs=0.0005)
    assert estimate.low < estimate.value < estimate.high <= 1


def test_alpha_of_equal_votes_is_one_and_of_drawn_votes_near_zero():
    assert krippendorff_alpha([["left"] * 2, ["tie"] * 3, ["right"] * 2]).value == 1
    drawn = np.random.default_rng(1).choice(["left", "tie", "right"], size=(2000, 2))
    estimate = krippendorff_alpha(drawn.tolist())
    assert estimate.low < 0 < estimate.high
    assert estimate.high - estimate.low < 0.12


@pytest.mark.parametrize("ratings", [[], [["left"]], [["left", "left"], ["left", "left"]]])
def test_alpha_without_two_values_is_undefined(ratings):
    assert krippendorff_alpha(ratings) is None


def test_alpha_interval_covers_the_alpha_of_the_population():
    """Two raters who agree by a known share: alpha = 1 - (1 - agreement) / (1/2)."""
    generator = np.random.default_rng(2)
    covered = 0
    for _ in range(60):
        first = generator.random(150) < 0.5
        second = np.where(generator.random(150) < 0.8, first, ~first)
        estimate = krippendorff_alpha(np.stack([first, second], axis=1).tolist())
        covered += estimate.low <= 0.6 <= estimate.high
    assert 52 <= covered < 60


def test_votes_of_one_rater_give_consistency_side_and_pace():
    assert self_consistency([("M_2", "M_2"), ("tie", "M_1"), ("tie", "tie")]).value == 2 / 3
    assert left_share(["left", "tie", "right", "left", "skip", "left"]).value == 0.75
    spent = pace([1.0, 30.0, 50.0], floor_seconds=3)
    assert (spent.median_seconds, spent.num_below_floor, spent.num_votes) == (30.0, 1, 3)
    assert pace([], floor_seconds=3).median_seconds is None


# --- a judge against people -----------------------------------------------------------------------


def test_judge_errors_count_both_kinds_of_pairs():
    pairs = [(True, True)] * 3 + [(True, False)] + [(False, False)] * 4 + [(False, True)] * 2
    errors = judge_errors(pairs)
    assert errors == JudgeErrors(num_wins=4, num_wins_seen=3, num_losses=6, num_losses_seen=4)
    assert errors.agreement.value == 0.7


def test_corrected_rate_is_rogan_and_gladens():
    """(0.6 + 0.8 - 1) / (0.9 + 0.8 - 1) = 4/7."""
    errors = JudgeErrors(num_wins=100, num_wins_seen=90, num_losses=100, num_losses_seen=80)
    rate = corrected_rate(600, 1000, errors)
    assert rate.raw.value == 0.6
    assert rate.corrected.value == pytest.approx(4 / 7)
    assert rate.corrected.high - rate.corrected.low > rate.raw.high - rate.raw.low


def test_corrected_rate_of_a_perfect_judge_with_many_labels_is_the_raw_one():
    rate = corrected_rate(600, 1000, JudgeErrors(50_000, 50_000, 50_000, 50_000))
    assert rate.corrected.value == pytest.approx(0.6)
    assert (rate.corrected.low, rate.corrected.high) == pytest.approx(
        (rate.raw.low, rate.raw.high), abs=0.001
    )


@pytest.mark.parametrize(
    ("errors", "problem"),
    [
        (JudgeErrors(0, 0, 10, 9), "wins by people"),
        (JudgeErrors(10, 9, 0, 0), "loses by people"),
        (JudgeErrors(10, 5, 10, 5), "chance"),
    ],
)
def test_corrected_rate_without_usable_labels_is_none_with_the_reason(errors, problem):
    rate = corrected_rate(600, 1000, errors)
    assert rate.corrected is None
    assert rate.raw.value == 0.6
    assert problem in rate.problem


@pytest.mark.parametrize(
    ("truth", "sensitivity", "specificity", "num_labels"),
    [(0.55, 0.85, 0.75, 250), (0.7, 0.9, 0.5, 200), (0.3, 0.7, 0.9, 400)],
)
def test_corrected_interval_covers_the_rate_by_people_where_the_raw_one_misses_it(
    truth, sensitivity, specificity, num_labels
):
    generator = np.random.default_rng(4)
    covered = raw_covered = 0
    for _ in range(1000):
        human = generator.random(num_labels) < truth
        judge = generator.random(num_labels) < np.where(human, sensitivity, 1 - specificity)
        rate = truth * sensitivity + (1 - truth) * (1 - specificity)
        num_wins = int(generator.binomial(805, rate))
        pairs = list(zip(human.tolist(), judge.tolist(), strict=True))
        result = corrected_rate(num_wins, 805, judge_errors(pairs))
        covered += result.corrected.low <= truth <= result.corrected.high
        raw_covered += result.raw.low <= truth <= result.raw.high
    assert 930 <= covered <= 980
    assert raw_covered < 930
