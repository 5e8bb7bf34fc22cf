"""Which pairs of a segment may be chosen, and the rules by which they are."""

import pytest

from humpback_ray.config.settings import SelectionSettings
from humpback_ray.method.selection import Edge, eligible, is_chosen, num_chosen, thresholds


def test_thresholds_are_the_scores_at_their_shares_rounded_down():
    ranked = sorted((1 + 4 * n / 1000 + 1e-7 for n in range(1000)), reverse=True)
    found = thresholds(1000, ranked.__getitem__)
    assert found == {"1%": 4.96, "5%": 4.8, "10%": 4.6, "25%": 4.0}
    for share, k in found.items():
        assert sum(score >= k for score in ranked) == 10 * int(share.removesuffix("%"))
    few = thresholds(2, [4.12349, 2.0].__getitem__)
    assert few == {"1%": 4.1234, "5%": 4.1234, "10%": 4.1234, "25%": 4.1234}


@pytest.mark.parametrize(
    ("settings", "number"),
    [({}, 7), ({"method": "best", "num_best": 30}, 20), ({"method": "best", "num_best": 3}, 3),
     ({"method": "share", "share": 0.25}, 5), ({"method": "all"}, 20)],
)  # fmt: skip
def test_number_of_chosen_pairs_is_the_methods(settings, number):
    assert num_chosen(20, 7, SelectionSettings(**settings, max_pairs=1)) == number


def test_pair_is_chosen_up_to_the_edge_and_ties_by_id():
    settings, edge = SelectionSettings(method="best"), Edge((-4.5, "b"), None)
    pairs = [("z", 4.6), ("a", 4.5), ("b", 4.5), ("c", 4.5), ("a", 4.4)]
    chosen = [is_chosen(*pair, settings, edge) for pair in pairs]
    assert chosen == [True, True, True, False, False]


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
