"""The filter's linear model on texts whose quality is known, its measures, and its keys."""

from __future__ import annotations

import math

import numpy as np
import pytest

from humpback_ray.errors import UserError
from humpback_ray.method import prefilter
from tests.support.prefilter import scored_texts


def measured(texts, scores) -> prefilter.Measured:
    _, predicted = prefilter.learn(texts, scores)
    return prefilter.measure(scores, predicted)


def recall(found: prefilter.Measured, best: float, cut: float) -> prefilter.Interval:
    return next(each for each in found.recalls if each.best == best).of_cut[cut]


@pytest.fixture(scope="module")
def sample():
    return scored_texts(600)


def test_recall_is_far_above_chance_where_texts_tell_the_score(sample):
    found = measured(*sample)
    assert found.rank_correlation[1] > 0.6
    _, low, _ = recall(found, 0.1, 0.2)
    assert low > 0.4
    assert found.mean_of_cut[0.1] > found.mean_of_cut[0.5] > found.mean_score + 0.3
    assert not [line for line in found.lines if "at random" in line]


def test_recall_is_that_of_a_random_cut_where_scores_are_shuffled(sample):
    texts, scores = sample
    found = measured(texts, np.random.default_rng(1).permutation(scores))
    value, low, high = found.rank_correlation
    assert low < 0 < high
    assert abs(value) < 0.15
    for cut in prefilter.CUTS:
        _, low, high = recall(found, 0.25, cut)
        assert low - 0.03 < cut < high + 0.03
    assert "cuts at random" in found.lines[-1]


def test_measures_equal_a_count_by_hand():
    scores = np.array([5.0, 5.0, 4.0, 4.0, 3.0, 2.0, 2.0, 1.0, 1.0, 1.0] * 10)
    predicted = np.array([9, 1, 8, 7, 6, 5, 4, 3, 2, 0] * 10) + np.arange(100) / 1000
    found = prefilter.measure(scores, predicted)
    by_best = {each.best: each for each in found.recalls}
    # The 20 pairs with 5 points are the best ones at any share up to a fifth.
    assert (by_best[0.05].score, by_best[0.05].num_good) == (5.0, 20)
    assert (by_best[0.25].score, by_best[0.25].num_good) == (4.0, 40)
    assert by_best[0.05].of_cut[0.1][0] == 10 / 20
    assert by_best[0.25].of_cut[0.2][0] == 20 / 40
    assert by_best[0.25].of_cut[0.5][0] == 30 / 40
    assert found.mean_of_cut[0.1] == 5.0
    assert found.mean_score == pytest.approx(2.8)
    # Wilson's interval of 10 out of 20, by its formula.
    z = 1.959964
    middle, half = (0.5 + z**2 / 40) / (1 + z**2 / 20), z * math.sqrt(0.25 / 20 + z**2 / 1600)
    half /= 1 + z**2 / 20
    assert by_best[0.05].of_cut[0.1][1:] == pytest.approx((middle - half, middle + half), abs=1e-6)


def test_groups_of_few_pairs_have_no_recall():
    scores = np.arange(200.0)
    found = prefilter.measure(scores, scores)
    assert [each.best for each in found.recalls] == [0.05, 0.1, 0.25]
    assert recall(found, 0.05, 0.05)[0] == 1.0


def test_perfect_predictions_have_a_correlation_of_one_and_an_interval():
    scores = np.arange(100.0)
    value, low, high = prefilter.measure(scores, scores).rank_correlation
    assert value == pytest.approx(1.0)
    assert 0.99 < low <= high <= 1.0


def test_predictions_that_are_all_equal_have_no_correlation():
    assert prefilter.measure(np.arange(100.0), np.ones(100)).rank_correlation == (0.0, -1.0, 1.0)


def test_score_of_a_text_does_not_depend_on_the_texts_beside_it(sample, monkeypatch):
    texts = [*sample[0][:40], "", "\n\n", "naïve 数 " * 3]
    model, _ = prefilter.learn(*sample)
    together = model.scores(texts)
    assert np.isfinite(together).all()
    monkeypatch.setattr(prefilter, "TEXTS_PER_CALL", 7)
    assert (model.scores(texts) == together).all()
    assert [model.scores([text])[0] for text in texts] == together.tolist()
    assert len(model.scores([])) == 0


def test_form_of_a_text_counts_as_its_words_do():
    words = "a few plain words that say nothing of their own"
    texts = [f"{words}." if n % 2 else "\n".join(f"- {each}" for each in words.split())
             for n in range(60)]  # fmt: skip
    scores = np.array([4.0 if n % 2 else 2.0 for n in range(60)])
    model, _ = prefilter.learn(texts, scores)
    prose, items = model.scores(texts[:2][::-1])
    assert prose > items + 1


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (np.arange(49.0), "49 pairs of the sample have a score, too few"),
        (np.full(60, 3.0), "all 60 pairs of the sample have the score 3"),
        (np.array([]), "0 pairs of the sample"),
    ],
)
def test_scores_from_which_nothing_can_be_learnt_are_refused(scores, message):
    with pytest.raises(UserError, match=message) as caught:
        prefilter.learn(["text"] * len(scores), scores)
    assert "\n" not in str(caught.value)
    assert "settings.prefilter" in str(caught.value)


def test_rank_keys_order_scores_and_give_them_back():
    scores = np.array([1.5, -2, 0, -0.0, 3.25, 4.999, 5, 1e-30, -1e-30], np.float32)
    keys = prefilter.rank_keys(scores, [str(n) for n in range(len(scores))])
    assert (prefilter.scores_of(keys) == scores).all()
    order = np.argsort(keys)
    assert (np.diff(scores[order]) <= 0).all()
    assert len(set(keys.tolist())) == len(scores)


def test_ties_are_ordered_by_ids_alone():
    ids = [f"segment-{n}" for n in range(1000)]
    keys = prefilter.rank_keys(np.zeros(1000, np.float32), ids)
    again = prefilter.rank_keys(np.zeros(1000, np.float32), ids[::-1])[::-1]
    assert (keys == again).all()
    first = {ids[n] for n in np.argsort(keys)[:500]}
    assert 430 < len({*ids[:500]} & first) / 500 * 1000 < 570  # a fair half of them


def test_draws_of_different_seeds_are_independent():
    ids = [f"segment-{n}" for n in range(4000)]
    drawn = [set(np.argsort(prefilter.draw_keys(ids, seed))[:400].tolist()) for seed in (0, 1)]
    assert 15 < len(drawn[0] & drawn[1]) < 70  # 40 by chance
