"""Selection by threshold, number and share."""

import pytest

from humpback_ray.config.settings import SelectionSettings
from humpback_ray.method.selection import select

SCORED = [("a", 4.6), ("b", 4.5), ("c", 4.49), ("d", 1.0), ("e", 4.5), ("f", 3.0), ("g", 2.0),
          ("h", 2.0)]  # fmt: skip


def test_threshold_takes_every_score_of_at_least_k():
    assert select(SCORED, SelectionSettings()) == {"a", "b", "e"}
    assert select(SCORED, SelectionSettings(k=4)) == {"a", "b", "c", "e"}


def test_best_and_share_break_ties_by_id_and_not_by_order():
    for rows in (SCORED, SCORED[::-1]):
        assert select(rows, SelectionSettings(method="best", num_best=2)) == {"a", "b"}
        assert select(rows, SelectionSettings(method="share", share=0.25)) == {"a", "b"}


def test_more_wanted_than_there_are_takes_all():
    chosen = select(SCORED, SelectionSettings(method="best", num_best=100))
    assert chosen == {name for name, _ in SCORED}


@pytest.mark.parametrize(
    "settings",
    [SelectionSettings(k=5), SelectionSettings(method="share", share=0.01)],
)
def test_nothing_left_is_an_error_with_the_scores_and_the_way_out(settings):
    with pytest.raises(ValueError, match=r"run from 1\.00 to 4\.60.*selection\.method"):
        select(SCORED, settings)


def test_no_scores_at_all_is_an_error():
    with pytest.raises(ValueError, match="no pair has a score"):
        select([], SelectionSettings())
