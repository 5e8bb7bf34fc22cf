"""Finished benchmarks in a run's folder, of invented tasks; later models answer more rightly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from humpback_ray.execution.stage import Result
from humpback_ray.stages.benchmark import Benchmark
from tests.support.generation import context
from tests.support.harness_files import write_files

# Named like the harness's tasks, because the report knows the paper's figures by these names.
OVERRIDE = "settings.evaluation.benchmarks.tasks=[mmlu,piqa,crows_pairs_english]"
GROUPS = {"mmlu": ["mmlu_tides", "mmlu_dunes"]}
NUM_QUESTIONS = {"mmlu_tides": 30, "mmlu_dunes": 10, "piqa": 40}
SKILLS = {"base": 3, "M_0": 4, "M_1": 5, "M_2": 6}  # right answers of ten


def scores_of(model: str) -> Mapping[str, Sequence[Mapping[str, float]]]:
    """Scores of a model by task; a later model is right wherever an earlier one is."""

    def is_right(number: int) -> float:
        return float(number * 7 % 10 < SKILLS[model])

    scores = {
        task: [{"acc": is_right(n), "acc_norm": is_right(n + 1)} for n in range(number)]
        for task, number in NUM_QUESTIONS.items()
    }
    crows = [
        {"likelihood_diff": 1.5 + is_right(n), "pct_stereotype": is_right(n)} for n in range(20)
    ]
    return {**scores, "crows_pairs_english": crows, "crows_pairs_english_age": crows[:10]}


def write_benchmarks(run_folder: str, stage: Benchmark, version: str = "0.4.13") -> Result:
    """Write a stage's files; returns its result."""
    folder = Path(run_folder, stage.path)
    write_files(folder, scores_of(stage.name), GROUPS)
    place = replace(context(folder), run_folder=run_folder, stage=stage.path)
    return stage.result(place, version)
