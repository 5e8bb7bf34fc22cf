"""Looking at a run from elsewhere, while it goes on and after it has stopped."""

from __future__ import annotations

import json
import time
from io import StringIO

import pytest
from rich.console import Console

from humpback_ray import storage
from humpback_ray.config.placement import Placement
from humpback_ray.execution import logs, progress
from humpback_ray.execution.stage import PROGRESS, STARTED, Context, Result, Stage
from humpback_ray.report import run_facts


def attempt(run: str, stages: list[str]) -> str:
    folder = f"{run}/attempts/001"
    storage.write_json(f"{folder}/attempt.json", {"stages": stages})
    return folder


def stage(path: str, run) -> Stage:
    return Stage(path, "seed", 1, {}, {}, run)


def states(found) -> list[tuple[str, str]]:
    return [(each["stage"], each["state"]) for each in found["stages"]]


@pytest.fixture(params=["local", "memory"])
def run_folder(request, tmp_path) -> str:
    return str(tmp_path / "run") if request.param == "local" else f"memory://{tmp_path}/run"


def test_a_live_run_shows_what_goes_on(run_folder, monkeypatch):
    monkeypatch.setattr(progress, "STATE_SECONDS", 0.02)
    seen = {}

    def work(context: Context) -> Result:
        context.progress.update(1, 10, "rows")
        time.sleep(0.01)
        context.progress.update(3, 10, "rows, 5 tokens/s")
        context.metrics.add(rows=2, rows_per_second=0.5)
        context.metrics.add(rows=3, rows_per_second=1.5, engines_running=1)
        context.metrics.flush()
        give_up = time.monotonic() + 10
        while seen.get("done") != 3 and time.monotonic() < give_up:
            (found,) = [s for s in run_facts.status_of(run_folder)["stages"] if s["stage"] == "b"]
            seen.update(found, done=found["progress"]["done"])
        seen["status"] = run_facts.status_of(run_folder)
        return Result(3, {"kept": 3})

    attempt(run_folder, ["a", "b", "c"])
    console = Console(file=StringIO())
    stage("a", lambda _: Result(1, {"kept": 1})).execute(run_folder, Placement(), console)
    stage("b", work).execute(run_folder, Placement(), console)
    live = seen["status"]
    assert live["state"] == "running"
    assert live["attempt"] == 1
    assert states(live) == [("a", "done"), ("b", "running"), ("c", "to do")]
    running = live["stages"][1]
    assert (running["progress"]["done"], running["progress"]["total"]) == (3, 10)
    assert running["progress"]["seconds_left"] > 0
    assert running["metrics"]["rows_per_second"] == 1.5
    assert "1.5 rows/s" in run_facts.describe_unfinished(running)
    after = run_facts.status_of(run_folder)
    assert states(after) == [("a", "done"), ("b", "done"), ("c", "to do")]
    assert after["state"] == "stopped"
    assert PROGRESS not in storage.names(f"{run_folder}/b")


def test_a_stage_without_a_sign_of_life_is_not_running(run_folder):
    attempt(run_folder, ["a"])
    stage("a", None).begin(run_folder)
    assert states(run_facts.status_of(run_folder)) == [("a", "started")]
    old = {"time": "2026-01-01T00:00:00Z", "done": 1, "total": 2, "detail": "rows"}
    storage.write_json(f"{run_folder}/a/{PROGRESS}", {**old, "seconds_left": 5.0})
    found = run_facts.status_of(run_folder)
    assert (found["state"], states(found)) == ("stopped", [("a", "started")])
    assert "no sign of life for" in run_facts.describe_unfinished(found["stages"][0])


def test_the_last_error_of_the_last_attempt(tmp_path):
    run_folder = str(tmp_path)
    folder = attempt(run_folder, ["a"])
    before = list(logs.logger.handlers)
    logs.log_to(f"{folder}/run.log", "tiny", 1)
    try:
        assert run_facts.status_of(run_folder)["last_error"] is None
        logs.logger.error("a node was lost")
        assert run_facts.status_of(run_folder)["last_error"].endswith(" a node was lost")
        with pytest.raises(ZeroDivisionError), logs.end_logged():
            _ = 1 / 0
        logs.logger.info("later")
        error = run_facts.status_of(run_folder)["last_error"]
    finally:
        for handler in set(logs.logger.handlers) - set(before):
            logs.logger.removeHandler(handler)
            handler.close()
    assert error.endswith("ZeroDivisionError: division by zero")


def test_the_last_error_in_json_lines():
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


def test_a_user_mistake_still_leaves_nothing_behind(run_folder):
    def work(context: Context) -> Result:
        raise ValueError("a mistake")

    with pytest.raises(ValueError, match="a mistake"):
        stage("a", work).execute(run_folder, Placement(), Console(file=StringIO()))
    assert not storage.exists(f"{run_folder}/a/{STARTED}")
    assert not storage.names(f"{run_folder}/a")


def test_no_run(run_folder):
    with pytest.raises(ValueError, match="no run in"):
        run_facts.status_of(run_folder)
