"""Win rates: known answers, coverage of the interval, and figures that a rump must not have."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize

from humpback_ray.evaluation import bootstrap, win_rates
from humpback_ray.evaluation.bootstrap import Interval

NAN = math.nan


# --- simulated judges -----------------------------------------------------------------------------


def judged_prompts(random, num_prompts, rate=0.6, bias=0.1, correlation=0.0, ties=0.0):
    """(prompts, orders) of a judge who prefers the model with `rate`, and either place's `bias`.

    Args:
        bias: added to the chance of whoever stands first, so it cancels out over both orders.
        correlation: share of the prompts on which one throw decides both orders.
    """
    chances = np.array([rate + bias, rate - bias])
    throws = random.random((num_prompts, 2))
    is_shared = random.random(num_prompts) < correlation
    throws[is_shared, 1] = throws[is_shared, 0]
    preferences = (throws < chances).astype(float)
    preferences[random.random((num_prompts, 2)) < ties] = 0.5
    return preferences


def coverage(num_prompts, rate=0.6, bias=0.1, correlation=0.0, num_evaluations=1000):
    random = np.random.default_rng(7)
    num_covered = 0
    for _ in range(num_evaluations):
        preferences = judged_prompts(random, num_prompts, rate, bias, correlation)
        found = win_rates.win_rate(win_rates.prompt_scores(preferences))
        num_covered += found.interval.low <= 100 * rate <= found.interval.high
    return num_covered / num_evaluations


@pytest.mark.parametrize(("num_prompts", "correlation"), [(200, 0.0), (150, 0.5), (50, 1.0)])
def test_interval_covers_the_true_win_rate_in_95_percent_of_evaluations(num_prompts, correlation):
    assert 0.93 <= coverage(num_prompts, correlation=correlation) <= 0.97


def test_interval_over_single_verdicts_would_cover_too_rarely():
    """The trap that the bootstrap over prompts avoids: both orders of a prompt agree."""
    random = np.random.default_rng(7)
    num_covered = 0
    for _ in range(300):
        verdicts = judged_prompts(random, 100, correlation=1.0).ravel()
        found = win_rates.win_rate(verdicts)
        num_covered += found.interval.low <= 60 <= found.interval.high
    assert num_covered / 300 < 0.9


def test_interval_of_a_paired_difference_covers_it():
    random = np.random.default_rng(3)
    num_covered = 0
    for _ in range(500):
        scores = win_rates.prompt_scores(judged_prompts(random, 80, 0.65))
        others = win_rates.prompt_scores(judged_prompts(random, 80, 0.55))
        found = win_rates.paired_difference(scores, others)
        num_covered += found.interval.low <= 10 <= found.interval.high
    assert 0.925 <= num_covered / 500 <= 0.975


# --- known answers --------------------------------------------------------------------------------


def test_prompt_with_one_order_missing_is_not_judged():
    scores = win_rates.prompt_scores([[1, 0], [1, NAN], [1, 1], [NAN, NAN], [0.8, 0.4]])
    assert scores.tolist() == pytest.approx([0.5, NAN, 1.0, NAN, 0.6], nan_ok=True)
    rate = win_rates.win_rate(scores)
    assert (rate.num_prompts, rate.num_judged) == (5, 3)
    assert rate.win_rate == pytest.approx(70)
    assert not rate.is_complete


def test_win_rate_counts_a_draw_as_half_and_equals_pandas():
    scores = np.array([1, 1, 0, 0.5, 0.75, 0.5])
    rate = win_rates.win_rate(scores)
    assert rate.win_rate == pytest.approx(pd.Series(scores).mean() * 100)
    assert rate.standard_error == pytest.approx(pd.Series(scores).sem() * 100)
    assert (rate.num_wins, rate.num_losses, rate.num_draws) == (3, 1, 2)
    assert rate.discrete_win_rate == pytest.approx(100 * 4 / 6)
    assert rate.interval.low < rate.win_rate < rate.interval.high


def test_bootstrap_is_the_same_for_the_same_seed_and_another_for_another():
    scores = win_rates.prompt_scores(judged_prompts(np.random.default_rng(1), 80))
    first, again, other = (win_rates.win_rate(scores, seed).interval for seed in (1, 1, 2))
    assert first == again != other
    assert first.low == pytest.approx(other.low, abs=1.5)


def test_bootstrap_draws_take_as_many_prompts_as_there_are():
    weights = bootstrap.resample_weights(37, 2000, 0)
    assert weights.shape == (2000, 37)
    assert set(weights.sum(axis=1)) == {37.0}
    assert weights.mean() == 1.0
    assert weights.var() == pytest.approx(1 - 1 / 37, abs=0.03)


def test_interval_of_nothing_but_wins_reaches_below_100():
    rate = win_rates.win_rate(np.ones(24))
    assert rate.interval.high == 100
    # The exact binomial bound: with this rate, 24 wins in 24 games have a chance of 2.5%.
    assert (rate.interval.low / 100) ** 24 == pytest.approx(0.025)
    assert win_rates.win_rate(np.full(24, 0.9999)).interval == rate.interval
    lost = win_rates.win_rate(np.zeros(24))
    assert lost.interval == Interval(0, pytest.approx(100 - rate.interval.low))


def test_interval_of_one_prompt_says_nothing():
    assert win_rates.win_rate([0.7]).interval == Interval(0, 100)
    assert win_rates.win_rate([0.7]).standard_error == math.inf
    assert win_rates.win_rate([NAN]) is None
    assert win_rates.win_rate([]) is None


def test_interval_is_wider_than_percentiles_for_few_prompts():
    draws = np.random.default_rng(0).normal(size=100_000)
    few, many = (bootstrap.quantile_interval(draws, n) for n in (5, 5000))
    assert many.high == pytest.approx(1.96, abs=0.05)
    assert few.high > 2.5


def test_order_disagreement_is_the_share_of_different_winners():
    assert win_rates.order_disagreement([[1, 0], [0.9, 0.6], [0.5, 0.5], [0.5, 1]]) == 0.5
    assert win_rates.order_disagreement([[1, NAN], [0.9, 0.6]]) == 0.0
    assert win_rates.order_disagreement([[1, NAN]]) is None


def test_smallest_difference_is_that_of_millers_arithmetic():
    # 941 prompts, 30% of them discordant: 5 points at 80% power (shares are 0.05 and 0.3).
    assert win_rates.smallest_difference(100 * math.sqrt(0.3 / 941)) == pytest.approx(5, abs=0.01)


def test_smallest_difference_is_seen_in_four_of_five_evaluations():
    random = np.random.default_rng(5)
    n, noise = 100, 0.3
    smallest = win_rates.smallest_difference(100 * noise / math.sqrt(n)) / 100
    num_seen = 0
    for _ in range(500):
        scores = 0.5 + smallest + noise * random.standard_normal(n)
        found = bootstrap.mean_interval(scores, (-9.0, 9.0))
        num_seen += found.low > 0.5
    assert 0.75 < num_seen / 500 < 0.85


# --- length ---------------------------------------------------------------------------------------


def biased_by_length(num_prompts, quality, liking, longer_by):
    """Scores of a judge who adds `liking` times the standardised difference, and the lengths."""
    random = np.random.default_rng(11)
    opponent = random.normal(500, 100, num_prompts)
    lengths = opponent + random.normal(longer_by, 200, num_prompts)
    delta = lengths - opponent
    logits = quality + liking * np.tanh(delta / delta.std(ddof=1))
    return 1 / (1 + np.exp(-logits)), lengths, opponent


def test_length_controlled_win_rate_takes_the_judges_liking_for_length_out():
    chances, lengths, opponent = biased_by_length(300, 0.0, 2.0, 250)
    found = win_rates.length_controlled(chances, lengths, opponent)
    assert found.win_rate == pytest.approx(50, abs=0.1)
    scores = (np.random.default_rng(9).random(300) < chances).astype(float)
    assert win_rates.win_rate(scores).interval.low > 60
    found = win_rates.length_controlled(scores, lengths, opponent)
    assert found.interval.low <= 50 <= found.interval.high
    assert "length_controlled_minimal" in found.formula


def test_length_controlled_win_rate_is_the_likelihoods_maximum():
    scores, lengths, opponent = biased_by_length(200, 0.4, 1.0, 100)
    scores = np.clip(scores + np.random.default_rng(2).normal(0, 0.2, 200), 0, 1)
    delta = lengths - opponent
    feature = np.tanh(delta / delta.std(ddof=1))

    def loss(at):
        logits = at[0] + at[1] * feature
        return (np.logaddexp(0, logits) - scores * logits).sum()

    best = minimize(loss, np.zeros(2), tol=1e-10).x[0]
    found = win_rates.length_controlled(scores, lengths, opponent)
    assert found.win_rate == pytest.approx(100 / (1 + math.exp(-best)), abs=1e-2)


def test_length_controlled_win_rate_without_differences_is_the_win_rate():
    scores = [1, 0, 1, 1, 0.5]
    found = win_rates.length_controlled(scores, [9] * 5, [9] * 5)
    assert found.win_rate == pytest.approx(70, abs=0.05)
    assert win_rates.length_controlled([1, NAN], [9, 9], [9, 9]) is None


def test_length_controlled_win_rate_of_nothing_but_wins_is_near_100():
    found = win_rates.length_controlled(np.ones(50), np.arange(50), np.full(50, 25))
    assert found.win_rate > 99
    assert found.interval.high <= 100


# --- a game's figures -----------------------------------------------------------------------------


def test_game_with_too_few_verdicts_has_counts_and_no_score():
    preferences = np.full((100, 2), 1.0)
    preferences[:2, 1] = NAN
    figures = win_rates.game_figures(preferences, np.arange(100), np.arange(100))
    assert (figures["num_prompts"], figures["num_judged"]) == (100, 98)
    for name in ("win_rate", "low", "high", "length_controlled_win_rate", "num_wins"):
        assert figures[name] is None
    preferences[0, 1] = 1.0
    figures = win_rates.game_figures(preferences, np.arange(100), np.arange(100))
    assert (figures["num_judged"], figures["win_rate"]) == (99, 100)


def test_figures_of_a_game_are_plain_json():
    import json

    preferences = judged_prompts(np.random.default_rng(0), 30, ties=0.1)
    figures = win_rates.game_figures(preferences, np.arange(30) ** 2, np.arange(30))
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures
    assert json.dumps(win_rates.game_figures([[NAN, 1]], [1], [1]), allow_nan=False)
    assert json.dumps(win_rates.game_figures([[0.2, 1]], [1], [1]), allow_nan=False)
