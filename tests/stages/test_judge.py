"""Judgements: by a real endpoint on this machine, and by a scripted engine."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from humpback_ray import pipeline, storage, tables
from humpback_ray.config.recipe import load_recipe
from humpback_ray.errors import UserError
from humpback_ray.evaluation import judging, published
from humpback_ray.evaluation.judging import VerdictsBy
from humpback_ray.execution import runner
from humpback_ray.execution.stage import Result, Source, StageRecord, State
from humpback_ray.rows import Evaluated, Finish, TaskKind, Verdict
from humpback_ray.serving.requests import Generation
from humpback_ray.stages.judge import Judge
from tests.support.judge_server import FAULTS, OUTCOMES, judge_server, shown
from tests.support.judge_stage import (
    NUM_PROMPTS,
    evaluated,
    of_endpoint,
    of_engines,
    place_of,
    write_answers,
)
from tests.support.judging import COMPARISON, NOT_ANSWERED, SKILLS, TURNED, answer, prompts

LETTER, TEXT = VerdictsBy.PROBABILITIES, VerdictsBy.TEXT


@pytest.fixture
def server():
    with judge_server() as server:
        yield server


def verdicts(run: Path) -> list[Verdict]:
    return tables.read_rows(f"{run}/judgement/rows", Verdict)


# --- the judge -----------------------------------------------------------------------------------


def test_judgement_compares_answers_of_its_models_and_of_its_files(server, tmp_path):
    write_answers(tmp_path)
    loss = evaluated(90, "Held out.", "So.", task_id="pair-1", kind=TaskKind.LOSS)
    answered = evaluated(1, "What is number 1?", "one")
    tables.write_rows(f"{tmp_path}/evaluation/M_1/rows", [answered, loss], Evaluated)
    files = {}
    for name in ("davinci", "lima"):
        files[name] = Source(str(tmp_path / f"{name}.json"), name)
        rows = [{"instruction": "What is number 2?", "output": "two", "generator": name}]
        storage.write_json(files[name].location, rows)
    judge = replace(of_endpoint(server), compared=files["lima"])
    contest = judge._contest(place_of(tmp_path))
    assert len(contest.prompts) == NUM_PROMPTS
    assert contest.answers["M_1"] == {"prompt-00001": "one"}
    assert contest.answers["lima"] == {"prompt-00002": "two"}
    assert contest.contestants.reference == "M_0"
    judge = replace(judge, reference=files["davinci"])
    contestants = judge._contest(place_of(tmp_path)).contestants
    assert (contestants.reference, contestants.others) == ("davinci", ["davinci", "lima"])


def test_way_to_read_verdicts_is_learnt_once_in_a_run(server, tmp_path):
    judge, where = of_endpoint(server), place_of(tmp_path)
    assert judge._verdicts_by(where) == (LETTER, 1)
    server.gives_logprobs = False
    assert judge._verdicts_by(where) == (LETTER, 0)
    other = of_endpoint(server, max_tokens=99)
    assert other._verdicts_by(where)[0] is TEXT
    assert of_engines()._verdicts_by(where) == (LETTER, 0)


def test_question_to_the_engines_ends_before_the_letter(tokenizer):
    judge = of_engines()
    request = judge.to_request(COMPARISON, tokenizer)
    text = tokenizer.decode(request.prompt_ids)
    asked_for = text.partition("### Request\n")[2].partition("\n\n### Answer\n")[0]
    assert shown(asked_for) == ("Why?", "So.", "No.")
    assert text.rstrip().endswith(judging.VERDICT_LINE)
    letters = [tokenizer.decode([each]).strip() for each in request.wanted_ids]
    assert letters == ["A", "B"]
    assert request.max_tokens == 1
    assert judge.to_request(NOT_ANSWERED, tokenizer).prompt_ids == []


def test_judge_with_a_chat_template_of_its_own_is_asked_with_it(tokenizer):
    from copy import deepcopy

    other = deepcopy(tokenizer)
    other.chat_template = (
        "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}[assistant] {% endif %}"
    )
    text = other.decode(of_engines().to_request(COMPARISON, other).prompt_ids)
    assert text.startswith("[user] Two assistants")
    assert "[assistant] Better:" in text
    assert "### Request" not in text


def test_verdict_of_the_engines_is_the_share_of_the_letters():
    judge = of_engines()
    said = Generation("", Finish.LENGTH, 99, 1, 64, (math.log(0.6), math.log(0.2)))
    found = judge.to_verdict(COMPARISON, said)
    assert (found["outcome"], found["preference"]) == ("judged", pytest.approx(0.75))
    assert judge.to_verdict(TURNED, said)["preference"] == pytest.approx(0.25)
    assert (found["num_prompt_tokens"], found["num_cached_tokens"]) == (99, 64)
    for finish, outcome in (
        (Finish.ENGINE_ERROR, "engine_error"),
        (Finish.PROMPT_TOO_LONG, "prompt_too_long"),
        (Finish.EMPTY_PROMPT, "no_answer"),
    ):
        assert judge.to_verdict(COMPARISON, Generation("why", finish, 0))["outcome"] == outcome


# --- identity and states --------------------------------------------------------------------------


def with_outcomes(judge: Judge, run: Path, **outcomes: int) -> State:
    judge.begin(str(run))
    judge.finish(str(run), Result(sum(outcomes.values()), outcomes), 1.0, {})
    state, record = judge.find(str(run))
    assert isinstance(record, StageRecord)
    return state


def test_judgement_with_failed_verdicts_goes_on_in_the_next_run(server, tmp_path):
    judge = of_endpoint(server)
    assert judge.find(str(tmp_path)) == (State.TO_DO, None)
    assert with_outcomes(judge, tmp_path, judged=9, no_answer=1) is State.DONE
    assert with_outcomes(judge, tmp_path, judged=9, no_verdict=1) is State.STARTED
    assert with_outcomes(judge, tmp_path, judged=9, engine_error=1) is State.STARTED
    assert with_outcomes(judge, tmp_path, judged=10) is State.DONE


def test_judgement_of_engines_asks_only_what_the_engine_failed(tmp_path):
    judge = of_engines()
    assert with_outcomes(judge, tmp_path, judged=9, no_verdict=1) is State.DONE
    assert with_outcomes(judge, tmp_path, judged=9, prompt_too_long=1) is State.DONE
    assert with_outcomes(judge, tmp_path, judged=9, engine_error=1) is State.STARTED


def test_judgement_depends_on_every_models_answers_and_on_the_judge(server):
    judge = of_endpoint(server)
    assert {f"answers_of_{name}" for name in SKILLS} <= judge.inputs.keys()
    other_answers = replace(judge.evaluations[1], random_seed=9)
    evaluations = (judge.evaluations[0], other_answers, *judge.evaluations[2:])
    moved = server.settings.model_copy(update={"url": "http://elsewhere/v1"})
    renamed = server.settings.model_copy(update={"model": "other"})
    assert replace(judge, evaluations=evaluations).fingerprint != judge.fingerprint
    assert replace(judge, dtype="bfloat16").fingerprint == judge.fingerprint
    for served, is_same in ((moved, True), (renamed, False)):
        settings = judge.settings.model_copy(update={"endpoint": served})
        changed = replace(judge, settings=settings)
        assert (changed.fingerprint == judge.fingerprint) is is_same
        keys = [each.question_key("Why?", "So.", "No.", by=LETTER) for each in (judge, changed)]
        assert (keys[0] == keys[1]) is is_same
    engines = of_engines()
    assert replace(engines, dtype="bfloat16").fingerprint != engines.fingerprint


def test_judge_of_a_recipe_is_its_last_stage_and_changes_no_other(tmp_path):
    overrides = ["settings.corpus.path=/none"]
    plain = pipeline.stages_of(load_recipe("tiny", overrides))
    for judge in ("{model: base}", "{endpoint: {url: 'http://h/v1', model: j}}"):
        more = [*overrides, f"settings.evaluation.judge={judge}"]
        *stages, last = pipeline.stages_of(load_recipe("tiny", more))
        assert [each.fingerprint for each in stages] == [each.fingerprint for each in plain]
        assert isinstance(last, Judge)
        assert [each.name for each in last.evaluations] == ["base", "M_0", "M_1", "M_2"]
        assert last.uses_engines is ("model: base" in judge)
        assert (last.judge is None) is not last.uses_engines
        assert last.is_replaceable
    longer = [*overrides, "settings.evaluation.judge={model: base, context_length: 4321}"]
    *stages, last = pipeline.stages_of(load_recipe("tiny", longer))
    assert last.context_length == 4321
    assert [each.fingerprint for each in stages] == [each.fingerprint for each in plain]
    base = pipeline.stages_of(
        load_recipe("tiny", [*overrides, "settings.evaluation.judge={model: base}"])
    )
    (of_base,) = [each for each in base if each.path == "evaluation/base"]
    assert base[-1].judge is of_base.model
    assert base[-1].name == "base"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("settings.evaluation.judge={}", "either an endpoint or a model"),
        (
            "settings.evaluation.judge={model: base, endpoint: {url: 'http://h', model: j}}",
            "either an endpoint or a model",
        ),
        ("settings.evaluation.reference=x.json", "set judge too"),
        ("settings.evaluation.judge={model: base, min_letter_mas: 1}", "did you mean 'min_letter"),
    ],
)
def test_mistake_in_a_judges_settings_is_refused_in_one_line(override, message):
    with pytest.raises(UserError, match=message) as error:
        load_recipe("tiny", [override])
    assert "\n" not in str(error.value)


def test_problems_of_judge_and_outputs_are_known_before_the_first_stage(tmp_path):
    more = [
        "settings.corpus.path=/none",
        f"settings.evaluation.judge={{model: {tmp_path}/none}}",
        f"settings.evaluation.reference={tmp_path}/none.json",
    ]
    problems = "\n".join(pipeline.stages_of(load_recipe("tiny", more))[-1].problems)
    assert "set settings.evaluation.judge.model to a folder" in problems
    assert published.REFERENCE_KEY in problems


# --- through Ray ----------------------------------------------------------------------------------


def run(judge: Judge, folder: Path, make_engine=None, **changes) -> Result:
    place = place_of(folder, make_engine, **changes)
    judge.begin(str(folder))
    result = judge.run(place)
    judge.finish(str(folder), result, 1.0, {})
    return result


@pytest.mark.slow
def test_judgement_by_an_endpoint_asks_failed_questions_again_and_good_ones_never(
    ray_cluster, server, tmp_path
):
    write_answers(tmp_path, {n: f"A {word} one?" for n, word in enumerate(sorted(FAULTS))})
    server.faults = set(FAULTS)
    judge = of_endpoint(server)
    first = run(judge, tmp_path)
    rows = verdicts(tmp_path)
    assert first.num_rows == len(rows) == (5 * NUM_PROMPTS + 5 * 6) * 2
    for row in rows:
        word = row.instruction.split()[1]
        assert row.outcome == OUTCOMES.get(word, "judged")
    assert {each["win_rate"] for each in first.figures["games"]} == {None}
    assert not any(each["passed"] for each in first.figures["controls"])
    assert first.figures["strengths"] == []
    assert judge.find(str(tmp_path))[0] is State.STARTED

    server.faults = set()
    server.requests.clear()
    second = run(judge, tmp_path)
    num_failed = sum(row.outcome != "judged" for row in rows)
    assert len(server.requests) == num_failed + 1, "one request tries the endpoint"
    assert second.outcomes == {"judged": len(rows)}
    assert judge.find(str(tmp_path))[0] is State.DONE
    assert second.figures["verdicts_by"] == "token probabilities"
    assert second.figures["alpaca_eval"]["reason"].startswith("the prompts are not AlpacaEval's")
    assert all(each["passed"] for each in second.figures["controls"])
    by_game = {(each["model"], each["opponent"]): each for each in second.figures["games"]}
    assert by_game["M_2", "base"]["low"] > 50
    board = Path(tmp_path / "judgement/alpaca_eval/leaderboard.csv").read_text()
    assert [line.split(",")[0] for line in board.splitlines()] == ["", "M_2", "M_1", "base"]

    # Another evaluation of the same answers: every verdict is known, and nothing is asked.
    storage.move(f"{tmp_path}/judgement", f"{tmp_path}/superseded/judgement")
    server.requests.clear()
    third = run(judge, tmp_path)
    assert not server.requests
    assert third.figures["num_reused"] == len(rows)
    assert third.figures["games"] == second.figures["games"]


@pytest.mark.slow
def test_judgement_stops_before_it_passes_the_limit_of_requests(ray_cluster, server, tmp_path):
    write_answers(tmp_path)
    judge = of_endpoint(server)
    num_rows = (5 * NUM_PROMPTS + 5 * 6) * 2
    with pytest.raises(UserError, match=r"raise placement\.judge_endpoint\.max_requests"):
        run(judge, tmp_path, max_requests=50)
    assert len(server.requests) == 50
    assert len(verdicts(tmp_path)) == 49, "what is paid for is kept"
    result = run(judge, tmp_path, max_requests=num_rows)
    assert result.outcomes == {"judged": num_rows}
    # Of two rows with the same question, one may have been answered before the stop.
    num_reused = result.figures["num_reused"]
    assert len(server.requests) == 50 + 1 + num_rows - 49 - num_reused


@pytest.mark.slow
def test_judgement_by_engines_has_a_verdict_for_every_answered_pair(
    ray_cluster, model_folder, tmp_path
):
    from functools import partial

    from tests.support.scripted_engine import ScriptedEngine

    write_answers(tmp_path)
    few = [evaluated(n, p.instruction, answer("M_1", p)) for n, p in enumerate(prompts(9))]
    tables.write_rows(f"{tmp_path}/evaluation/M_1/rows", few, Evaluated)
    judge = of_engines(model_folder)
    result = run(judge, tmp_path, make_engine=partial(ScriptedEngine, script="grades"))
    assert result.outcomes["no_answer"] == 2 * 2 * 3
    assert result.outcomes["judged"] == result.num_rows - 2 * 2 * 3
    games = {(each["model"], each["opponent"]): each for each in result.figures["games"]}
    assert games["M_2", "M_1"]["num_judged"] == 9
    assert games["M_2", "M_1"]["win_rate"] is None
    assert 0 <= games["M_2", "M_0"]["win_rate"] <= 100
    assert runner.SET_ASIDE not in storage.names(str(tmp_path))
