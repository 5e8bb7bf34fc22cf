"""Figures of benchmarks: every model of a run side by side, and the paper's beside them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from humpback_ray.errors import UserError
from humpback_ray.evaluation.estimates import Estimate, Z
from humpback_ray.figures.benchmark_types import (
    PAPER,
    BenchmarkFigures,
    ModelFigure,
    TaskFigure,
)
from humpback_ray.figures.stage_records import StageRecords
from humpback_ray.figures.stage_rows import scan_rows
from humpback_ray.rows import BenchmarkScore
from humpback_ray.stages.benchmark import SCORES, Benchmark

Scores = dict[tuple[str, str], dict[tuple[int, str], float]]  # by task and metric, by question


def benchmarks_of(records: StageRecords) -> list[BenchmarkFigures]:
    """The figures of all finished benchmarks; empty without any.

    Raises:
        UserError: a record or rows of another version of the program.
    """
    stages = records.of(Benchmark)
    if not stages:
        return []
    try:
        figures = {str(stage.settings["name"]): stage.figures for stage in stages}
        harnesses = {
            name: f"lm-eval {each['lm_eval_version']}, {each['backend']}"
            for name, each in figures.items()
        }
        by_task = _by_task(figures)
    except (KeyError, TypeError) as error:
        raise UserError(
            f"a record in benchmarks lacks {error}: it is damaged, or another version of this "
            "program wrote it"
        ) from error
    base, last = next(iter(figures)), list(figures)[-1]
    before, after = (_scores(records.folder(stage, SCORES)) for stage in (stages[0], stages[-1]))
    leaves = _leaves(figures[last]["tasks"])
    tasks = [
        TaskFigure(
            task, str(found["group"]), metric, int(found["n"]), found["higher_is_better"],
            [_model(name, found["models"].get(name)) for name in figures],
            None if base == last else change_of(before, after, leaves.get(task, [task]), metric),
            PAPER.get(task) if metric == "acc" else None,
        )
        for (task, metric), found in by_task.items()
    ]  # fmt: skip
    return [BenchmarkFigures(base, last, harnesses, tasks)]


def _by_task(figures: Mapping[str, Mapping[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    """Every model's score in a task by a metric, in the order of the records."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for model, of_model in figures.items():
        for task in of_model["tasks"]:
            for metric in task["metrics"]:
                entry = found.setdefault(
                    (task["task"], metric["metric"]),
                    {"group": task["group"], "n": task["n"], "models": {},
                     "higher_is_better": metric["higher_is_better"]},
                )  # fmt: skip
                entry["models"][model] = (metric["value"], metric["stderr"])
    return found


def _model(name: str, found: tuple[float | None, float | None] | None) -> ModelFigure:
    value, stderr = found or (None, None)
    return ModelFigure(name, value, stderr)


def _leaves(tasks: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    """The tasks with questions below each group."""
    parts: dict[str, list[str]] = {}
    for task in tasks:
        if task["group"]:
            parts.setdefault(task["group"], []).append(task["task"])

    def below(name: str) -> list[str]:
        return [leaf for part in parts.get(name, []) for leaf in below(part)] or [name]

    return {group: below(group) for group in parts}


def _scores(folder: str) -> Scores:
    found: Scores = {}
    columns = ["task", "metric", "doc_id", "question", "value"]
    for task, metric, doc_id, question, value in scan_rows(folder, BenchmarkScore, columns):
        found.setdefault((task, metric), {})[doc_id, question] = value
    return found


def change_of(before: Scores, after: Scores, tasks: Iterable[str], metric: str) -> Estimate | None:
    """The mean difference on the questions that both have answered; None without any.

    The interval is of the paired differences: two models err on the same questions, so it is
    narrower than two separate standard errors say (arXiv 2411.00640).
    """
    differences = [
        value - old[question]
        for task in tasks
        for old in [before.get((task, metric), {})]
        for question, value in after.get((task, metric), {}).items()
        if question in old
    ]
    if not differences:
        return None
    mean, n = statistics.fmean(differences), len(differences)
    if n == 1:
        return Estimate(mean, 1)
    half = Z * statistics.stdev(differences) / math.sqrt(n)
    return Estimate(mean, n, mean - half, mean + half)
