"""Facts about a run, read from its folder: its stages, its state, its last model."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, TypeVar

from humpback_ray import storage
from humpback_ray.config.recipe import Recipe
from humpback_ray.errors import UserError
from humpback_ray.execution import clock, lease, logs
from humpback_ray.execution.metrics import parse_metrics
from humpback_ray.execution.stage import (
    ABLATIONS,
    METRICS,
    PROGRESS,
    RECORD,
    STARTED,
    StageRecord,
    read_mark,
    read_record,
)

Read = TypeVar("Read")

FRESH_SECONDS = 4 * lease.STATE_SECONDS
METRICS_BYTES, LOG_BYTES = 2**14, 2**18  # read from the end of a file


class RunState(StrEnum):
    """State of a run."""

    RUNNING = "running"
    DONE = "done"
    STOPPED = "stopped"


class StageState(StrEnum):
    """State of a stage of a run."""

    DONE = "done"
    RUNNING = "running"  # its driver has written progress lately, by this machine's clock
    STARTED = "started"
    TO_DO = "to do"
    UNREADABLE = "unreadable"  # its record or its mark is damaged or of another version


@dataclass(frozen=True)
class StageFacts:
    """A stage of a run. An unfinished one has no rows, outcomes, figures or seconds yet."""

    stage: str  # path below the run's folder
    state: StageState
    fingerprint: str | None = None
    num_rows: int | None = None
    seconds: float | None = None
    finished_at: str | None = None
    outcomes: Mapping[str, int] = field(default_factory=dict)
    figures: Mapping[str, Any] = field(default_factory=dict)
    # Of an unfinished stage: the last heartbeat, and the last line of metrics.jsonl.
    progress: lease.Heartbeat | None = None
    metrics: Mapping[str, Any] | None = None
    problem: str = ""  # a file of the stage that cannot be read, and why


@dataclass(frozen=True)
class RunFacts:
    """A run. `dataclasses.asdict` of it is what `humpback status --json` prints."""

    run: str
    state: RunState
    attempt: int  # number of the last one
    stages: list[StageFacts]  # in the run's order
    last_error: str | None  # of the last attempt
    problems: list[str] = field(default_factory=list)  # of files that cannot be read


@dataclass(frozen=True)
class _Attempt:
    """An attempt to run stages, as `attempt.json` has it."""

    stages: list[str]  # paths, in the run's order


def _read_attempt(url: str) -> _Attempt | None:
    return storage.read_as(url, _Attempt)


def run_folder_of(run_folder: str | None, recipe: Recipe) -> str:
    """The folder or URL of a run: the one given, or runs/NAME of the recipe.

    Raises:
        UserError: a library would misread the path.
    """
    folder = storage.absolute(run_folder or f"runs/{recipe.name}")
    storage.refuse_misread(folder, "run folder", "--run")
    return folder


def status_of(run_folder: str) -> RunFacts:
    """The facts about a run that its folder shows.

    Raises:
        UserError: the folder has no run or cannot be read from here.
    """
    with storage.explained(run_folder):
        names = storage.names(storage.join(run_folder, "attempts"))
        attempts = sorted((name for name in names if name.isdecimal()), key=int)
        if not attempts:
            raise UserError(f"no run in {run_folder}: give the folder that `humpback run` named")
        last = storage.join(run_folder, "attempts", attempts[-1])
        attempt, problem = _read(_read_attempt, storage.join(last, "attempt.json"))
        # An attempt that is just starting has written nothing yet.
        stages = _in_order(_read_begun(run_folder), attempt.stages if attempt else [])
        last_error = logs.last_error(_end_of(storage.join(last, "run.log"), LOG_BYTES))
    problems = [line for line in (problem, *(stage.problem for stage in stages)) if line]
    state = _state_of(stages)
    return RunFacts(run_folder, state, int(attempts[-1]), stages, last_error, problems)


def _state_of(stages: Sequence[StageFacts]) -> RunState:
    states = {stage.state for stage in stages}
    if StageState.RUNNING in states:
        return RunState.RUNNING
    return RunState.DONE if states <= {StageState.DONE} else RunState.STOPPED


def _in_order(begun: Mapping[str, StageFacts], declared: Sequence[str]) -> list[StageFacts]:
    """The stages of the last attempt, then those that only earlier attempts had, oldest first."""
    stages = [begun.get(path) or StageFacts(path, StageState.TO_DO) for path in declared]
    others = [stage for path, stage in begun.items() if path not in declared]
    return stages + sorted(others, key=lambda stage: (stage.finished_at or "~", stage.stage))


def _read_begun(run_folder: str) -> dict[str, StageFacts]:
    """Begun and finished stages by path, without those of ablations."""
    filesystem, root = storage.locate(run_folder)
    files = filesystem.find(root, maxdepth=4)
    marks = [file[len(root) :].strip("/").rpartition("/") for file in files]
    paths = {path for path, _, name in marks if name in (RECORD, STARTED)}
    paths = {path for path in paths if not path.startswith(f"{ABLATIONS}/")}
    return {path: _read_stage(run_folder, path) for path in paths}


def _read_stage(run_folder: str, path: str) -> StageFacts:
    folder = storage.join(run_folder, path)
    # The mark first, because a stage that finishes meanwhile deletes it after writing its record.
    begun, problem = _read(read_mark, folder)
    record, problem_of_record = _read(read_record, folder)
    if record:
        return _finished_stage(path, record)
    if problem := problem_of_record or problem:
        return StageFacts(path, StageState.UNREADABLE, problem=problem)
    return _unfinished_stage(folder, path, begun.fingerprint if begun else None)


def _read(read: Callable[[str], Read | None], url: str) -> tuple[Read | None, str]:
    """The content that a function reads, or the line that says why it cannot."""
    try:
        return read(url), ""
    except UserError as error:
        return None, str(error)


def _finished_stage(path: str, record: StageRecord) -> StageFacts:
    """The facts in a finished stage's record."""
    return StageFacts(
        path,
        StageState.DONE,
        record.fingerprint,
        record.num_rows,
        record.seconds,
        record.finished_at,
        record.outcomes,
        record.figures,
    )


