"""Figures and scores out of the files that lm-evaluation-harness writes (0.4.13's format)."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from humpback_ray import storage
from humpback_ray.errors import UserError
from humpback_ray.evaluation.harness import RESULTS, SAMPLES
from humpback_ray.rows import BenchmarkScore

NO_FILTER = "none"
STDERR = "_stderr"


@dataclass(frozen=True)
class MetricFigures:
    """A task's figure by one metric, as the harness gives it."""

    metric: str
    value: float | None  # None: the harness has no finite value
    stderr: float | None  # None: the harness gives none for the metric
    higher_is_better: bool | None


@dataclass(frozen=True)
class TaskFigures:
    """A task, or a group of tasks that the harness sums up."""

    task: str
    group: str  # of which it is a part; empty for what nothing sums up
    n: int  # questions answered
    num_questions: int  # with those that a limit left out
    version: str  # of the task's file
    metrics: list[MetricFigures]


@dataclass(frozen=True)
class HarnessResults:
    """The figures of one model: groups before their parts."""

    backend: str
    tasks: list[TaskFigures]
    num_answered: int
    num_questions: int


def read_results(folder: str) -> HarnessResults:
    """The figures in the `results_*.json` of a folder.

    Raises:
        UserError: no such file, or one without a part that 0.4.13 writes.
    """
    names = sorted(name for name in storage.names(folder) if name.startswith(RESULTS))
    if not names:
        raise UserError(
            f"lm-eval has ended without an error and written no {RESULTS}*.json into {folder}: "
            "use lm_eval 0.4.13"
        )
    path = storage.join(folder, names[-1])
    content = storage.read_json(path)
    try:
        return _results(content)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} has another format than lm_eval 0.4.13's ({type(error).__name__}: {error}): "
            "use that version"
        ) from error


def _results(content: Mapping[str, Any]) -> HarnessResults:
    parts: Mapping[str, list[str]] = content["group_subtasks"]
    samples: Mapping[str, Mapping[str, int]] = content["n-samples"]
    groups = {part: group for group, members in parts.items() for part in members}
    tasks = []
    for name in _groups_first(content["results"], parts):
        leaves = [samples[leaf] for leaf in leaves_of(name, parts)]
        tasks.append(
            TaskFigures(
                name,
                groups.get(name, ""),
                sum(leaf["effective"] for leaf in leaves),
                sum(leaf["original"] for leaf in leaves),
                str(content["versions"].get(name, "")),
                list(_metrics(content["results"][name], content["higher_is_better"].get(name, {}))),
            )
        )
    totals = [sum(each[key] for each in samples.values()) for key in ("effective", "original")]
    return HarnessResults(str(content["config"]["model"]), tasks, *totals)


def leaves_of(name: str, parts: Mapping[str, list[str]]) -> list[str]:
    """The tasks with questions below a group; a task is its own."""
    members = parts.get(name)
    if not members:
        return [name]
    return [leaf for member in members for leaf in leaves_of(member, parts)]


def _groups_first(results: Mapping[str, Any], parts: Mapping[str, list[str]]) -> list[str]:
    """Names in the order of the results, each group before its parts."""
    below = {part for members in parts.values() for part in members}
    ordered: dict[str, None] = {}

    def enter(name: str) -> None:
        if name in results:
            ordered[name] = None
        for part in parts.get(name) or ():
            enter(part)

    for name in results:
        if name not in below:
            enter(name)
    return list(ordered)


def _metrics(
    values: Mapping[str, Any], higher_is_better: Mapping[str, bool]
) -> Iterator[MetricFigures]:
    """The `metric,filter` entries of a task's results."""
    for key, value in values.items():
        name, comma, filtered = key.partition(",")
        if not comma or name.endswith(STDERR):
            continue
        yield MetricFigures(
            metric_name(name, filtered),
            _finite(value),
            _finite(values.get(f"{name}{STDERR},{filtered}")),
            higher_is_better.get(name),
        )


def metric_name(metric: str, filtered: str) -> str:
    """A metric's name; one of several filters of the answers is a part of it."""
    return metric if filtered == NO_FILTER else f"{metric},{filtered}"


def _finite(value: Any) -> float | None:
    """A number; None for the harness's "N/A" and for NaN, which JSON cannot hold."""
    is_number = isinstance(value, int | float) and math.isfinite(value)
    return float(value) if is_number else None


# --- every question -------------------------------------------------------------------------------


def read_scores(folder: str) -> Iterator[BenchmarkScore]:
    """A model's score on each question by each metric, out of the `samples_*.jsonl` of a folder.

    A metric that has no number for a single question gives no score.
    """
    for name in sorted(storage.names(folder)):
        if not name.startswith(SAMPLES):
            continue
        task = name.removeprefix(SAMPLES).rpartition("_")[0]
        with storage.open_text(storage.join(folder, name)) as file:
            for line in file:
                yield from _scores(task, json.loads(line))


def _scores(task: str, sample: Mapping[str, Any]) -> Iterator[BenchmarkScore]:
    question = sample["doc_hash"][:16]
    for name in sample["metrics"]:
        value = _finite(sample.get(name))
        if value is not None:
            metric = metric_name(name, sample["filter"])
            score_id = f"{task}/{sample['doc_id']:06}/{metric}"
            yield BenchmarkScore(score_id, task, sample["doc_id"], question, metric, value)
