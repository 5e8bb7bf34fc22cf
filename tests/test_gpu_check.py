"""The GPU check's code on CPUs, so that it works when there is a GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "gpu_check.py"
TRAININGS = ("curves", "plain", "zero1", "zero3", "7b-widths", "checkpointing")


def run(tmp_path: Path, *arguments: str) -> tuple[subprocess.CompletedProcess[str], dict]:
    file = tmp_path / "check.json"
    finished = subprocess.run(
        [sys.executable, str(SCRIPT), "--tiny", "--json", str(file), *arguments],
        capture_output=True, text=True,
    )  # fmt: skip
    return finished, json.loads(file.read_text())


@pytest.mark.slow
def test_tiny_check_trains_as_plain_pytorch_and_names_what_it_leaves_out(tmp_path: Path) -> None:
    finished, found = run(tmp_path, *TRAININGS, "offload")
    parts = found["parts"]
    assert finished.returncode == 0, finished.stdout[-3000:]
    assert {parts[name]["state"] for name in TRAININGS} == {"ran"}
    assert parts["offload"]["state"] == "left out"
    assert parts["offload"]["reason"] == "there is no GPU to offload from"
    assert parts["zero3"]["figures"]["loss_difference"] < 2e-3
    assert found["comparisons"][-1]["ratio"] > 0
    assert finished.stdout.strip().split("\n")[-1].endswith("(goal 0.95)")


@pytest.mark.slow
def test_tiny_check_without_time_leaves_parts_out(tmp_path: Path) -> None:
    finished, found = run(tmp_path, "--seconds", "0", "plain")
    assert finished.returncode == 0
    assert found["parts"]["plain"]["reason"] == "no time left"
    assert finished.stdout.strip().endswith("ratio: none yet (goal 0.95)")
