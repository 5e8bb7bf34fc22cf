"""Engines that hang are ended with all that they have started; others are left alone."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest


class Engine:
    """A process with a watchdog and a child process."""

    def __init__(self, folder: Path, how: str, seconds: float) -> None:
        self.errors = folder / "errors"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.watched_engine", how, str(seconds)],
            cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, stderr=self.errors.open("wb"),
            text=True,
        )  # fmt: skip
        self.family = [psutil.Process(int(pid)) for pid in self._line().split()]

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def tells(self, times: int) -> None:
        """Return when the engine has told its watchdog so often."""
        for _ in range(times):
            assert self._line() == "told\n"

    def is_ended(self) -> None:
        """The engine was killed, and neither its child nor its watchdog has stayed behind."""
        assert self.process.wait(timeout=120) == -signal.SIGKILL
        _, left = psutil.wait_procs(self.family, timeout=60)
        assert not left

    def close(self) -> None:
        for process in [self.process, *self.family]:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self.process.wait()


@pytest.fixture
def engine(tmp_path):
    made = []

    def make(how: str, seconds: float) -> Engine:
        made.append(Engine(tmp_path, how, seconds))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_watchdog_kills_an_engine_with_requests_and_no_step(engine):
    hanging = engine("hangs", 1.0)
    hanging.is_ended()
    errors = hanging.errors.read_text()
    assert "no step for" in errors
    assert "where_the_engine_hangs" in errors


def test_watchdog_kills_a_stopped_engine_after_its_stacks(engine):
    stopped = engine("steps", 3.0)
    stopped.tells(5)
    stopped.process.send_signal(signal.SIGSTOP)
    stopped.is_ended()
    assert "where_the_engine_hangs" in stopped.errors.read_text()


@pytest.mark.parametrize("how", ["steps", "idle"])
def test_watchdog_spares_stepping_and_idle_engines(engine, how):
    working = engine(how, 4.0)
    began = time.monotonic()
    while time.monotonic() - began < 9:
        working.tells(1)
    assert not working.errors.read_text()


def test_killed_watchdog_is_replaced(engine):
    watched = engine("hangs", 6.0)
    watched.tells(1)
    watched.family[1].kill()
    watched.is_ended()
    assert "no step for" in watched.errors.read_text()


def test_watchdog_ends_with_its_engine(engine):
    killed = engine("steps", 300.0)
    killed.tells(1)
    killed.process.kill()
    psutil.wait_procs(killed.family[1:], timeout=60)
    assert not killed.family[1].is_running()
