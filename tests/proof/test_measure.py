"""Figures of a run whose truth is planted, and the sabotages that must move them."""

from __future__ import annotations

import copy
import html
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.proof import arms
from benchmarks.proof.claims import CLAIMS, judge_claims
from benchmarks.proof.closed_book import answered_shares
from benchmarks.proof.command import (
    EXPECTED_SECONDS,
    MEASURING_SECONDS,
    RECIPE,
    Clock,
    copy_base,
    parser,
    wanted_arms,
)
from benchmarks.proof.facts import Attribute, make_world
from benchmarks.proof.kinds import Kind, Question, answer
from benchmarks.proof.marks import Scored, Scorer
from benchmarks.proof.measure import area_under_curve, measured, of_models, of_rows
from benchmarks.proof.questions import Asked
from benchmarks.proof.results import write_results
from benchmarks.proof.web import Truth, read_truths
from humpback_ray import pipeline, tables
from humpback_ray.config.recipe import load_recipe
from humpback_ray.config.settings import PromptSettings
from humpback_ray.errors import UserError
from humpback_ray.execution.stage import Result, State
from humpback_ray.report.console import Console
from humpback_ray.rows import RatedPair, RatingOutcome, TrainingExample
from tests.support import proof_run

NUM_BEST = 40
WRONG = "Describe Nobody."


def right_but_every_fifth(at: int, truths: list[Truth]) -> str:
    return WRONG if at % 5 == 0 else truths[at].instruction


def by_truth(at: int, truths: list[Truth]) -> float:
    return float(truths[at].grade) - at / 1e6


def shuffled(at: int, truths: list[Truth]) -> float:
    return 1 + 4 * random.Random(at).random()


def recipe_of(folder: Path, *overrides: str):
    return load_recipe(
        str(RECIPE),
        [f"settings.corpus.path={folder}/none", f"settings.base.text={folder}/none",
         f"settings.selection.num_best={NUM_BEST}", *overrides],
    )  # fmt: skip


def planted_run(folder: Path, model: str, instruction_of=right_but_every_fifth, score_of=by_truth):
    made = proof_run.write_run(folder, recipe_of(folder), model, instruction_of, score_of)
    return made, of_rows(measured(made.run, made.recipe, made.world, made.inputs))


@pytest.fixture(scope="module")
def planted(tmp_path_factory, model_folder):
    return planted_run(tmp_path_factory.mktemp("planted"), model_folder)


def test_accuracies_and_paired_differences_are_the_planted_ones(planted):
    _, found = planted
    value = {name: found["models"][name]["all"]["value"] for name in proof_run.SHARES}
    assert value == pytest.approx(
        {n: 100 * share for n, share in proof_run.SHARES.items()}, abs=0.4
    )
    second = found["differences"]["M_2 - M_1"]["all"]
    assert second["value"] == pytest.approx(10, abs=0.4)
    assert second["discordant"] == pytest.approx(0.1, abs=0.01)
    assert 0 < second["p"] < 0.05
    assert found["win_rates"]["M_2 : M_1"]["win_rate"] == pytest.approx(55, abs=0.4)


def test_methods_of_rating_are_compared_on_the_same_pairs(planted, tmp_path, model_folder):
    made, found = planted
    assert set(found["methods"]) == {"expected"}
    pairs = tables.read_rows(f"{made.run}/iter-1/rated/rows", RatedPair)
    own = found["methods"]["expected"]
    assert own["precision"] == pytest.approx(found["selected"]["A_1"]["precision"])
    assert own["milliseconds_per_pair"] == pytest.approx(1000 * proof_run.BUSY_SECONDS / len(pairs))
    again, _ = planted_run(tmp_path, model_folder)
    unknowing = [replace(pair, score=shuffled(at, []), outcome=RatingOutcome.SCORED)
                 for at, pair in enumerate(pairs)]  # fmt: skip
    unknowing[0] = replace(unknowing[0], score=None, outcome=RatingOutcome.NO_GRADE)
    tables.write_rows(f"{again.run}/arms/rated-mean/rows", unknowing, RatedPair)
    figures = {"engines": {"busy_seconds": 1.0}}
    proof_run.finish(again.run, "arms/rated-mean", len(pairs), figures)
    both = of_rows(measured(again.run, again.recipe, again.world, again.inputs))["methods"]
    assert both["expected"] == own
    assert both["mean"]["num_scored"] == len(pairs) - 1
    assert both["mean"]["area"] == pytest.approx(0.5, abs=0.15)
    assert both["mean"]["precision"] < own["precision"] / 2
    nothing = [replace(pair, score=None, outcome=RatingOutcome.NO_SCORE_LINE) for pair in pairs]
    tables.write_rows(f"{again.run}/arms/rated-text/rows", nothing, RatedPair)
    proof_run.finish(again.run, "arms/rated-text", len(pairs), {})  # as after a resumed pass
    found = of_rows(measured(again.run, again.recipe, again.world, again.inputs))["methods"]
    assert found["text"] == {
        "num_scored": 0, "precision": None, "area": None, "milliseconds_per_pair": None,
    }  # fmt: skip


