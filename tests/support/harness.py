"""A run of lm-evaluation-harness by the program in `lm_eval_program`."""

from __future__ import annotations

import sys
from pathlib import Path

from humpback_ray.config.benchmarks import BenchmarkPlacement, BenchmarkSettings
from humpback_ray.config.placement import EnginePlacement, Placement
from humpback_ray.evaluation.harness import HarnessRun

ROOT = Path(__file__).parents[2]


def make_interpreter(folder: Path) -> str:
    """An executable that stands for a Python with lm_eval."""
    path = folder / "python-with-lm-eval"
    path.write_text(
        f"#!/bin/sh\nPYTHONPATH={ROOT} "
        f'exec {sys.executable} -m tests.support.lm_eval_program "$@"\n'
    )
    path.chmod(0o755)
    return str(path)


def harness_run(folder: Path, python: str | None = None, **changes) -> HarnessRun:
    """A run on a CPU with its output in a folder; `changes` are of its fields."""
    fields = {
        "name": "M_2", "model": "/models/a,b=c", "revision": None,
        "settings": BenchmarkSettings(tasks=("tides", "dunes")), "task_files": None,
        "context_length": 512, "dtype": "auto", "trust_remote_code": False,
        "placement": placement(python), "output": str(folder),
    }  # fmt: skip
    return HarnessRun(**{**fields, **changes})


def placement(python: str | None = None, engine: EnginePlacement | None = None, **changes):
    """A placement on CPUs, unless `engine` is another; `changes` are of the benchmarks'."""
    return Placement(
        engine=engine or EnginePlacement(device="cpu"),
        benchmarks=BenchmarkPlacement(python=python, **changes),
    )
