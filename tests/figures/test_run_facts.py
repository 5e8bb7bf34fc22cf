"""Facts about a run, read from its folder while it runs and after it has stopped."""

from __future__ import annotations

import json
import time
from io import StringIO

import pytest
from rich.console import Console
from typer.testing import CliRunner

from humpback_ray import storage
from humpback_ray.cli import app
from humpback_ray.config.recipe import load_recipe
from humpback_ray.errors import UserError
from humpback_ray.execution import logs, progress, runner
from humpback_ray.execution.stage import PROGRESS, STARTED, Context, Result
from humpback_ray.figures import run_facts
from tests.support.records import Work, execute


def attempt(run: str, stages: list[str]) -> str:
    folder = f"{run}/attempts/001"
    storage.write_json(f"{folder}/attempt.json", {"stages": stages})
    return folder


def stage(path: str, run) -> Work:
    return Work(path=path, work=run)


def states(facts: run_facts.RunFacts) -> list[tuple[str, str]]:
    return [(stage.stage, stage.state) for stage in facts.stages]


@pytest.fixture(params=["local", "memory"])
def run_folder(request, tmp_path) -> str:
    return str(tmp_path / "run") if request.param == "local" else f"memory://{tmp_path}/run"


def test_live_run_shows_its_progress(run_folder, monkeypatch):
    monkeypatch.setattr(progress, "STATE_SECONDS", 0.02)
    seen: list[run_facts.RunFacts] = []

    def num_done() -> int | None:
        seen.append(run_facts.status_of(run_folder))
        (facts,) = [stage for stage in seen[-1].stages if stage.stage == "b"]
        return facts.progress.done

    def work(context: Context) -> Result:
        context.progress.update(1, 10, "rows")
        time.sleep(0.01)
        context.progress.update(3, 10, "rows, 5 tokens/s")
        context.metrics.add(rows=2, rows_per_second=0.5)
        context.metrics.add(rows=3, rows_per_second=1.5, engines_running=1)
        context.metrics.flush()
        give_up = time.monotonic() + 10
        while num_done() != 3 and time.monotonic() < give_up:
            pass
        return Result(3, {"kept": 3})

    attempt(run_folder, ["a", "b", "c"])
    execute(stage("a", lambda _: Result(1, {"kept": 1})), run_folder)
    execute(stage("b", work), run_folder)
    live = seen[-1]
    assert live.state == "running"
    assert live.attempt == 1
    assert states(live) == [("a", "done"), ("b", "running"), ("c", "to do")]
    running = live.stages[1]
    assert (running.progress.done, running.progress.total) == (3, 10)
    assert running.progress.seconds_left > 0
    assert running.metrics["rows_per_second"] == 1.5
    assert "1.5 rows/s" in run_facts.describe_unfinished(running)
    after = run_facts.status_of(run_folder)
    assert states(after) == [("a", "done"), ("b", "done"), ("c", "to do")]
    assert after.state == "stopped"
    assert PROGRESS not in storage.names(f"{run_folder}/b")


def test_stage_without_a_heartbeat_is_not_running(run_folder):
    attempt(run_folder, ["a"])
    stage("a", None).begin(run_folder)
    assert states(run_facts.status_of(run_folder)) == [("a", "started")]
    old = {"time": "2026-01-01T00:00:00Z", "done": 1, "total": 2, "detail": "rows"}
    storage.write_json(f"{run_folder}/a/{PROGRESS}", {**old, "seconds_left": 5.0})
    facts = run_facts.status_of(run_folder)
    assert (facts.state, states(facts)) == ("stopped", [("a", "started")])
    assert "no heartbeat for" in run_facts.describe_unfinished(facts.stages[0])