def _unfinished_stage(folder: str, path: str, fingerprint: str | None) -> StageFacts:
    heartbeat, problem = _read(lease.read_heartbeat, storage.join(folder, PROGRESS))
    lines = _end_of(storage.join(folder, METRICS), METRICS_BYTES).splitlines()
    last = parse_metrics(lines[-1:]).lines
    age = _age(heartbeat)
    return StageFacts(
        path,
        StageState.RUNNING if age is not None and age < FRESH_SECONDS else StageState.STARTED,
        fingerprint=fingerprint,
        progress=heartbeat,
        metrics=last[0] if last else None,
        problem=problem,
    )


def _age(heartbeat: lease.Heartbeat | None) -> float | None:
    """Seconds since a heartbeat; None where nothing says when it was."""
    time = clock.parse_time(heartbeat.time) if heartbeat else None
    return (datetime.now(UTC) - time).total_seconds() if time else None


def _end_of(url: str, num_bytes: int) -> str:
    """The last whole lines of a text file; empty if there is no such file."""
    if not storage.exists(url):
        return ""
    filesystem, path = storage.locate(url)
    size = filesystem.size(path)
    text = filesystem.cat_file(path, start=max(size - num_bytes, 0)).decode(errors="replace")
    whole, _, _ = text.rpartition("\n")
    return whole if size <= num_bytes else whole.partition("\n")[2]


def describe_unfinished(stage: StageFacts) -> str:
    """One line on a begun stage: detail, rate, and time left or since the last heartbeat.

    Of a file that cannot be read the line is its problem.
    """
    if stage.problem or stage.progress is None:
        return stage.problem
    progress, metrics = stage.progress, stage.metrics or {}
    parts = [progress.detail]
    if "rows_per_second" in metrics:
        parts.append(f"{metrics['rows_per_second']:,.1f} rows/s")
    if stage.state is not StageState.RUNNING:
        age = _age(progress)
        parts.append("no heartbeat" if age is None else f"no heartbeat for {clock.duration(age)}")
    elif progress.seconds_left is not None:
        parts.append(f"{clock.duration(progress.seconds_left)} left")
    return ", ".join(part for part in parts if part)


def last_model(folder: str) -> str:
    """The model folder of a run's last finished iteration, or `folder` if that is a model.

    Raises:
        UserError: the folder has no finished model or cannot be read from here.
    """
    with storage.explained(folder):
        names = storage.names(folder)
        if {"config.json", "tokenizer.json"} <= names:
            return folder
        numbers = [int(name[5:]) for name in names if re.fullmatch(r"iter-[0-9]+", name)]
        for name in [*(f"iter-{t}" for t in sorted(numbers, reverse=True)), "forward-0"]:
            if storage.exists(storage.join(folder, name, "model", RECORD)):
                return storage.join(folder, name, "model")
    raise UserError(f"no finished model in {folder}: give the folder of a run or of a model")