def test_more_selected_pairs_win_more_by_the_fitted_line(planted):
    _, found = planted
    assert found["scaling"].keys() == {"selected"}  # uncurated has one size here
    fitted = found["scaling"]["selected"]
    sizes = [NUM_BEST // 4, NUM_BEST, 2 * NUM_BEST]
    assert [*fitted["win_rates"]] == [*map(str, sizes)]
    # M_2 is right on 70% of the questions and M_0 on 30, of which they share the first.
    rates = fitted["win_rates"].values()
    assert list(rates) == pytest.approx([65, 70, 75], abs=3)
    slope, _ = np.polyfit(np.log(sizes), list(rates), 1)
    assert fitted["alpha"] == pytest.approx(slope)


def test_groups_of_kinds_add_up_to_all(planted):
    _, found = planted
    model = found["models"]["M_1"]
    groups = ("covered", "uncovered", "aggregate", "covered_aggregate")
    assert sum(model[group]["n"] for group in groups) == model["all"]["n"] == 150
    assert sum(each["n"] for name, each in model.items() if name.startswith("kind")) == 150


def test_pass_at_n_counts_a_question_that_one_sample_answers(planted):
    _, found = planted
    right, never = found["pass_at_n"]["oracle"], found["pass_at_n"]["base"]
    assert (right["num_questions"], right["n"]) == (5, 4)
    assert right["pass_at_1"] == 25  # the first sample alone is right
    assert right["pass_at_n"] == 100
    assert (never["pass_at_1"], never["pass_at_n"]) == (0, 0)


def test_backward_accuracy_and_precision_are_the_planted_ones(planted):
    made, found = planted
    truths = list(read_truths(made.inputs / "truths.jsonl").values())
    is_pair_good = [t.is_good and at % 5 != 0 for at, t in enumerate(truths)]
    assert found["backward"]["good"]["whole"] == pytest.approx(0.8, abs=0.08)
    assert found["rater"]["M_0"]["base_rate"] == pytest.approx(sum(is_pair_good) / len(truths))
    chosen = [at for at, t in enumerate(truths) if t.is_good][:NUM_BEST]
    expected = sum(is_pair_good[at] for at in chosen) / NUM_BEST
    assert found["selected"]["A_1"]["precision"] == pytest.approx(expected)
    assert found["selected"]["A_1"]["good_sections"] == 1
    assert found["rater"]["M_0"]["area"] > 0.85


def test_candidates_misaligned_by_one_row_show_in_backward_accuracy(tmp_path, model_folder):
    def misaligned(at: int, truths: list[Truth]) -> str:
        return truths[(at + 1) % len(truths)].instruction

    _, found = planted_run(tmp_path, model_folder, instruction_of=misaligned)
    assert found["backward"]["good"]["kind"] < 0.2
    assert found["backward"]["good"]["whole"] < 0.05


def test_shuffled_ratings_show_in_precision_and_area(tmp_path, model_folder):
    _, found = planted_run(tmp_path, model_folder, score_of=shuffled)
    rate = found["rater"]["M_0"]["base_rate"]
    assert found["rater"]["M_0"]["area"] == pytest.approx(0.5, abs=0.1)
    assert found["selected"]["A_1"]["precision"] == pytest.approx(rate, abs=0.2)


@pytest.fixture(scope="module")
def whole(planted):
    """All figures of the run; its four models are one and the same."""
    made, found = planted
    models = of_models(measured(made.run, made.recipe, made.world, made.inputs))
    return {**found, **models, "world_seed": 1, "form": "long"}


@pytest.mark.slow
def test_probabilities_of_equal_models_are_equal(whole):
    marks = whole["marks"]
    assert marks.keys() == {"base", "M_0", "M_1", "M_2"}
    assert marks["base"] == marks["M_2"]
    assert all(0 < each["source"] < 0.1 for each in marks["base"]["tags"].values())
    assert whole["likelihood"]["M_0"] == whole["likelihood"]["M_1"]
    assert 0 <= whole["closed_book"]["all"] < 0.4  # random weights know nothing
    assert whole["base_answers"] == {"both": 0, "S_a": 0, "S_w": 0, "none": 0}


@pytest.mark.slow
def test_results_name_every_claim_with_its_result(whole, tmp_path):
    run = whole
    outcomes = {each.claim.name: each for each in judge_claims([run])}
    assert outcomes.keys() == {claim.name for claim in CLAIMS}
    assert outcomes["first"].result == "came out"
    assert outcomes["better_rater"].result == "within noise"  # both raters are the same
    assert outcomes["both_sources"].result == "not measured"
    assert outcomes["web_tag"].result == "not measured"  # one world has no error between worlds
    write_results([run, run], tmp_path, Console(file=(tmp_path / "printed").open("w")))
    page = html.unescape((tmp_path / "proof.html").read_text())
    assert all(claim.text in page for claim in CLAIMS)
    assert "<script" not in page
    gain = page[page.index("Share of the possible gain") :].split("<")[0]
    assert "M_2 50%" in gain  # 70% are right, of 50 by the random arm and 90 by the oracle


@pytest.mark.slow
def test_several_worlds_are_shown_each_and_their_errors_are_those_between_them(whole, tmp_path):
    other = copy.deepcopy(whole) | {"world_seed": 7}
    other["models"]["M_1"]["all"]["value"] += 10
    write_results([whole, other], tmp_path, Console(file=(tmp_path / "printed").open("w")))
    lines = (tmp_path / "proof.md").read_text().splitlines()
    value = whole["models"]["M_1"]["all"]["value"]
    name = r"M\_1"
    assert f"| {name} | {value:.1f} | {value + 10:.1f} |" in [line.strip() for line in lines]
    # Two values d apart have a standard deviation of d / sqrt(2), and their mean one of d / 2.
    assert any(line.startswith(f"| {name} | {value + 5:.1f} ± 5.0 |") for line in lines)
    assert sum(line.startswith("| figure | world ") for line in lines) == 1
    write_results([whole], tmp_path, Console(file=(tmp_path / "printed").open("w")))
    assert "| world " not in (tmp_path / "proof.md").read_text()


def test_arms_have_equal_sizes_and_what_their_names_say(planted):
    made, _ = planted
    pool = arms.read_pool(made.run, made.recipe, read_truths(made.inputs / "truths.jsonl"))
    sizes = {arm: len(arms.chosen_pairs(arm, pool, random.Random(0))) for arm in arms.CORE}
    assert sizes == dict.fromkeys(arms.CORE, NUM_BEST)
    good = {pair.candidate_id for pair in pool.pairs if pool.is_good(pair)}
    assert {name for name, _, _ in arms.chosen_pairs("oracle", pool, random.Random(0))} <= good
    true = arms.chosen_pairs("true_instructions", pool, random.Random(0))
    assert WRONG not in {asked for _, asked, _ in true}


@pytest.mark.parametrize(
    ("options", "wanted"),
    [([], arms.CORE), (["--ablations"], (*arms.CORE, *arms.ABLATIONS)), (["--no-arms"], ()),
     (["--short"], ()), (["--short", "--ablations"], arms.ABLATIONS)],
)  # fmt: skip
def test_options_choose_the_arms(options, wanted):
    assert wanted_arms(parser().parse_args(["--world-seed", "1", *options])) == wanted
    with pytest.raises(SystemExit):
        parser().parse_args(["--world-seed", "1", "--no-arms", "--ablations"])


def test_arm_shares_the_base_and_repeats_nothing(planted):
    made, _ = planted
    stages = pipeline.stages_of(made.recipe)
    pool = arms.read_pool(made.run, made.recipe, read_truths(made.inputs / "truths.jsonl"))
    model, answers = arms.arm_stages("web_only", pool, made.recipe, stages, made.run)
    by_path = {stage.path: stage for stage in stages}
    assert model.base is by_path["base/model"]
    assert answers.prompts == by_path["evaluation/M_0"].prompts
    assert answers.model is model
    rows = tables.read_rows(model.examples.location, TrainingExample)
    assert len(rows) == NUM_BEST
    assert {row.tag for row in rows} == {made.recipe.settings.prompts.web_tag}
    again, _ = arms.arm_stages("web_only", pool, made.recipe, stages, made.run)
    assert again.fingerprint == model.fingerprint


@pytest.mark.parametrize("own", ["both", "seed", "none"])
def test_last_model_is_asked_with_each_other_combination_of_tags(planted, own):
    made, _ = planted
    recipe = recipe_of(made.inputs, f"settings.prompts.inference={own}")
    stages = pipeline.stages_of(recipe)
    asked = [next(s for s in stages if s.path == "evaluation/M_2"),
             *arms.tag_stages(recipe, stages)]  # fmt: skip
    a, w = recipe.settings.prompts.seed_tag, recipe.settings.prompts.web_tag
    given = {(stage.seed_tag, stage.web_tag): stage.name for stage in asked}
    assert len(asked) == len({stage.path for stage in asked}) == len(given) == 4
    names = {(a, w): "M_2-both", (a, ""): "M_2-S_a", ("", w): "M_2-S_w", ("", ""): "M_2-none"}
    assert {tags: name for tags, name in given.items() if name != "M_2"}.items() <= names.items()
    assert {stage.model for stage in asked} == {asked[0].model}


def test_logprobs_of_a_batch_are_those_of_each_row_alone(model_folder):
    scorer = Scorer(model_folder)
    rows = [Scored((1, 5, 9, 7), 2), Scored((1, 8), 1), Scored((1, 4, 4, 4, 4, 4, 4), 3)]
    together = scorer.logprobs(rows)
    assert together == pytest.approx([scorer.logprobs([row])[0] for row in rows], abs=1e-4)
    whole, head = scorer.logprobs([Scored((1, 5, 9, 7), 1), Scored((1, 5), 1)])
    assert whole == pytest.approx(head + together[0], abs=1e-4)


def test_first_line_of_a_batch_is_that_of_each_prompt_alone(model_folder):
    scorer = Scorer(model_folder)
    starts = [[1, 5, 9, 7], [1, 8], [1, 4, 4, 4, 4, 4, 4]]
    together = scorer.first_lines(starts, 12)
    assert together == [scorer.first_lines([start], 12)[0] for start in starts]
    assert any(together)
    assert not any("\n" in line for line in together)


def test_base_answers_if_its_first_line_does_with_or_without_an_opening(model_folder, monkeypatch):
    world = make_world(3, 24)
    asked = [
        Asked(Question(Kind.COLOR, (entity,), (Attribute.COLOR,)), "Which color?", 0)
        for entity in world.entities
    ]
    lines = [
        "In short: " * (at % 2) + " ".join(answer(world, each.question, random.Random(at)))
        for at, each in enumerate(asked)
    ]
    lines[0] = WRONG
    monkeypatch.setattr(Scorer, "first_lines", lambda *_: lines)
    found = answered_shares(world, asked, Scorer(model_folder), PromptSettings())
    assert found == dict.fromkeys(("both", "S_a", "S_w", "none"), 23 / 24)


def test_area_under_the_curve_counts_ties_half():
    assert area_under_curve([3, 2, 1], [True, False, False]) == 1
    assert area_under_curve([1, 1], [True, False]) == 0.5
    assert area_under_curve([1, 1], [True, True]) is None


def test_time_left_follows_the_pace_of_finished_stages():
    clock = Clock(1.0)
    full = clock.minutes_left(["base/model"])
    assert full == pytest.approx((EXPECTED_SECONDS["base/model"] + MEASURING_SECONDS) / 60)
    clock.finish("base/model", 2 * EXPECTED_SECONDS["base/model"])
    assert clock.minutes_left(["base/model"]) == pytest.approx(2 * full)


def test_base_of_another_run_is_done_and_an_unfinished_one_refused(tmp_path):
    stages = {stage.path: stage for stage in pipeline.stages_of(recipe_of(tmp_path))}
    other, run = tmp_path / "other", tmp_path / "run"
    with pytest.raises(UserError, match="has no finished base"):
        copy_base(other, run)
    for path in ("base/text", "base/examples", "base/initial", "base/model"):
        stages[path].finish(str(other), Result(0, {}, {}), 1.0, {})
    copy_base(other, run)
    copy_base(other, run)  # a second start leaves it as it is
    states = {path: stage.find(str(run))[0] for path, stage in stages.items()}
    assert states["base/text"] is states["base/model"] is State.DONE
    assert states["seed"] is not State.DONE
