"""Stages: skipped when done, refused when changed, resumed when begun, recorded last."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import psutil
import pytest
from rich.console import Console

from humpback_ray import storage, tables
from humpback_ray.config.recipe import load_recipe
from humpback_ray.errors import UserError
from humpback_ray.execution import lease, runner
from humpback_ray.execution.stage import (
    NOT_HASHED,
    PROGRESS,
    Context,
    Part,
    Result,
    Source,
    Stage,
    StageRecord,
    State,
    fingerprint,
    read_record,
)
from humpback_ray.rows import SeedPair

CONSOLE = Console(file=open(os.devnull, "w"))  # noqa: SIM115


RECIPE = load_recipe("tiny")
pytestmark = pytest.mark.usefixtures("ray_cluster")


@dataclass(frozen=True, kw_only=True)
class Pairs(Stage):
    """A stage with settings and an input; its work is a function of the test."""

    kind: ClassVar[str] = "seed"
    version: ClassVar[int] = 1
    part: ClassVar[Part] = "prepare"

    corpus: Source | Stage
    settings: dict[str, Any]
    work: Callable[[Context], Result] = field(metadata=NOT_HASHED)

    def run(self, context: Context) -> Result:
        return self.work(context)


def pairs_stage(runs: list[str], settings=None, path="seed", corpus="one", kind=Pairs) -> Pairs:
    def work(context):
        runs.append(path)
        tables.write_rows(context.path("rows"), [SeedPair("a", "x", "y")], SeedPair)
        return Result(1, {"kept": 1}, {"mean": 1.0})

    return kind(
        path=path, settings=settings or {"language": "en", "nested": {"k": 4.5}},
        corpus=Source("/somewhere", corpus), work=work,
    )  # fmt: skip


def execute(stage: Stage, folder) -> StageRecord:
    return runner.run([stage], RECIPE, str(folder), CONSOLE)[stage.path]


def test_stage_is_to_do_then_done_with_its_counts_in_the_record(tmp_path):
    runs: list[str] = []
    stage = pairs_stage(runs)
    assert stage.find(str(tmp_path)) == (State.TO_DO, None)
    execute(stage, tmp_path)
    state, record = stage.find(str(tmp_path))
    assert state is State.DONE
    assert record.num_rows == 1
    assert record.outcomes == {"kept": 1}
    assert record.provenance["versions"]["ray"]
    assert storage.names(f"{tmp_path}/seed") == {"rows", "record.json"}


def test_stage_killed_between_rows_and_record_resumes(tmp_path):
    stage = pairs_stage([])

    def killed(context):
        stage.run(context)
        raise KeyboardInterrupt

    interrupted = replace(stage, work=killed)
    with pytest.raises(KeyboardInterrupt):
        execute(interrupted, tmp_path)
    assert storage.exists(f"{tmp_path}/seed/rows/part-0.parquet")
    assert stage.find(str(tmp_path)) == (State.STARTED, None)
    execute(stage, tmp_path)
    assert stage.find(str(tmp_path))[0] is State.DONE
    assert tables.num_rows(f"{tmp_path}/seed/rows") == 1


@pytest.fixture
def other_process():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield psutil.Process(process.pid)
        process.kill()


def leave_heartbeat(folder, beat: int = 0, **driver) -> None:
    by = replace(lease.this_driver(), **driver)
    left = lease.Heartbeat("2026-11-28T10:00:00Z", beat, 99, "rows", None, by)
    storage.write_json(f"{folder}/seed/{PROGRESS}", asdict(left))


def test_stage_of_another_live_process_is_refused_until_it_ends(tmp_path, other_process):
    stage = pairs_stage([])
    stage.begin(str(tmp_path))
    leave_heartbeat(tmp_path, pid=other_process.pid, started=other_process.create_time())
    before = storage.names(f"{tmp_path}/seed")
    with pytest.raises(ValueError, match=f"another driver, process {other_process.pid} on"):
        execute(stage, tmp_path)
    assert storage.names(f"{tmp_path}/seed") == before
    # A process number that has come again is not that driver.
    leave_heartbeat(tmp_path, pid=other_process.pid, started=other_process.create_time() - 60)
    execute(stage, tmp_path)
    assert stage.find(str(tmp_path))[0] is State.DONE


@pytest.mark.parametrize("lives", [True, False])
def test_driver_of_another_machine_is_found_by_its_heartbeat(tmp_path, monkeypatch, lives):
    monkeypatch.setattr(lease, "PATIENCE_SECONDS", 3.0)
    stage = pairs_stage([])
    leave_heartbeat(tmp_path, host="elsewhere", beat=0)
    beats, done = count(1), threading.Event()

    def live() -> None:
        while not done.wait(0.2):
            leave_heartbeat(tmp_path, host="elsewhere", beat=next(beats))

    thread = threading.Thread(target=live)
    if lives:
        thread.start()
    try:
        if lives:
            with pytest.raises(ValueError, match="on elsewhere: wait for its end"):
                execute(stage, tmp_path)
        else:
            execute(stage, tmp_path)
    finally:
        done.set()
    assert (stage.find(str(tmp_path))[0] is State.DONE) is not lives


@pytest.mark.parametrize(
    ("changed", "difference"),
    [
        ({"settings": {"language": "de", "nested": {"k": 4.5}}}, 'settings.language: "en" → "de"'),
        ({"settings": {"language": "en", "nested": {"k": 4.0}}}, "settings.nested.k: 4.5 → 4.0"),
        ({"settings": {"language": "en"}}, "settings.nested.k: 4.5 → null"),
        ({"corpus": "two"}, "inputs.corpus: "),
    ],
)
def test_changed_settings_or_inputs_are_refused_field_by_field(tmp_path, changed, difference):
    execute(pairs_stage([]), tmp_path)
    stage = pairs_stage([], **changed)
    state, begun = stage.find(str(tmp_path))
    assert state is State.CHANGED
    (found,) = stage.differences(begun)
    assert found.startswith(difference)


def test_sequences_that_are_equal_are_no_difference(tmp_path):
    execute(pairs_stage([], settings={"language": "en", "grades": (1, 2)}), tmp_path)
    stage = pairs_stage([], settings={"language": "de", "grades": (1, 2)})
    _, begun = stage.find(str(tmp_path))
    assert stage.differences(begun) == ['settings.language: "en" → "de"']


def test_begun_stage_with_other_settings_is_refused(tmp_path):
    stage = pairs_stage([])
    storage.write_json(
        f"{tmp_path}/seed/started.json",
        {"fingerprint": stage.fingerprint, "identity": stage.identity},
    )
    assert stage.find(str(tmp_path))[0] is State.STARTED
    assert pairs_stage([], corpus="two").find(str(tmp_path))[0] is State.CHANGED


def test_user_error_without_a_result_leaves_no_folder(tmp_path):
    def mistaken(context):
        raise UserError("no segment survives")

    stage = replace(pairs_stage([], path="segments"), work=mistaken)
    with pytest.raises(ValueError, match="survives"):
        execute(stage, tmp_path)
    assert stage.find(str(tmp_path)) == (State.TO_DO, None)
    assert not storage.exists(f"{tmp_path}/segments")


def test_fingerprint_follows_settings_and_inputs_only():
    assert pairs_stage([]).fingerprint == pairs_stage([]).fingerprint
    elsewhere = replace(pairs_stage([]), path="elsewhere", corpus=Source("/other/place", "one"))
    assert elsewhere.fingerprint == pairs_stage([]).fingerprint
    assert pairs_stage([], corpus="two").fingerprint != elsewhere.fingerprint
    downstream = [
        replace(pairs_stage([]), path="next", corpus=pairs_stage([], corpus=corpus)).fingerprint
        for corpus in ("one", "two")
    ]
    assert downstream[0] != downstream[1]


def test_changed_stage_is_refused_before_any_write(tmp_path):
    execute(pairs_stage([]), tmp_path)
    before = storage.names(str(tmp_path / "attempts"))
    runs: list[str] = []
    with pytest.raises(UserError, match="made under other settings or inputs"):
        execute(pairs_stage(runs, corpus="two"), tmp_path)
    assert not runs
    assert storage.names(str(tmp_path / "attempts")) == before


class ReplaceablePairs(Pairs):
    is_replaceable: ClassVar[bool] = True


def test_changed_stage_without_readers_is_set_aside_and_run(tmp_path):
    first = pairs_stage([], kind=ReplaceablePairs)
    old = execute(first, tmp_path)
    runs: list[str] = []
    new = execute(pairs_stage(runs, corpus="two", kind=ReplaceablePairs), tmp_path)
    assert runs == ["seed"]
    assert new.fingerprint != old.fingerprint
    kept = tmp_path / "superseded" / old.fingerprint[:12] / "seed"
    assert read_record(str(kept)) == old
    assert tables.num_rows(str(kept / "rows")) == 1


def test_missing_source_is_refused_before_any_write(tmp_path):
    stage = replace(pairs_stage([]), corpus=Source("/nowhere", None, problem="nothing at /nowhere"))
    with pytest.raises(UserError, match="nothing at /nowhere"):
        execute(stage, tmp_path)
    assert not storage.names(str(tmp_path))


class Training(Pairs):
    @property
    def uses_workers(self) -> bool:
        return True


def test_base_model_is_judged_before_the_first_stage_of_a_run_that_trains(model_folder, tmp_path):
    base = tmp_path / "base"
    base.mkdir()
    for path in Path(model_folder).iterdir():
        (base / path.name).write_bytes(path.read_bytes())
    lengths = ["settings.context_length=512", "settings.backward_training.max_length=512",
               "settings.forward_training.max_length=512"]  # fmt: skip
    recipe = load_recipe("tiny", [f"settings.base={{kind: pretrained, model: {base}}}", *lengths])
    whole = (base / "model.safetensors").read_bytes()
    (base / "model.safetensors").write_bytes(whole[:-1])
    runs: list[str] = []
    stages = [pairs_stage(runs), pairs_stage(runs, path="model", kind=Training)]
    run = str(tmp_path / "run")
    with pytest.raises(UserError, match=r"model\.safetensors of .* copy it again"):
        runner.run(stages, recipe, run, CONSOLE, until="seed")
    assert not runs
    assert not storage.exists(run)
    (base / "model.safetensors").write_bytes(whole)
    # One worker is room enough; the stage trains nothing.
    runner.run(stages, recipe, run, CONSOLE)
    assert runs == ["seed", "model"]
    (base / "model.safetensors").write_bytes(b"")
    runner.run([*stages, pairs_stage(runs, path="report")], recipe, run, CONSOLE)
    assert runs == ["seed", "model", "report"], "no stage that is left needs the base"


class Rating(Pairs):
    part: ClassVar[Part] = "rate"


def test_endpoint_without_its_key_is_refused_before_the_first_stage(monkeypatch, tmp_path):
    monkeypatch.delenv("RATER_KEY", raising=False)
    recipe = load_recipe("tiny", [
        "settings.rating.endpoint={url: 'http://127.0.0.1:1/v1', model: m}",
        "placement.endpoint.api_key_variable=RATER_KEY",
    ])  # fmt: skip
    runs: list[str] = []
    stages = [pairs_stage(runs), pairs_stage(runs, path="rated", kind=Rating)]
    run = str(tmp_path / "run")
    with pytest.raises(UserError, match=r"RATER_KEY .* is not set: export the endpoint's key"):
        runner.run(stages, recipe, run, CONSOLE)
    assert not runs
    assert not storage.exists(run)
    runner.run(stages, recipe, run, CONSOLE, until="seed")
    monkeypatch.setenv("RATER_KEY", "secret")
    runner.run(stages, recipe, run, CONSOLE)
    assert runs == ["seed", "rated"]


class Judging(Pairs):
    part: ClassVar[Part] = "evaluate"


def test_judges_endpoint_without_its_key_is_refused_before_the_first_stage(monkeypatch, tmp_path):
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    recipe = load_recipe("tiny", [
        "settings.evaluation.judge={endpoint: {url: 'http://127.0.0.1:1/v1', model: m}}",
        "placement.judge_endpoint.api_key_variable=JUDGE_KEY",
    ])  # fmt: skip
    runs: list[str] = []
    stages = [pairs_stage(runs), pairs_stage(runs, path="judged", kind=Judging)]
    run = str(tmp_path / "run")
    with pytest.raises(UserError, match=r"JUDGE_KEY \(placement\.judge_endpoint\..* is not set"):
        runner.run(stages, recipe, run, CONSOLE)
    runner.run(stages, recipe, run, CONSOLE, until="seed")
    assert runs == ["seed"]


class Refusing(Pairs):
    def check(self, placement):
        raise UserError(f"nothing for {placement.engine.device} here")


def test_stage_that_refuses_stops_a_run_before_its_first_stage(tmp_path):
    runs: list[str] = []
    stages = [pairs_stage(runs), pairs_stage(runs, path="refusing", kind=Refusing)]
    run = str(tmp_path / "run")
    with pytest.raises(UserError, match="nothing for cpu here"):
        runner.run(stages, load_recipe("tiny"), run, CONSOLE)
    assert not runs
    assert not storage.exists(run)
    runner.run(stages, load_recipe("tiny"), run, CONSOLE, until="seed")
    assert runs == ["seed"]


@pytest.mark.parametrize("value", [{1, 2}, object(), float("nan"), b"bytes"])
def test_fingerprint_of_a_value_without_stable_form_is_refused(value):
    with pytest.raises((TypeError, ValueError)):
        fingerprint({"value": value})


def test_result_with_outcomes_that_do_not_add_up_fails():
    with pytest.raises(AssertionError):
        Result(3, {"kept": 1, "dropped": 1})


def test_attempts_of_an_arm_leave_the_runs_recipe_and_attempts_as_they_are(tmp_path):
    execute(pairs_stage([]), tmp_path)
    before = storage.read_json(f"{tmp_path}/config.json")
    other = load_recipe("tiny", ["settings.random_seed=7"])
    arm = pairs_stage([], path="ablations/arm/seed", settings={"language": "de"})
    folder = f"{tmp_path}/ablations/arm"
    runner.run([arm], other, str(tmp_path), CONSOLE, attempts_in=folder)
    assert storage.read_json(f"{tmp_path}/config.json") == before
    assert storage.names(f"{tmp_path}/attempts") == {"001"}
    assert storage.read_json(f"{folder}/config.json")["settings"]["random_seed"] == 7
    assert storage.names(f"{folder}/attempts/001") == {"attempt.json", "run.log"}
    assert arm.find(str(tmp_path))[0] is State.DONE
