"""A run's log: one JSON object a line, each with run, stage and attempt."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from humpback_ray.execution import logs


@pytest.fixture(autouse=True)
def no_log_left():
    yield
    logs.close_run_log()


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_log_line_has_run_stage_and_attempt(tmp_path):
    log = tmp_path / "attempts" / "002" / "run.log"
    logs.log_to(str(log), "demo", 2)
    logs.logger.info("between %s", "stages")
    logs.log_stage("iter-1/model")
    logging.getLogger("humpback_ray.engine").warning("old → new\nand a second line")
    before, inside = lines(log)
    assert before.keys() == {"time", "level", "run", "stage", "attempt", "message"}
    assert before | {"time": ""} == {
        "time": "", "level": "INFO", "run": "demo", "stage": "", "attempt": 2,
        "message": "between stages",
    }  # fmt: skip
    assert (inside["level"], inside["stage"]) == ("WARNING", "iter-1/model")
    assert inside["message"] == "old → new\nand a second line"
    assert before["time"] <= inside["time"]
    assert before["time"].endswith("+00:00")


def test_logged_exception_has_its_text_and_stage(tmp_path, monkeypatch):
    # pytest listens too, and pytest-xdist cannot send half of a surrogate pair.
    monkeypatch.setattr(logs.logger, "handlers", [])
    logs.log_to(str(tmp_path / "run.log"), "demo", 1)
    logs.log_stage("candidates")
    try:
        raise ValueError("a value that is \udc80 wrong")
    except ValueError:
        logs.logger.exception("stopped")
    (line,) = lines(tmp_path / "run.log")
    assert (line["level"], line["stage"], line["message"]) == ("ERROR", "candidates", "stopped")
    assert line["exception"].startswith("Traceback")
    assert "ValueError: a value that is" in line["exception"]


def test_second_run_in_one_process_has_a_separate_log(tmp_path):
    for name in ("first", "second"):
        logs.log_to(str(tmp_path / f"{name}.log"), name, 1)
        logs.logger.info(name)
    for name in ("first", "second"):
        assert [(line["run"], line["message"]) for line in lines(tmp_path / f"{name}.log")] == [
            (name, name)
        ]


def failure() -> ZeroDivisionError:
    try:
        _ = 1 / 0
    except ZeroDivisionError as error:
        return error


def test_traceback_is_kept_in_the_runs_log(tmp_path):
    logs.log_to(str(tmp_path / "run.log"), "demo", 1)
    logs.log_stage("seed")
    assert logs.keep_traceback(failure()) == str(tmp_path / "run.log")
    (line,) = lines(tmp_path / "run.log")
    assert (line["level"], line["stage"]) == ("ERROR", "seed")
    assert "ZeroDivisionError: division by zero" in line["exception"]


def test_traceback_in_the_log_is_not_written_again(tmp_path):
    logs.log_to(str(tmp_path / "run.log"), "demo", 1)
    with pytest.raises(ZeroDivisionError) as raised, logs.end_logged():
        _ = 1 / 0
    assert logs.keep_traceback(raised.value) == str(tmp_path / "run.log")
    assert len(lines(tmp_path / "run.log")) == 1
    assert logs.keep_traceback(failure()) == str(tmp_path / "run.log")
    assert len(lines(tmp_path / "run.log")) == 2


@pytest.mark.parametrize("url", ["", "ftp://127.0.0.1:9/run.log"])
def test_traceback_without_a_writable_log_is_kept_in_a_file(url, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    if url:
        logs.log_to(url, "demo", 1)
    path = Path(logs.keep_traceback(failure()))
    assert path.parent == tmp_path
    assert path.read_text().startswith("Traceback")
    assert "ZeroDivisionError: division by zero" in path.read_text()


def test_closed_log_gets_no_more_lines(tmp_path):
    logs.log_to(str(tmp_path / "run.log"), "demo", 1)
    logs.logger.info("inside")
    logs.close_run_log()
    logs.logger.info("after")
    assert [line["message"] for line in lines(tmp_path / "run.log")] == ["inside"]