def test_last_error_is_that_of_the_last_attempt(tmp_path):
    run_folder = str(tmp_path)
    folder = attempt(run_folder, ["a"])
    before = list(logs.logger.handlers)
    logs.log_to(f"{folder}/run.log", "tiny", 1)
    try:
        assert run_facts.status_of(run_folder).last_error is None
        logs.logger.error("a node was lost")
        assert run_facts.status_of(run_folder).last_error.endswith(" a node was lost")
        with pytest.raises(ZeroDivisionError), logs.end_logged():
            _ = 1 / 0
        logs.logger.info("later")
        error = run_facts.status_of(run_folder).last_error
    finally:
        for handler in set(logs.logger.handlers) - set(before):
            logs.logger.removeHandler(handler)
            handler.close()
    assert error.endswith("ZeroDivisionError: division by zero")


def test_last_error_is_read_from_json_lines():
    lines = [
        {"time": "T1", "level": "ERROR", "message": "lost"},
        {"time": "T2", "level": "ERROR", "message": "stopped",
         "exception": "Traceback:\n  File x\n    raise\nValueError: a thing\nand more"},
        {"time": "T3", "level": "INFO", "message": "later"},
    ]  # fmt: skip
    text = "".join(f"{json.dumps(line)}\n" for line in lines)
    assert logs.last_error(text) == "T2 ValueError: a thing and more"
    assert logs.last_error(f"{json.dumps(lines[0])}\n") == "T1 lost"
    assert logs.last_error(f"{json.dumps(lines[2])}\n") is None
    assert logs.last_error("") is None


@pytest.mark.usefixtures("ray_cluster")
def test_user_error_in_a_stage_leaves_no_folder(run_folder):
    def work(context: Context) -> Result:
        raise UserError("a mistake")

    console = Console(file=StringIO())
    with pytest.raises(UserError, match="a mistake"):
        runner.run([stage("a", work)], load_recipe("tiny"), run_folder, console)
    assert not storage.exists(f"{run_folder}/a/{STARTED}")
    assert not storage.names(f"{run_folder}/a")


def test_status_without_a_run_is_a_user_error(run_folder):
    with pytest.raises(UserError, match="no run in"):
        run_facts.status_of(run_folder)


def test_attempt_without_files_has_no_stages(tmp_path):
    (tmp_path / "attempts" / "001").mkdir(parents=True)
    assert run_facts.status_of(str(tmp_path)).stages == []


def test_stages_of_earlier_attempts_follow_those_of_the_last(run_folder):
    attempt(run_folder, ["b", "a"])
    for path in ("iter-2/model", "a"):
        execute(stage(path, lambda _: Result(1, {"kept": 1})), run_folder)
    stage("iter-2/rated", None).begin(run_folder)
    assert states(run_facts.status_of(run_folder)) == [
        ("b", "to do"), ("a", "done"), ("iter-2/model", "done"), ("iter-2/rated", "started")
    ]  # fmt: skip


def test_status_command_prints_the_facts_as_json(tmp_path):
    run_folder = str(tmp_path)
    attempt(run_folder, ["a", "b", "c"])
    execute(stage("a", lambda _: Result(2, {"kept": 2}, {"mean": 0.5})), run_folder)
    stage("b", None).begin(run_folder)
    result = CliRunner().invoke(app, ["status", run_folder, "--json"])
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    done, started, to_do = content.pop("stages")
    assert content == {
        "run": run_folder, "state": "stopped", "attempt": 1, "last_error": None, "problems": [],
    }  # fmt: skip
    assert done.pop("seconds") >= 0
    assert done.pop("finished_at").endswith("Z")
    assert done == {
        "stage": "a", "state": "done", "num_rows": 2, "outcomes": {"kept": 2},
        "fingerprint": stage("a", None).fingerprint, "figures": {"mean": 0.5}, "progress": None,
        "metrics": None, "problem": "",
    }  # fmt: skip
    unknown = dict.fromkeys(("num_rows", "seconds", "finished_at", "progress", "metrics"))
    unknown |= {"outcomes": {}, "figures": {}, "problem": ""}
    assert started == {
        "stage": "b", "state": "started", "fingerprint": stage("b", None).fingerprint, **unknown
    }  # fmt: skip
    assert to_do == {"stage": "c", "state": "to do", "fingerprint": None, **unknown}
