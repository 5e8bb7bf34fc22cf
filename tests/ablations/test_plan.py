"""Which stages arms share and which would be computed, on a finished run without engines."""

from __future__ import annotations

import pytest

from humpback_ray import pipeline, storage
from humpback_ray.ablations.arms import Group
from humpback_ray.ablations.plan import AblationPlan, origins
from humpback_ray.config.recipe import load_recipe
from humpback_ray.errors import UserError
from humpback_ray.execution.stage import Stage, State
from tests.support.ablation import JUDGE, PROVENANCE, FinishedRun

OF_LAST = ("iter-2/examples", "iter-2/model", "evaluation/M_2")
NUM_SELECTED = 14  # a quarter of the 56 pairs with a score


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> FinishedRun:
    """A run that tests only read."""
    return FinishedRun(tmp_path_factory.mktemp("finished"))


@pytest.fixture
def changing_run(tmp_path) -> FinishedRun:
    return FinishedRun(tmp_path)


def below(arm: str, *paths: str) -> set[str]:
    return {f"ablations/{arm}/{path}" for path in paths}


def own(plan: AblationPlan, arm: str) -> list[str]:
    """The stages of an arm that lie in its folder."""
    planned = next(each for each in plan.arms if each.arm.name == arm)
    return [stage.path for stage in planned.stages if stage.path.startswith(f"ablations/{arm}/")]


def test_size_arms_compute_their_examples_their_model_and_its_evaluation(run):
    plan = run.plan(Group.SIZE, sizes=(5, 10, NUM_SELECTED))
    assert set(plan.to_compute) == below("size-5", *OF_LAST) | below("size-10", *OF_LAST)
    assert own(plan, f"size-{NUM_SELECTED}") == []  # it is the run's own model


def test_arms_have_the_fingerprints_of_their_recipes_run_by_hand(run):
    plan = run.plan(*Group, sizes=(5,), seed_sizes=(10,))
    for arm in plan.arms:
        by_hand = load_recipe("tiny", [*run.overrides, *arm.arm.overrides])
        fingerprints = {stage.fingerprint for stage in pipeline.stages_of(by_hand)}
        assert {stage.fingerprint for stage in arm.stages} <= fingerprints, arm.arm.name


def test_inputs_of_a_stage_are_stages_of_the_plan_before_it(run):
    for arm in run.plan(*Group, sizes=(5,), seed_sizes=(10,)).arms:
        seen: set[str] = set()
        for stage in arm.stages:
            behind = {each.path for each in stage.inputs.values() if isinstance(each, Stage)}
            assert behind <= seen, (arm.arm.name, stage.path)
            seen.add(stage.path)


def test_tags_at_inference_need_an_evaluation_and_no_training(run):
    plan = run.plan(Group.TAGS)
    assert own(plan, "tags-both") == []
    for arm in ("tags-seed", "tags-unasked"):
        assert own(plan, arm) == [f"ablations/{arm}/evaluation/M_2"]
    assert set(own(plan, "tags-none")) == below("tags-none", *OF_LAST)


def test_seed_only_is_the_runs_first_model_and_both_its_last(run):
    plan = run.plan(Group.DATA)
    models = {arm.arm.name: arm.evaluation.path for arm in plan.arms}
    assert models == {
        "run": "evaluation/M_2", "data-seed": "evaluation/M_0",
        "data-web": "ablations/data-web/evaluation/M_2", "data-both": "evaluation/M_2",
    }  # fmt: skip
    assert set(plan.to_compute) == below("data-web", *OF_LAST)


def test_seed_size_shares_the_segments_and_the_base_alone(run):
    plan = run.plan(Group.SEED, seed_sizes=(10,))
    (arm,) = [each for each in plan.arms if each.arm.name == "seed-10"]
    shared = {stage.path for stage in arm.stages} - set(own(plan, "seed-10"))
    assert shared == {"segments", "base/initial", "base/examples", "base/model"}
    assert "ablations/seed-10/iter-1/rated" in plan.to_compute
    assert plan.left_out == ()


