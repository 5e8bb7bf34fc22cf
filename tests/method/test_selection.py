"""Selection by threshold, number and share."""

import pytest

from humpback_ray.config.settings import SelectionSettings
from humpback_ray.method.selection import select, thresholds

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
