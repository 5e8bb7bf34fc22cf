"""Which recipes the arms are, from what a run has."""

from __future__ import annotations

import pytest

from humpback_ray.ablations.arms import (
    RUN,
    Arm,
    Chosen,
    Group,
    Supply,
    Values,
    arms_of,
    thresholds_of,
)
from humpback_ray.config.recipe import Recipe
from tests.support.run_folder import recipe

SCORES = [1.04 + 0.04 * n for n in range(100)]  # of 100 segments, from 1.04 to 5
PAPER = ("settings.selection={method: threshold, k: 4.5}",)


def chosen(*groups: Group, overrides=PAPER, scores=SCORES, **values) -> Chosen:
    settings, values = recipe(*overrides).settings, Values(**values)
    num_at_least = {k: sum(s >= k for s in scores) for k in thresholds_of(settings, values)}
    return arms_of(groups, settings, Supply(len(scores), num_at_least, 800), values)


def recipes(found: Chosen, overrides=PAPER) -> dict[str, Recipe]:
    """The arms' recipes, made as a user would make them."""
    return {arm.name: recipe(*overrides, *arm.overrides) for arm in found.arms}


def selections(found: Chosen, overrides=PAPER) -> dict[str, dict]:
    made = {name: each.settings for name, each in recipes(found, overrides).items()}
    return {
        name: settings.last_iteration.selection.identity()
        for name, settings in made.items()
        if settings.last_iteration.selection
    }


def test_every_group_begins_with_the_run_itself():
    for group in Group:
        assert chosen(group).arms[0] == RUN


def test_curation_arms_have_equally_many_pairs_and_no_limit_where_that_is_all():
    found = chosen(Group.CURATION)
    assert selections(found) == {
        "curation-uncurated": {"method": "all", "max_pairs": 13},
        "curation-A_4": {"method": "threshold", "k": 4.0, "max_pairs": 13},
        "curation-A_5": {"method": "threshold", "k": 4.5},
    }
    assert not found.left_out


def test_curation_of_a_run_with_another_selection_has_that_one_too():
    own = ("settings.selection={method: share, share: 0.1}",)
    found = selections(chosen(Group.CURATION, overrides=own), own)
    assert found["curation-selected"] == {"method": "share", "share": 0.1}
    assert {each.get("max_pairs") for each in found.values()} == {10, None}


def test_threshold_without_pairs_is_left_out_and_named():
    found = chosen(Group.CURATION, Group.K, scores=[1 + n / 40 for n in range(100)])
    assert list(selections(found)) == ["curation-uncurated", "k-3"]
    assert found.left_out == [
        "curation-A_4: no pair has a score of 4 or more",
        "curation-A_5: no pair has a score of 4.5 or more",
        "k-3.5: no pair has a score of 3.5 or more",
        "k-4: no pair has a score of 4 or more",
        "k-4.5: no pair has a score of 4.5 or more",
    ]


def test_sizes_above_the_runs_pairs_are_left_out_and_named():
    found = chosen(Group.SIZE, sizes=(5, 13, 14))
    assert selections(found) == {
        "size-5": {"method": "threshold", "k": 4.5, "max_pairs": 5},
        "size-13": {"method": "threshold", "k": 4.5},
    }
    assert [arm.name for arm in found.arms if arm.size] == ["size-5", "size-13"]
    assert found.left_out == ["size-14: the run's selection has 13 pairs"]


def test_sizes_are_drawn_from_the_last_iterations_selection_without_its_limit():
    own = ("settings.last_iteration.selection={method: all, max_pairs: 20}",)
    found = chosen(Group.SIZE, overrides=own, sizes=(50,))
    assert selections(found, own)["size-50"] == {"method": "all", "max_pairs": 50}


def test_data_arms_are_the_first_model_the_web_pairs_alone_and_both():
    found = chosen(Group.DATA)
    assert Arm("data-seed", model="M_0") in found.arms
    assert selections(found) == {
        "data-web": {"method": "threshold", "k": 4.5, "with_seed": False},
        "data-both": {"method": "threshold", "k": 4.5},
    }


def test_tag_arms_are_the_papers_four_conditions():
    found = {
        name: (each.settings.last_iteration.tags, each.settings.prompts.inference)
        for name, each in recipes(chosen(Group.TAGS)).items()
    }
    assert found == {
        "run": (True, "both"), "tags-both": (True, "both"), "tags-seed": (True, "seed"),
        "tags-unasked": (True, "none"), "tags-none": (False, "none"),
    }  # fmt: skip


def test_tags_of_a_recipe_without_tags_are_left_out():
    found = chosen(Group.TAGS, overrides=('settings.prompts.web_tag=""',))
    assert found.arms == [RUN]
    assert "web_tag" in found.left_out[0]


def test_seed_arms_change_the_seed_up_to_what_it_has():
    found = chosen(Group.SEED)
    made = recipes(found)
    assert [made[f"seed-{n}"].settings.seed.max_pairs for n in (100, 800)] == [100, 800]
    assert [line.partition(":")[0] for line in found.left_out] == ["seed-1600", "seed-3200"]


@pytest.mark.parametrize("overrides", [PAPER, ()])
def test_arms_of_all_groups_have_names_of_their_own_and_load_as_recipes(overrides):
    found = chosen(*Group, overrides=overrides, sizes=(3, 5))
    assert len(recipes(found, overrides)) == len(found.arms)
