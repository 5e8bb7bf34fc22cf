"""Processes, time limits and lanes of the GPU check, on parts that need no library."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

# The benchmarks are scripts and import each other as such.
sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))

from gpu_check import PARTS, TOTAL_SECONDS
from gpu_parts import MOST_SHARES, SMALLEST_LIMIT, Part, run_lanes, time_limit


@dataclass(frozen=True)
class Inputs:
    folder: Path
    device: str = "gpu"  # parts are then spawned, as on a GPU


def answer(inputs: Inputs) -> dict[str, Any]:
    return {"value": 1.0, "pid": os.getpid()}


def wait_for_other(inputs: Inputs, mine: str, other: str) -> dict[str, Any]:
    (inputs.folder / mine).touch()
    while not (inputs.folder / other).exists():
        time.sleep(0.02)
    return {}


def wait_for_second(inputs: Inputs) -> dict[str, Any]:
    return wait_for_other(inputs, "first", "second")


def wait_for_first(inputs: Inputs) -> dict[str, Any]:
    return wait_for_other(inputs, "second", "first")


def hang(inputs: Inputs) -> dict[str, Any]:
    """Never end, nor let a process that this one has started end."""
    child = subprocess.Popen(["sleep", "3600"])
    (inputs.folder / "hanging").write_text(f"{os.getpid()} {child.pid}")
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        time.sleep(60)


class HangsWhenRead:
    """A part that hangs while its process still imports, before it has a group."""

    def __call__(self, inputs: Inputs) -> dict[str, Any]:
        return {}

    def __reduce__(self) -> Any:
        return time.sleep, (3600,)


def refuse(inputs: Inputs) -> dict[str, Any]:
    print("a warning of some library")
    raise ValueError("the widths do not fit")


def die(inputs: Inputs) -> dict[str, Any]:
    print("loading the weights", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def run_one_lane(tmp_path: Path, seconds: float, **parts: Part) -> dict[str, Any]:
    return run_lanes([parts], Inputs(tmp_path), tmp_path, seconds)


def test_shares_of_all_parts_stay_within_eight_minutes() -> None:
    assert sum(part.share for part in PARTS.values()) <= TOTAL_SECONDS == 480


@pytest.mark.parametrize("hanging", PARTS)
def test_part_that_hangs_leaves_all_later_ones_their_shares(hanging: str) -> None:
    names = list(PARTS)
    remaining = float(TOTAL_SECONDS)
    for place, name in enumerate(names):
        share = PARTS[name].share
        after = sum(PARTS[later].share for later in names[place + 1 :])
        limit = time_limit(share, after, remaining)
        assert share <= limit <= MOST_SHARES * share
        remaining -= limit if name == hanging else share
    assert remaining >= 0


def test_part_gets_what_earlier_ones_left_and_none_where_too_little_is_left() -> None:
    assert time_limit(20, 100, 121.0) == 21
    assert time_limit(20, 0, 1000.0) == MOST_SHARES * 20
    assert time_limit(20, 100, 100.0 + SMALLEST_LIMIT - 1) == 0


def test_hanging_part_costs_its_limit_and_the_next_one_runs(tmp_path: Path) -> None:
    hanging = Part(hang, SMALLEST_LIMIT, ())
    following = Part(answer, 600, ())
    found = run_one_lane(tmp_path, 600 + SMALLEST_LIMIT + 5, hanging=hanging, next=following)
    assert found["hanging"].state == "failed"
    assert found["hanging"].reason.startswith("no answer within")
    assert SMALLEST_LIMIT <= found["hanging"].seconds < SMALLEST_LIMIT + 20
    assert found["next"].state == "ran"


def test_part_that_hangs_in_its_imports_is_killed(tmp_path: Path) -> None:
    before = {process.pid for process in psutil.Process().children()}
    found = run_one_lane(tmp_path, 600, imports=Part(HangsWhenRead(), SMALLEST_LIMIT // 3, ()))
    assert found["imports"].reason == f"no answer within {SMALLEST_LIMIT} s"
    after = [process for process in psutil.Process().children() if process.pid not in before]
    assert not [process for process in after if "spawn_main" in " ".join(process.cmdline())]


def test_failures_are_told_by_their_last_words(tmp_path: Path) -> None:
    parts = {"refuse": Part(refuse, 60, ()), "die": Part(die, 60, ())}
    found = run_one_lane(tmp_path, 300, **parts)
    assert found["refuse"].reason == "ValueError: the widths do not fit"
    assert found["die"].reason == "killed by signal 9: loading the weights"


def test_lanes_run_side_by_side(tmp_path: Path) -> None:
    first, second = ({"a": Part(wait_for_second, 200, ())}, {"b": Part(wait_for_first, 200, ())})
    found = run_lanes([first, second], Inputs(tmp_path), tmp_path, 600)
    assert {name: outcome.state for name, outcome in found.items()} == {"a": "ran", "b": "ran"}


def test_interrupt_kills_the_running_part_and_leaves_the_others_out(tmp_path: Path) -> None:
    def interrupt() -> None:
        while not (tmp_path / "hanging").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    found = run_one_lane(tmp_path, 600, hang=Part(hang, 200, ()), next=Part(answer, 60, ()))
    assert (found["hang"].state, found["hang"].reason) == ("failed", "interrupted")
    assert (found["next"].state, found["next"].reason) == ("left out", "interrupted")
    pids = [int(pid) for pid in (tmp_path / "hanging").read_text().split()]
    assert not any(is_alive(pid) for pid in pids)


def test_part_without_its_packages_is_left_out_by_their_names() -> None:
    part = Part(answer, 60, ("json", "no_such_package", "nor_this"), "it needs a GPU")
    assert part.reason_against("gpu") == "no_such_package, nor_this not installed"
    assert Part(answer, 60, ("json",), "it needs a GPU").reason_against("cpu") == "it needs a GPU"
    assert Part(answer, 60, ("json",)).reason_against("cpu") == ""
