"""Models of another origin in an evaluation: how they are asked, and whom they play against."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace

import pytest

from humpback_ray import pipeline, tables
from humpback_ray.config.fields import locations
from humpback_ray.config.recipe import load_recipe
from humpback_ray.config.settings import SamplingSettings
from humpback_ray.errors import UserError
from humpback_ray.execution.stage import Source
from humpback_ray.planning.estimate import num_games
from humpback_ray.rows import Evaluated, Task, TaskKind
from humpback_ray.stages.other_answers import OtherAnswers
from tests.support.generation import context
from tests.support.judge_server import judge_server
from tests.support.judge_stage import NUM_PROMPTS, of_endpoint, place_of, write_answers
from tests.support.scripted_engine import ScriptedEngine

NO_CORPUS = "settings.corpus.path=/none"
JUDGE = "settings.evaluation.judge={model: base}"
TASK = tables.as_dict(Task("prompt-00000", TaskKind.ANSWER, "mine", "Why </s> now?", ""))


def declared(*overrides: str):
    stages = pipeline.stages_of(load_recipe("tiny", [NO_CORPUS, *overrides]))
    return {stage.path: stage for stage in stages}


def models(*entries: str) -> str:
    return f"settings.evaluation.models=[{', '.join(entries)}]"


def answers(name: str = "lima", **changes) -> OtherAnswers:
    fields = {
        "path": f"evaluation/{name}", "name": name, "model": Source("/lima", "lima"),
        "prompts": Source("", "prompts"), "sampling": SamplingSettings(max_tokens=16),
        "context_length": 1024, "dtype": "float32", "random_seed": 0,
    }  # fmt: skip
    return OtherAnswers(**{**fields, **changes})


# --- declared -------------------------------------------------------------------------------------


def test_every_named_model_answers_the_same_prompts_and_no_other_stage_changes():
    two = models("{name: lima, model: /lima}", "{name: zephyr, model: org/zephyr, revision: v1}")
    plain, more = declared(JUDGE), declared(JUDGE, two)
    assert more.keys() - plain.keys() == {"evaluation/lima", "evaluation/zephyr"}
    changed = {p for p, s in more.items() if p in plain and s.fingerprint != plain[p].fingerprint}
    assert changed == {"judgement"}
    asked, own = more["evaluation/zephyr"], more["evaluation/M_2"]
    assert asked.prompts is own.prompts
    assert (asked.sampling, asked.context_length) == (own.sampling, own.context_length)
    assert (asked.model.identity, asked.model.revision) == ("hub:org/zephyr@v1", "v1")
    assert more["evaluation/lima"].problems == (
        "no model folder /lima: set settings.evaluation.models.0.model to a folder with "
        "config.json and safetensors weights, a URL of one, or a Hugging Face hub id",
    )
    assert {"answers_of_lima", "answers_of_zephyr"} <= more["judgement"].inputs.keys()
    assert "evaluation/zephyr" in declared(two), "without a judge people may compare the answers"


def test_code_of_a_trusted_base_says_nothing_of_other_models():
    of_base = "settings.base={model: org/base, trust_remote_code: true}"
    more = declared(of_base, models("{name: other, model: org/other}"))
    assert more["evaluation/base"].trust_remote_code
    assert not more["evaluation/other"].trust_remote_code


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (["{name: M_0, model: a}"], "two models of the evaluation would have the name M_0"),
        (["{name: base, model: a}"], "would have the name base"),
        (["{name: x, model: a}", "{name: x, model: b}"], "would have the name x"),
        (["{name: a/b, model: a}"], r"settings\.evaluation\.models\.0\.name"),
        (["{name: x, modle: a}"], r"models\.0\.modle \(did you mean 'model'\?\)"),
        (["{name: x, model: 's3://'}"], r"settings\.evaluation\.models\.0\.model: nothing follows"),
    ],
)
def test_model_that_cannot_be_named_or_found_is_refused_in_one_line(entries, message):
    with pytest.raises(UserError, match=message) as error:
        load_recipe("tiny", [models(*entries)])
    assert "\n" not in str(error.value)


def test_folder_of_a_model_is_found_beside_its_recipe(tmp_path, monkeypatch):
    mine = tmp_path / "mine"
    (mine / "lima").mkdir(parents=True)
    (mine / "recipe.yaml").write_text(
        "{extends: tiny, name: r, settings: {evaluation: {models: ["
        "{name: lima, model: lima}, {name: hub, model: org/lima}]}}}"
    )
    monkeypatch.chdir(tmp_path)
    settings = load_recipe("mine/recipe.yaml").settings
    marked = {key: value for key, _, value in locations(settings) if "models" in key}
    assert marked == {
        "evaluation.models.0.model": f"{mine}/lima", "evaluation.models.1.model": "org/lima",
    }  # fmt: skip


# --- asked ----------------------------------------------------------------------------------------


def test_model_is_asked_by_its_own_chat_template_without_the_runs_tags(tokenizer):
    other = deepcopy(tokenizer)
    other.chat_template = (
        "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}[assistant] {% endif %}"
    )
    request = answers().to_request(TASK, other)
    # A special token in a prompt is broken up, or it would end the turn.
    assert other.decode(request.prompt_ids) == "[user] Why < /s> now?\n[assistant] "
    assert (request.max_tokens, request.temperature, request.top_p) == (16, 0.7, 0.9)
    tagged = declared()["evaluation/M_2"].to_request(TASK, tokenizer)
    assert "AI Assistant" in tokenizer.decode(tagged.prompt_ids)
    assert "AI Assistant" not in other.decode(request.prompt_ids)


def test_model_without_a_template_gets_the_turn_markers_of_the_run(tokenizer):
    plain = deepcopy(tokenizer)
    plain.chat_template = None
    text = plain.decode(answers().to_request(TASK, plain).prompt_ids)
    assert "### Request\n" in text
    assert "AI Assistant" not in text


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_answers_are_rows_and_outputs_that_people_and_judges_read(tmp_path, model_folder):
    questions = [{"dataset": "mine", "instruction": f"Question {n}?"} for n in range(5)]
    (tmp_path / "prompts.json").write_text(json.dumps(questions))
    stage = answers(
        model=Source(model_folder, "model"),
        prompts=Source(str(tmp_path / "prompts.json"), "prompts"),
    )
    folder = tmp_path / "evaluation"
    result = stage.run(context(folder / "lima", make_engine=ScriptedEngine))
    outputs = json.loads((folder / "lima" / "outputs.json").read_text())
    rows = tables.read_rows(str(folder / "lima" / "rows"), Evaluated)
    assert [row["instruction"] for row in outputs] == [q["instruction"] for q in questions]
    assert {row["generator"] for row in outputs} == {"lima"}
    assert [row.output for row in rows] == [row["output"] for row in outputs]
    assert result.num_rows == result.figures["num_answers"] == 5
    assert "held_out_loss" not in result.figures


# --- judged ---------------------------------------------------------------------------------------


def test_judge_lets_the_last_model_and_the_reference_play_against_every_other(tmp_path):
    write_answers(tmp_path)
    of_m_0 = tables.read_rows(f"{tmp_path}/evaluation/M_0/rows", Evaluated)
    tables.write_rows(f"{tmp_path}/evaluation/lima/rows", of_m_0, Evaluated)
    with judge_server() as server:
        judge = replace(of_endpoint(server), others=(answers(),))
    contest = judge._contest(place_of(tmp_path))
    assert contest.contestants.others == ["lima"]
    assert {("M_2", "lima"), ("lima", "M_0")} <= set(contest.contestants.games())
    assert len(contest.answers["lima"]) == NUM_PROMPTS
    assert num_games(judge) == len(contest.contestants.games())