def test_an_arm_takes_what_an_arm_before_it_computes(run):
    plan = run.plan(Group.CURATION, Group.SIZE, sizes=(13,))
    named = {arm.arm.name: arm for arm in plan.arms}
    equal = named["curation-selected"]
    (limit,) = equal.arm.overrides
    assert limit.endswith("max_pairs: 13}"), limit  # A_5 has so many pairs
    assert named["size-13"].stages == equal.stages
    assert origins(named["size-13"], plan.states)["curation-selected, to do"] == [
        f"ablations/curation-selected/{path}" for path in OF_LAST
    ]


def test_results_of_an_earlier_ablation_are_found_wherever_they_lie(changing_run):
    first = changing_run.plan(Group.CURATION)
    changing_run.finish(first)
    again = changing_run.plan(Group.SIZE, sizes=(13,))
    assert again.to_compute == []
    assert "curation-selected, done" in origins(again.arms[-1], again.states)


def test_begun_stage_of_a_killed_ablation_is_resumed_in_its_place(changing_run):
    plan = changing_run.plan(Group.SIZE, sizes=(5,))
    examples, model, _ = [s for s in plan.arms[1].stages if s.path.startswith("ablations/")]
    examples.finish(changing_run.folder, changing_run.result(examples), 1.0, PROVENANCE)
    model.begin(changing_run.folder)
    states = changing_run.plan(Group.SIZE, sizes=(5,)).states
    assert states[examples.path] is State.DONE
    assert states[model.path] is State.STARTED


def test_planning_writes_nothing(run):
    before = sorted(storage.locate(run.folder)[0].find(run.folder))
    run.plan(*Group)
    assert sorted(storage.locate(run.folder)[0].find(run.folder)) == before


def test_run_that_is_not_finished_is_refused_with_the_command(tmp_path):
    run = FinishedRun(tmp_path, until="iter-2/examples")
    with pytest.raises(UserError, match=r"first is iter-2/model: .*`humpback run tiny --run"):
        run.plan(Group.TAGS)


def test_run_under_other_settings_is_refused(run):
    with pytest.raises(UserError, match="are not done under these settings"):
        run.plan(Group.TAGS, overrides=("settings.random_seed=7",))


def test_missing_corpus_is_named(run):
    with pytest.raises(UserError, match="/none"):
        run.plan(Group.TAGS, overrides=("settings.corpus.path=/none",))


# --- with a judge ---------------------------------------------------------------------------------


@pytest.fixture
def judged(tmp_path) -> FinishedRun:
    return FinishedRun(tmp_path, JUDGE)


def test_every_arm_plays_against_the_runs_first_model(judged):
    plan = judged.plan(Group.TAGS, Group.DATA, Group.SEED, seed_sizes=(10,))
    for arm in plan.arms:
        if arm.arm.name == "data-seed":
            assert arm.judgement is None  # it is the model that the others play against
            continue
        first, last = arm.judgement.evaluations
        assert first.path == "evaluation/M_0"
        assert last == arm.evaluation
        assert arm.stages[-1] == arm.judgement
    assert own(plan, "run") == ["ablations/run/judgement"]
    assert own(plan, "data-both") == []  # it shares the run's game


def test_models_of_another_origin_are_no_opponents_of_an_arm(tmp_path):
    other = "settings.evaluation.models=[{name: lima, model: org/lima}]"
    for arm in FinishedRun(tmp_path, JUDGE, other).plan(Group.DATA).arms:
        assert not any(stage.path.endswith("lima") for stage in arm.stages)
        assert arm.judgement is None or arm.judgement.others == ()


def test_reference_of_the_recipe_is_every_arms_only_opponent(tmp_path):
    reference = tmp_path / "reference.json"
    storage.write_json(
        str(reference), [{"instruction": "Why?", "output": "So.", "generator": "davinci"}]
    )
    run = FinishedRun(
        tmp_path, JUDGE, f"settings.evaluation.reference={reference}",
        f"settings.evaluation.compared={reference}",
    )  # fmt: skip
    for arm in run.plan(Group.DATA).arms:
        assert arm.judgement.evaluations == (arm.evaluation,)
        assert arm.judgement.reference.location == str(reference)
        assert arm.judgement.compared is None
