"""Runs stages one after the other: skips, refuses, resumes or runs each."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from rich.console import Console

from humpback_ray import storage
from humpback_ray.cluster import connect, preflight
from humpback_ray.config.recipe import Recipe
from humpback_ray.errors import UserError
from humpback_ray.execution import lease, logs
from humpback_ray.execution.clock import duration
from humpback_ray.execution.logs import logger
from humpback_ray.execution.metrics import Metrics
from humpback_ray.execution.progress import StageProgress, state_written
from humpback_ray.execution.provenance import provenance
from humpback_ray.execution.stage import (
    METRICS,
    PROGRESS,
    STARTED,
    Context,
    Stage,
    StageRecord,
    State,
    read_record,
)

SET_ASIDE = "superseded"  # folder for results that newer settings have replaced


def run(
    stages: Sequence[Stage],
    recipe: Recipe,
    run_folder: str,
    console: Console,
    *,
    until: str | None = None,
    only: Collection[str] | None = None,
    make_engine: Callable[..., Any] | None = None,
    attempts_in: str | None = None,
) -> dict[str, StageRecord]:
    """Run the stages of a run in order. Only this function decides what happens to a stage.

    | found in the stage's folder | what happens |
    |---|---|
    | a record, same fingerprint | skipped |
    | begun, not finished, same fingerprint | resumed |
    | another fingerprint, and other stages read the result | refused, before anything is written |
    | another fingerprint, and no stage reads the result | set aside and run |

    Args:
        stages: all of the run.
        recipe: declares the stages; its placement says where they run.
        run_folder: absolute path or URL.
        console: for progress.
        until: path of the last stage to run.
        only: paths of the stages to run; the others are neither looked at nor run.
        make_engine: builds an engine in place of vLLM's.
        attempts_in: folder for the recipe and the attempts' logs; None: the run's.

    Returns:
        The records of the chosen stages by path.

    Raises:
        UserError: a source is missing, a stage has other settings in the folder, another driver
            works on a stage, or a stage or a check of the cluster raises one.
    """
    chosen = _chosen(stages, until, only)
    if problems := [line for stage in stages for line in stage.problems]:
        raise UserError(problems[0])
    with storage.explained(run_folder):
        states = {stage.path: stage.find(run_folder) for stage in chosen}
    for stage in chosen:
        state, begun = states[stage.path]
        if state is State.CHANGED and not stage.is_replaceable:
            assert begun is not None
            raise UserError(_refusal(stage, begun, run_folder))
    to_do = [stage for stage in chosen if states[stage.path][0] is not State.DONE]
    if to_do:
        preflight.check_inputs(
            recipe,
            uses_models=_uses_models(stages, run_folder),
            rates=any(stage.part == "rate" for stage in to_do),
            evaluates=any(stage.part == "evaluate" for stage in to_do),
        )
        for stage in to_do:
            stage.check(recipe.placement)
        storage.check_writable(run_folder)
        with storage.explained(run_folder):
            attempts_in = attempts_in or run_folder
            _start_attempt(recipe, run_folder, attempts_in, [stage.path for stage in stages])
    with logs.end_logged():
        if to_do:
            connect.join_cluster(recipe)
            preflight.check(
                recipe,
                run_folder,
                uses_engines=any(stage.uses_engines for stage in to_do),
                uses_workers=any(stage.uses_workers for stage in to_do),
            )
        for number, stage in enumerate(chosen, start=1):
            heading = f"[{number:>2}/{len(chosen)}] {stage.path}"
            state, record = states[stage.path]
            if state is State.DONE:
                assert isinstance(record, StageRecord)
                _say(console, f"{heading}: done before, {record.counts}")
                _refresh(stage, record, recipe, run_folder, console)
                continue
            _refuse_second_driver(stage, run_folder, console)
            if state is State.CHANGED:
                assert record is not None
                kept = _set_aside(stage, record.fingerprint, run_folder)
                _say(console, f"{heading}: made under other settings; kept in {kept}")
            verb = "resuming" if state is State.STARTED else "starting"
            _say(console, f"{heading}: {verb}")
            with _at_work(stage, verb, recipe, run_folder, console, make_engine) as context:
                started = time.monotonic()
                result = stage.run(context)
                stage.refresh(context, result.figures)
            stage.finish(run_folder, result, time.monotonic() - started, provenance())
            record = read_record(context.folder)
            assert record is not None
            logger.info("finished %s: %s", stage.path, record.counts)
            logs.log_stage("")
            _say(console, f"{heading}: {record.counts} in {duration(record.seconds)}")
    records = {stage.path: read_record(storage.join(run_folder, stage.path)) for stage in chosen}
    return {path: record for path, record in records.items() if record is not None}


def _uses_models(stages: Sequence[Stage], run_folder: str) -> bool:
    """True if a stage of the run that trains or generates is not done, wherever this call ends."""
    with storage.explained(run_folder):
        return any(
            (stage.uses_workers or stage.uses_engines)
            and stage.find(run_folder)[0] is not State.DONE
            for stage in stages
        )


@contextmanager
def _at_work(
    stage: Stage,
    verb: str,
    recipe: Recipe,
    run_folder: str,
    console: Console,
    make_engine: Callable[..., Any] | None,
) -> Iterator[Context]:
    """Hold the stage's folder as its only driver, and show and write the stage's progress."""
    folder = storage.join(run_folder, stage.path)
    # After an error the stage's name stays, because the last log line is about the failed stage.
    logs.log_stage(stage.path)
    logger.info("%s %s, fingerprint %s", verb, stage.path, stage.fingerprint[:12])
    stage.begin(run_folder)
    metrics = Metrics(storage.join(folder, METRICS))
    with _store_errors_explained(run_folder):
        try:
            with (
                StageProgress(console, stage.path).shown() as progress,
                state_written(progress, storage.join(folder, PROGRESS)),
            ):
                yield Context(
                    run_folder, stage.path, recipe.placement, progress, metrics, make_engine
                )
        except UserError:
            # A stage without a result must not keep the next attempt from other settings.
            if storage.names(folder) <= {STARTED, METRICS, PROGRESS}:
                storage.delete(folder)
            raise
        except BaseException:
            # Keep the steps of a stopped training; a store that is gone must not hide the cause.
            with suppress(*storage.errors()):
                metrics.flush()
            raise
        metrics.flush()


def _refuse_second_driver(stage: Stage, run_folder: str, console: Console) -> None:
    folder = storage.join(run_folder, stage.path)
    if other := lease.other_driver(storage.join(folder, PROGRESS), console):
        raise UserError(
            f"{folder} belongs to another driver, process {other.pid} on {other.host}: wait "
            "for its end, or stop it, and give the same command again"
        )


@contextmanager
def _store_errors_explained(run_folder: str) -> Iterator[None]:
    """Raise a UserError if a stage fails because the run folder can no longer be written.

    Each library wraps the store's error in another exception, so this tries a write instead of
    inspecting the exception.
    """
    from ray.exceptions import RayError
    from ray.train.v2.api.exceptions import TrainingFailedError

    try:
        yield
    except storage.errors(RayError, TrainingFailedError):
        storage.check_writable(run_folder)
        raise


def _refresh(
    stage: Stage, record: StageRecord, recipe: Recipe, run_folder: str, console: Console
) -> None:
    folder = storage.join(run_folder, stage.path)
    stage.refresh(
        Context(
            run_folder,
            stage.path,
            recipe.placement,
            StageProgress(console, stage.path),
            Metrics(storage.join(folder, METRICS)),
        ),
        record.figures,
    )


def _chosen(
    stages: Sequence[Stage], until: str | None, only: Collection[str] | None
) -> list[Stage]:
    paths = [stage.path for stage in stages]
    if until is not None and until not in paths:
        raise UserError(f"--until {until}: no such stage; the stages are {', '.join(paths)}")
    upto = stages if until is None else stages[: paths.index(until) + 1]
    return [stage for stage in upto if only is None or stage.path in only]


def _refusal(stage: Stage, begun: Any, run_folder: str) -> str:
    folder = storage.join(run_folder, stage.path)
    return (
        f"{folder} was made under other settings or inputs "
        f"({'; '.join(stage.differences(begun))}). Set them back, or keep that run and choose "
        f"another folder with --run, or delete {folder} and every stage after it"
    )


def _set_aside(stage: Stage, old_fingerprint: str, run_folder: str) -> str:
    """Move a stage's folder out of the way; returns its new place."""
    kept = storage.join(run_folder, SET_ASIDE, old_fingerprint[:12], stage.path)
    storage.move(storage.join(run_folder, stage.path), kept)
    return kept


def _start_attempt(recipe: Recipe, run_folder: str, attempts_in: str, stages: list[str]) -> None:
    storage.write_json(storage.join(attempts_in, "config.json"), recipe.model_dump(mode="json"))
    number = 1
    while storage.exists(storage.join(attempts_in, "attempts", f"{number:03}")):
        number += 1
    folder = storage.join(attempts_in, "attempts", f"{number:03}")
    storage.write_json(
        storage.join(folder, "attempt.json"),
        {
            "recipe": recipe.model_dump(mode="json"),
            "stages": stages,
            "provenance": provenance(),
        },
    )
    logs.log_to(storage.join(folder, "run.log"), storage.name(run_folder), number)


def _say(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)
