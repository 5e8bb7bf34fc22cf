"""Tables of a run, printed from typed values."""

from __future__ import annotations

from dataclasses import replace

import pytest

from humpback_ray.execution.lease import Heartbeat
from humpback_ray.figures.run_facts import RunFacts, RunState, StageFacts, StageState
from humpback_ray.terminal.runs import print_run
from tests.support.terminal_tables import cells


def done(path: str) -> StageFacts:
    return StageFacts(path, StageState.DONE, num_rows=4, seconds=60.0)


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")


def test_printed_run_shows_counts_progress_and_last_error(capsys):
    progress = Heartbeat("2026-01-01T00:00:00Z", 3, 10, "rows [x]", 65.0)
    finished = replace(done("seed"), outcomes={"kept": 3, "too_short": 1})
    running = StageFacts("segments", StageState.RUNNING, progress=progress)
    to_do = StageFacts("candidates", StageState.TO_DO)
    stages = [finished, running, to_do]
    print_run(RunFacts("/run", RunState.RUNNING, 2, stages, "T1 a node [1] was lost"))
    output = capsys.readouterr().out
    assert "/run: running, attempt 2" in output
    assert cells(output, "seed") == ["seed", "done", "4", "3 kept, 1 too_short", "1:00"]
    assert cells(output, "segments") == [
        "segments",
        "running",
        "3 of 10",
        "rows [x], 1:05 left",
        "",
    ]
    assert cells(output, "candidates") == ["candidates", "to do", "", "", ""]
    assert "last error: T1 a node [1] was lost" in output
