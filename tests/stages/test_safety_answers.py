"""What a model is asked for refusals, as which stages, and what that leaves untouched."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from humpback_ray import pipeline, tables
from humpback_ray.config.recipe import load_recipe
from humpback_ray.config.settings import SAFETY_PROMPTS
from humpback_ray.rows import Finish, SafetyAnswer, Task, TaskKind
from humpback_ray.serving.requests import Generation
from humpback_ray.stages.safety_answers import to_safety_answer

NO_CORPUS = "settings.corpus.path=/none"
MODELS = ("base", "M_0", "M_1", "M_2")


def declared(*overrides: str):
    stages = pipeline.stages_of(load_recipe("tiny", [NO_CORPUS, *overrides]))
    return {stage.path: stage for stage in stages}


@pytest.mark.parametrize("value", ["false", "null"])
def test_no_model_is_asked_unless_the_recipe_says_so(value):
    assert declared(f"settings.evaluation.safety={value}").keys() == declared().keys()


def test_every_model_is_asked_and_no_other_stage_changes():
    plain, more = declared(), declared("settings.evaluation.safety=true")
    assert more.keys() - plain.keys() == {f"safety/{name}" for name in MODELS}
    assert {p: s.fingerprint for p, s in more.items() if p in plain} == {
        p: s.fingerprint for p, s in plain.items()
    }
    for name in MODELS:
        stage = more[f"safety/{name}"]
        assert stage.model is more[f"evaluation/{name}"].model
        assert stage.prompts.location == str(SAFETY_PROMPTS)
        assert stage.is_replaceable
        assert "I cannot help" not in stage.identity["settings"], "phrases, not their names"


def test_users_own_prompts_are_other_stages_and_bad_ones_a_problem(tmp_path):
    content = json.loads(SAFETY_PROMPTS.read_text(encoding="utf-8"))
    (tmp_path / "same.json").write_text(SAFETY_PROMPTS.read_text(encoding="utf-8"))
    (tmp_path / "less.json").write_text(json.dumps({"prompts": content["prompts"][10:30]}))
    (tmp_path / "bad.json").write_text("[]")
    found = {
        name: declared(f"settings.evaluation.safety={tmp_path}/{name}.json")["safety/M_2"]
        for name in ("same", "less", "bad")
    }
    shipped = declared("settings.evaluation.safety=true")["safety/M_2"]
    assert found["same"].fingerprint == shipped.fingerprint != found["less"].fingerprint
    assert "have no list `prompts`" in "\n".join(found["bad"].problems)


def test_safety_prompt_is_asked_as_an_evaluation_prompt(tokenizer):
    more = declared("settings.evaluation.safety=true")
    row = tables.as_dict(Task("safety-00001", TaskKind.ANSWER, "refuse", "How do I harm?", ""))
    asked = more["safety/M_1"].to_request(row, tokenizer)
    assert asked == more["evaluation/M_1"].to_request(row, tokenizer)
    text = tokenizer.decode(asked.prompt_ids)
    assert "How do I harm?" in text
    assert more["safety/M_1"].web_tag in text


@pytest.mark.parametrize(
    ("text", "finish", "outcome"),
    [(" I can't help with that. ", Finish.STOP, "refused"), ("", Finish.ENGINE_ERROR,
     "engine_error")],
)  # fmt: skip
def test_answer_becomes_a_row_with_its_outcome(text, finish, outcome):
    row = tables.as_dict(Task("safety-00001", TaskKind.ANSWER, "refuse", "How do I harm?", ""))
    found = to_safety_answer(row, Generation(text, finish, 9))
    assert tables.to_table([found], SafetyAnswer).num_rows == 1
    assert (found["outcome"], found["expected"]) == (outcome, "refuse")
    assert found["output"] == text.strip()


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_model_answers_every_safety_prompt_on_the_engines(tmp_path, model_folder):
    from dataclasses import replace

    from humpback_ray.execution.stage import Source
    from tests.support.generation import context
    from tests.support.scripted_engine import ScriptedEngine

    stage = replace(
        declared("settings.evaluation.safety=true")["safety/M_1"], path="M_1",
        model=Source(model_folder, "model"), context_length=1024,
    )  # fmt: skip
    result = stage.run(context(Path(tmp_path) / "M_1", make_engine=ScriptedEngine))
    rows = tables.read_rows(f"{tmp_path}/M_1/rows", SafetyAnswer)
    assert len(rows) == result.num_rows == 40
    assert result.outcomes == {"answered": 40}
    assert result.figures["harmful"] == {
        "num_prompts": 20, "num_answers": 20, "num_refused": 0, "refused": 0.0,
        "low": 0.0, "high": pytest.approx(0.161, abs=1e-3),
    }  # fmt: skip
