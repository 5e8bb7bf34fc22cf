"""Judgements: by a real endpoint on this machine, and by a scripted engine."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pyarrow.compute as pc
import pytest

from humpback_ray import pipeline, storage, tables
from humpback_ray.config.placement import JudgeEndpointPlacement, Placement
from humpback_ray.config.recipe import load_recipe
from humpback_ray.config.settings import JudgeSettings, SamplingSettings
from humpback_ray.errors import UserError
from humpback_ray.evaluation import judging
from humpback_ray.evaluation.judging import VerdictsBy
from humpback_ray.execution import runner
from humpback_ray.execution.stage import Context, Result, Source, StageRecord, State
from humpback_ray.rows import Comparison, Evaluated, Finish, KnownVerdict, TaskKind, Verdict
from humpback_ray.serving.endpoint import try_endpoint
from humpback_ray.serving.generate import GenerationPass
from humpback_ray.serving.missing_rows import RowFolders
from humpback_ray.serving.requests import Generation
from humpback_ray.stages import judge as judge_stage
from humpback_ray.stages.evaluate import Evaluate
from humpback_ray.stages.judge import Judge
from tests.support.chat_server import limits
from tests.support.generation import context
from tests.support.judge_server import FAULTS, OUTCOMES, JudgeServer, judge_server, shown
from tests.support.judging import SKILLS, Quality, answer, asked, judged, prompts

LETTER, TEXT = VerdictsBy.PROBABILITIES, VerdictsBy.TEXT
NUM_PROMPTS = 12


@pytest.fixture
def server():
    with judge_server() as server:
        yield server


def evaluation(name: str) -> Evaluate:
    return Evaluate(
        path=f"evaluation/{name}", name=name, model=Source("", name), seed=Source("", "seed"),
        prompts=Source("", "prompts"), sampling=SamplingSettings(), seed_tag="", web_tag="",
        context_length=1024, dtype="float32", random_seed=0,
    )  # fmt: skip


def evaluated(number: int, instruction: str, output: str, **changes) -> Evaluated:
    row = Evaluated(
        f"prompt-{number:05}", TaskKind.ANSWER, "mine", instruction, output, None, 0, Finish.STOP
    )
    return replace(row, **changes)


def stage(settings: JudgeSettings, **changes) -> Judge:
    fields = {
        "path": "judgement", "evaluations": tuple(map(evaluation, SKILLS)), "judge": None,
        "reference": None, "compared": None, "settings": settings, "context_length": 1024,
        "dtype": "float32", "random_seed": 0,
    }  # fmt: skip
    return Judge(**{**fields, **changes})


def of_endpoint(server: JudgeServer, **changes) -> Judge:
    named = {"num_control_prompts": 6, **changes}
    return stage(JudgeSettings(endpoint=server.settings, **named))


def of_engines(model: str = "/models/judge", **changes) -> Judge:
    settings = JudgeSettings(model=model, num_control_prompts=6)
    return stage(settings, judge=Source(model, "judge"), **changes)


def placement(**changes) -> Placement:
    quick = {"max_retries": 1, "first_retry_seconds": 0.01, **changes}
    return Placement(judge_endpoint=JudgeEndpointPlacement(**quick))


def write_answers(run: Path, instructions: dict[int, str] | None = None) -> None:
    """The answers of all models; `instructions` replaces those of some prompts."""
    for name in SKILLS:
        rows = [
            evaluated(n, (instructions or {}).get(n, prompt.instruction), answer(name, prompt))
            for n, prompt in enumerate(prompts(NUM_PROMPTS))
        ]
        tables.write_rows(f"{run}/evaluation/{name}/rows", rows, Evaluated)


def place_of(run: Path, make_engine=None, **changes) -> Context:
    where = context(run / "judgement", rows_per_batch=40, make_engine=make_engine)
    placed = placement(**changes).model_copy(update={"engine": where.placement.engine})
    return replace(where, placement=placed)


def verdicts(run: Path) -> list[Verdict]:
    return tables.read_rows(f"{run}/judgement/rows", Verdict)


# --- what is compared -----------------------------------------------------------------------------


def contest(run: Path, judge: Judge):
    return judge._contest(place_of(run))


def test_models_of_a_run_play_on_the_prompts_that_they_have_answered(server, tmp_path):
    write_answers(tmp_path)
    loss = evaluated(90, "Held out.", "So.", task_id="pair-1", kind=TaskKind.LOSS)
    failed = [
        evaluated(0, "What is number 0?", "no", finish=Finish.ENGINE_ERROR),
        evaluated(1, "What is number 1?", "half", finish=Finish.LENGTH),
        evaluated(2, "What is number 2?", "", finish=Finish.STOP),
        evaluated(3, "What is number 3?", "", finish=Finish.PROMPT_TOO_LONG),
    ]
    tables.write_rows(f"{tmp_path}/evaluation/M_1/rows", [*failed, loss], Evaluated)
    found = contest(tmp_path, of_endpoint(server))
    assert found.contestants.own == list(SKILLS)
    assert found.contestants.reference == "M_0"
    assert [prompt.prompt_id for prompt in found.prompts] == [
        f"prompt-{n:05}" for n in range(NUM_PROMPTS)
    ]
    assert found.answers["M_1"] == {"prompt-00001": "half", "prompt-00002": ""}
    assert len(found.answers["M_2"]) == NUM_PROMPTS
    assert found.num_repeated == 0


def test_prompt_that_stands_twice_counts_once(server, tmp_path):
    write_answers(tmp_path, {5: "What is number 2?", 7: "What is number 2?"})
    found = contest(tmp_path, of_endpoint(server))
    assert (len(found.prompts), found.num_repeated) == (NUM_PROMPTS - 2, 2)
    assert found.prompts[2].prompt_id == "prompt-00002"
    assert all(len(given) == NUM_PROMPTS - 2 for given in found.answers.values())


def outputs(path: Path, generator: str, numbers=range(NUM_PROMPTS)) -> Source:
    rows = [
        {"instruction": f"What is number {n}?", "output": "0.9 so", "generator": generator}
        for n in numbers
    ]
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(rows))
    return Source(str(path), generator)


def test_published_outputs_play_and_their_missing_prompts_are_counted(server, tmp_path):
    write_answers(tmp_path)
    reference = outputs(tmp_path / "davinci.json", "davinci")
    outputs(tmp_path / "others" / "guanaco.json", "guanaco", range(3, 99))
    outputs(tmp_path / "others" / "lima.json", "lima")
    compared = Source(str(tmp_path / "others" / "*.json"), "others")
    judge = replace(of_endpoint(server), reference=reference, compared=compared)
    found = contest(tmp_path, judge)
    assert found.contestants.others == ["davinci", "guanaco", "lima"]
    assert found.contestants.reference == "davinci"
    assert len(found.answers["guanaco"]) == NUM_PROMPTS - 3


@pytest.mark.parametrize("name", ["M_1", "davinci"])
def test_outputs_with_the_name_of_another_model_are_refused(server, tmp_path, name):
    write_answers(tmp_path)
    judge = replace(
        of_endpoint(server),
        reference=outputs(tmp_path / "davinci.json", "davinci"),
        compared=outputs(tmp_path / "others" / "a.json", name),
    )
    with pytest.raises(UserError, match=rf"'{name}'.*change `generator` in the file"):
        contest(tmp_path, judge)


def test_sources_of_published_outputs_have_problems_with_their_settings(tmp_path):
    assert judge_stage.reference_source(None) is judge_stage.compared_source(None) is None
    outputs(tmp_path / "a.json", "a")
    (tmp_path / "b.json").write_text('[{"instruction": "x", "generator": "b"}]')
    found = judge_stage.compared_source(f"{tmp_path}/*.json")
    assert found.identity is None
    assert "entry 0 has no text as output" in found.problem
    assert judge_stage.COMPARED_KEY in found.problem
    (tmp_path / "b.json").unlink()
    assert judge_stage.compared_source(f"{tmp_path}/*.json").identity
    assert judge_stage.reference_source(f"{tmp_path}/a.json").identity
    assert judge_stage.REFERENCE_KEY in judge_stage.reference_source(f"{tmp_path}/c.json").problem


# --- the way to read verdicts ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gives_logprobs", "by", "num_sent"), [(True, LETTER, 1), (False, TEXT, 2), (None, TEXT, 2)]
)
def test_endpoint_is_tried_for_log_probabilities(server, gives_logprobs, by, num_sent):
    server.gives_logprobs = gives_logprobs
    assert of_endpoint(server).try_probabilities(placement()) == (by, num_sent)
    assert len(server.requests) == num_sent
    assert server.requests[0].body["logprobs"] is True


def test_way_to_read_verdicts_is_learnt_once_in_a_run(server, tmp_path):
    judge, where = of_endpoint(server), place_of(tmp_path)
    assert judge._verdicts_by(where) == (LETTER, 1)
    server.gives_logprobs = False
    assert judge._verdicts_by(where) == (LETTER, 0)
    other = of_endpoint(server, max_tokens=99)
    assert other._verdicts_by(where)[0] is TEXT
    assert of_engines()._verdicts_by(where) == (LETTER, 0)


@pytest.mark.parametrize("word", ["busy", "broken", "refused"])
def test_endpoint_that_cannot_judge_is_refused_in_one_line(server, word):
    server.refusal = FAULTS[word]
    judge = of_endpoint(server)
    with pytest.raises(UserError, match="cannot judge as judge: HTTP") as error:
        judge.try_probabilities(placement())
    assert "placement.judge_endpoint" in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="cannot judge as judge: HTTP"):
        judge.endpoint_pool(placement(), LETTER, 0)


def test_endpoint_that_stops_to_give_log_probabilities_is_refused(server):
    server.gives_logprobs = False
    with pytest.raises(UserError, match="gives no log-probabilities any more"):
        of_endpoint(server).endpoint_pool(placement(), LETTER, 0)
    of_endpoint(server).endpoint_pool(placement(), TEXT, 0)


def test_judge_of_an_endpoint_has_a_key_of_its_own(server, monkeypatch):
    monkeypatch.setenv("RATER_KEY", "sk-of-the-rater")
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    placed = placement(api_key_variable="JUDGE_KEY").model_copy(
        update={"endpoint": limits(api_key_variable="RATER_KEY")}
    )
    with pytest.raises(UserError, match=r"JUDGE_KEY \(placement\.judge_endpoint\.api_key"):
        of_endpoint(server).try_probabilities(placed)
    monkeypatch.setenv("JUDGE_KEY", "sk-of-the-judge")
    of_endpoint(server).try_probabilities(placed)
    (received,) = server.requests
    assert received.headers["authorization"] == "Bearer sk-of-the-judge"


# --- questions and verdicts -----------------------------------------------------------------------

ROW = tables.as_dict(
    Comparison("id", "key", "M_1", "M_0", False, "prompt-0", "mine", "Why?", "So.", "No.", True)
)
TURNED = ROW | {"is_model_first": False}
NOT_ANSWERED = ROW | {"opponent_output": None}


def test_question_to_an_endpoint_has_the_answers_in_the_order_asked_for(server):
    judge = of_endpoint(server, max_tokens=7)
    request = judge.to_chat_request(ROW, by=LETTER)
    assert shown(request.text) == ("Why?", "So.", "No.")
    assert (request.max_tokens, request.temperature, request.top_logprobs) == (7, 0.0, 20)
    by_text = judge.to_chat_request(TURNED, by=TEXT)
    assert shown(by_text.text) == ("Why?", "No.", "So.")
    assert by_text.top_logprobs is None
    assert judge.to_chat_request(NOT_ANSWERED, by=TEXT) is None


@pytest.mark.parametrize(("row", "preference"), [(ROW, 0.05), (TURNED, 0.95)])
def test_verdict_of_an_endpoint_is_turned_to_the_model(server, row, preference):
    """The server prefers the second of two answers without a number only by its liking."""
    server.judge = Quality(for_first=-0.5)
    judge = of_endpoint(server)
    reply = try_endpoint(server.settings, limits(), judge.to_chat_request(row, by=LETTER))
    found = judge.from_chat_reply(row, reply, by=LETTER)
    assert found["outcome"] == "judged"
    assert found["preference"] == pytest.approx(preference)
    assert found["letter_mass"] == pytest.approx(0.9)
    assert (found["num_prompt_tokens"], found["num_generated_tokens"]) == (11, 3)
    assert tables.to_table([found], Verdict).num_rows == 1
    by_text = judge.from_chat_reply(row, reply, by=TEXT)
    assert by_text["preference"] == round(preference)
    assert by_text["letter_mass"] is None


@pytest.mark.parametrize("word", sorted(FAULTS))
@pytest.mark.parametrize("by", list(VerdictsBy))
def test_fault_of_an_endpoint_is_an_outcome_and_no_verdict(server, word, by):
    server.faults = {word}
    judge, row = of_endpoint(server), ROW | {"instruction": f"A {word} one?"}
    reply = try_endpoint(server.settings, limits(max_retries=1), judge.to_chat_request(row, by=by))
    found = judge.from_chat_reply(row, reply, by=by)
    assert (found["outcome"], found["preference"]) == (OUTCOMES[word], None)


def test_question_to_the_engines_ends_before_the_letter(tokenizer):
    judge = of_engines()
    request = judge.to_request(ROW, tokenizer)
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
    text = other.decode(of_engines().to_request(ROW, other).prompt_ids)
    assert text.startswith("[user] Two assistants")
    assert "[assistant] Better:" in text
    assert "### Request" not in text


def test_verdict_of_the_engines_is_the_share_of_the_letters():
    judge = of_engines()
    said = Generation("", Finish.LENGTH, 99, 1, 64, (math.log(0.6), math.log(0.2)))
    found = judge.to_verdict(ROW, said)
    assert (found["outcome"], found["preference"]) == ("judged", pytest.approx(0.75))
    assert judge.to_verdict(TURNED, said)["preference"] == pytest.approx(0.25)
    assert (found["num_prompt_tokens"], found["num_cached_tokens"]) == (99, 64)
    for finish, outcome in (
        (Finish.ENGINE_ERROR, "engine_error"),
        (Finish.PROMPT_TOO_LONG, "prompt_too_long"),
        (Finish.EMPTY_PROMPT, "no_answer"),
    ):
        assert judge.to_verdict(ROW, Generation("why", finish, 0))["outcome"] == outcome


# --- verdicts that are known ----------------------------------------------------------------------


def known_pass(folder: Path, rows: list[Comparison]) -> GenerationPass:
    tables.write_rows(f"{folder}/_comparisons", rows, Comparison)
    task = of_engines().row_task(place_of(folder))
    return GenerationPass(f"{folder}/_comparisons", f"{folder}/rows", task)


def test_judged_questions_are_kept_and_taken_whichever_models_ask_them(tmp_path):
    rows = asked(num_prompts=4, num_control_prompts=2)
    known = f"{tmp_path}/known"
    tables.write_rows(f"{tmp_path}/old", judged(rows, Quality()), Verdict)
    judge_stage._keep(f"{tmp_path}/old", known)
    judge_stage._keep(f"{tmp_path}/old", known)
    kept = tables.read_rows(known, KnownVerdict)
    assert len(kept) == len({row.key for row in rows})

    turned = [
        replace(
            row, verdict_id=f"{row.opponent}/{row.verdict_id}", model=row.opponent,
            opponent=row.model, output=row.opponent_output, opponent_output=row.output,
            is_model_first=not row.is_model_first,
        )
        for row in rows
    ]  # fmt: skip
    work = known_pass(tmp_path, turned)
    assert judge_stage._take_known(work, known) == len(rows)
    assert judge_stage._take_known(work, known) == 0
    taken = tables.read_rows(work.target, Verdict)
    before = {row.verdict_id: row.preference for row in judged(rows, Quality())}
    for row in taken:
        old = row.verdict_id.partition("/")[2]
        assert row.preference == pytest.approx(1 - before[old])
        assert row.num_prompt_tokens == 0


def test_failed_verdicts_are_not_kept(tmp_path):
    rows = judged(asked(num_prompts=3, missing={("M_1", "prompt-00001")}), Quality())
    rows[0] = replace(rows[0], preference=None, outcome="no_verdict")
    tables.write_rows(f"{tmp_path}/old", rows, Verdict)
    judge_stage._keep(f"{tmp_path}/old", f"{tmp_path}/known")
    kept = {row.key for row in tables.read_rows(f"{tmp_path}/known", KnownVerdict)}
    assert kept == {row.key for row in rows if row.preference is not None}
    assert rows[0].key not in kept


def test_dropped_answers_leave_the_others_saved_once(tmp_path):
    rows = judged(asked(num_prompts=3), Quality())
    rows[5] = replace(rows[5], preference=None, outcome="engine_error")
    folders = RowFolders(f"{tmp_path}/_comparisons", f"{tmp_path}/rows", "verdict_id")
    known_pass(tmp_path, asked(num_prompts=3))
    (shard,) = folders.shards()
    for part in (rows[:10], rows[10:]):
        folders.save_shard(shard.key, tables.to_table(part, Verdict))

    def has_failed(table):
        return pc.equal(table["outcome"], "engine_error")

    assert folders.drop(has_failed) == 1
    assert folders.drop(has_failed) == 0
    left = [row.verdict_id for row in tables.read_rows(folders.target, Verdict)]
    assert sorted(left) == sorted(row.verdict_id for row in rows if row is not rows[5])
    folders.save_shard(shard.key, tables.to_table(rows[:1], Verdict))
    folders.drop(lambda table: pc.equal(table["verdict_id"], rows[0].verdict_id))
    assert len(tables.read_rows(folders.target, Verdict)) == len(left) - 1


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
    assert judge_stage.REFERENCE_KEY in problems


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
    assert len(server.requests) == 50 + 1 + num_rows - 49


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
