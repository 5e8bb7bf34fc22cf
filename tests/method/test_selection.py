"""Selection by threshold, number and share."""

import pytest

from humpback_ray.config.settings import SelectionSettings
from humpback_ray.method.selection import eligible, num_chosen, select, thresholds

SCORED = [("a", 4.6), ("b", 4.5), ("c", 4.49), ("d", 1.0), ("e", 4.5), ("f", 3.0), ("g", 2.0),
          ("h", 2.0)]  # fmt: skip


def test_threshold_takes_every_score_of_at_least_k():
    assert select(SCORED, SelectionSettings()) == {"a", "b", "e"}
    assert select(SCORED, SelectionSettings(k=4)) == {"a", "b", "c", "e"}


def test_thresholds_select_the_shares_that_name_them():
    scored = [(f"{n:04}", 1 + 4 * n / 1000 + 1e-7) for n in range(1000)]
    found = thresholds([score for _, score in scored])
    assert found == {"1%": 4.96, "5%": 4.8, "10%": 4.6, "25%": 4.0}
    for share, k in found.items():
        chosen = select(scored, SelectionSettings(k=k))
        assert len(chosen) == 10 * int(share.removesuffix("%"))
        by_share = SelectionSettings(method="share", share=len(chosen) / 1000)
        assert chosen == select(scored, by_share)


def test_thresholds_of_few_scores_are_rounded_down():
    assert thresholds([4.12349, 2.0]) == {"1%": 4.1234, "5%": 4.1234, "10%": 4.1234, "25%": 4.1234}
    assert thresholds([]) == {}


def test_best_and_share_break_ties_by_id_and_not_by_order():
    for rows in (SCORED, SCORED[::-1]):
        assert select(rows, SelectionSettings(method="best", num_best=2)) == {"a", "b"}
        assert select(rows, SelectionSettings(method="share", share=0.25)) == {"a", "b"}


def test_best_with_too_few_pairs_selects_all():
    chosen = select(SCORED, SelectionSettings(method="best", num_best=100))
    assert chosen == {name for name, _ in SCORED}


@pytest.mark.parametrize(
    "settings",
    [SelectionSettings(k=5), SelectionSettings(method="share", share=0.01)],
)
def test_empty_selection_is_refused_with_the_scores_and_the_way_out(settings):
    with pytest.raises(ValueError, match=r"run from 1\.00 to 4\.60.*selection\.method"):
        select(SCORED, settings)


def test_selection_without_scores_is_refused():
    with pytest.raises(ValueError, match="no pair has a score"):
        select([], SelectionSettings())


def test_all_takes_every_pair_whatever_its_score():
    chosen = select(SCORED, SelectionSettings(method="all"))
    assert chosen == {name for name, _ in SCORED}


@pytest.mark.parametrize("settings", [{"method": "all"}, {"k": 2}, {"method": "best"}])
def test_drawn_pairs_are_of_those_chosen_and_a_larger_draw_has_a_smaller_one(settings):
    scored = [(f"{n:03}", 1 + n % 4 + n / 1000) for n in range(400)]
    every = select(scored, SelectionSettings(**settings))
    drawn = [select(scored, SelectionSettings(**settings, max_pairs=n)) for n in (1, 50, 100)]
    assert [len(ids) for ids in drawn] == [1, 50, 100]
    assert drawn[0] < drawn[1] < drawn[2] < every
    assert select(scored[::-1], SelectionSettings(**settings, max_pairs=50)) == drawn[1]
    assert select(scored, SelectionSettings(**settings, max_pairs=len(every) + 9)) == every
    assert len(every) == num_chosen(scored, SelectionSettings(**settings, max_pairs=1))


def test_drawn_pairs_do_not_follow_the_score():
    scored = [(f"{n:03}", 1 + n / 100) for n in range(400)]
    drawn = select(scored, SelectionSettings(method="all", max_pairs=200))
    mean = sum(score for name, score in scored if name in drawn) / 200
    assert 2.8 < mean < 3.2  # of all: 2.995


def test_without_curation_the_first_candidate_of_a_segment_is_eligible_and_not_the_best():
    scored = [("s1-1", "s1", 4.9), ("s1-0", "s1", 1.2), ("s2-0", "s2", 3.0), ("s2-1", "s2", 3.0)]
    best = eligible(scored, SelectionSettings())
    first = eligible(scored, SelectionSettings(method="all"))
    assert sorted(best) == [("s1-1", 4.9), ("s2-0", 3.0)]
    assert sorted(first) == [("s1-0", 1.2), ("s2-0", 3.0)]


def test_settings_as_in_the_paper_are_hashed_without_the_keys_of_comparisons():
    assert SelectionSettings().identity() == {"method": "threshold", "k": 4.5}
    assert SelectionSettings(method="all", max_pairs=9, with_seed=False).identity() == {
        "method": "all", "max_pairs": 9, "with_seed": False
    }  # fmt: skip
