"""The GPU check's code on CPUs, so that it works when there is a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "gpu_check.py"
TRAININGS = ("curves", "plain", "zero1", "zero3", "7b-widths", "checkpointing")
# Python runs a module of this name at its start: here it finds no package of these names.
HIDE = """
from importlib.machinery import PathFinder
find_spec = PathFinder.find_spec
def find_other(name, *more):
    return None if name.partition(".")[0] in {names!r} else find_spec(name, *more)
PathFinder.find_spec = staticmethod(find_other)
"""


def run(
    tmp_path: Path, *arguments: str, without: tuple[str, ...] = ()
) -> tuple[subprocess.CompletedProcess[str], dict]:
    """The check on CPUs, and its JSON; Python does not find the packages of `without`."""
    file = tmp_path / "check.json"
    (tmp_path / "sitecustomize.py").write_text(HIDE.format(names=set(without)))
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    finished = subprocess.run(
        [sys.executable, str(SCRIPT), "--tiny", "--json", str(file), *arguments],
        capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path},
    )  # fmt: skip
    return finished, json.loads(file.read_text())


@pytest.mark.slow
def test_tiny_check_trains_as_plain_pytorch_without_ray_and_vllm(tmp_path: Path) -> None:
    finished, found = run(
        tmp_path, *TRAININGS, "offload", "ray-train", "rate-text",
        without=("ray", "vllm", "pyarrow"),
    )  # fmt: skip
    parts = found["parts"]
    assert finished.returncode == 0, finished.stdout[-3000:]
    assert {parts[name]["state"] for name in TRAININGS} == {"ran"}
    assert parts["offload"]["reason"] == "there is no GPU to offload from"
    assert parts["ray-train"]["reason"] == "ray, pyarrow not installed"
    assert parts["rate-text"]["reason"] == "vllm not installed"
    assert parts["zero3"]["figures"]["loss_difference"] < 2e-3
    assert found["comparisons"][-1]["ratio"] > 0
    assert finished.stdout.strip().split("\n")[-1].endswith("(goal 0.95)")


@pytest.mark.parametrize(
    ("hidden", "parts"),
    [
        ("torch", ()),
        ("deepspeed", ("curves", "plain", "zero1", "7b-widths", "ray-train")),
        ("vllm", ("generate-bare", "generate-pool", "rate-text", "rate-expected")),
        ("ray", ("ray-train", "generate-pool")),
    ],
)
def test_parts_without_a_package_are_left_out_and_a_check_of_nothing_fails(
    tmp_path: Path, hidden: str, parts: tuple[str, ...]
) -> None:
    finished, found = run(tmp_path, *parts, without=(hidden,))
    assert finished.returncode == 1
    assert found["parts"].keys() >= set(parts)
    for name, outcome in found["parts"].items():
        assert outcome["state"] == "left out", name
        assert f"{hidden}" in outcome["reason"], name
        assert f"{name}: left out, {outcome['reason']}" in finished.stdout
    assert finished.stdout.strip().endswith("ratio: none yet (goal 0.95)")


def test_tiny_check_without_time_leaves_parts_out(tmp_path: Path) -> None:
    finished, found = run(tmp_path, "--seconds", "0", "plain")
    assert finished.returncode == 1
    assert found["parts"]["plain"]["reason"] == "no time left"
    assert finished.stdout.strip().endswith("ratio: none yet (goal 0.95)")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--tiny", "zero9"], "no part zero9: the parts are curves, plain, zero1"),
        (
            ["--tiny", "--json", "/dev/null/a/found.json"],
            "its folder cannot be made: Not a directory",
        ),
        ([], "nvidia-smi finds no GPU here: --tiny tries the same code on CPUs"),
    ],
)
def test_wrong_call_says_what_is_possible(arguments: list[str], line: str) -> None:
    path = os.environ | {"PATH": "/nowhere"}  # without nvidia-smi
    finished = subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, env=path
    )
    assert finished.returncode == 2
    assert line in finished.stderr.splitlines()[-1]
