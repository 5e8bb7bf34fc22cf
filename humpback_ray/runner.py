"""A run: its stages one after the other, on the cluster that it joins.

What is done is skipped, what was begun is resumed, and what was made under other settings is
refused before anything is written.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console

from humpback_ray import storage
from humpback_ray.cluster.connect import join_cluster
from humpback_ray.cluster.preflight import check_cluster, check_engines_fit
from humpback_ray.config.recipe import Recipe
from humpback_ray.errors import UserError
from humpback_ray.execution import clock, logs, provenance
from humpback_ray.execution.stage import Stage, State
from humpback_ray.pipeline import stages_of


def run(
    recipe: Recipe,
    run_folder: str,
    console: Console,
    *,
    until: str | None = None,
    only: Collection[str] | None = None,
) -> dict[str, dict[str, Any]]:
    """Run every stage that is not done, in order; returns the records of all of them by path.

    A finished stage is skipped, an unfinished one resumed, one that was made under other settings
    refused. With `only`, the other stages are neither looked at nor run.

    Raises:
        UserError: a mistake of the user's, said before anything of it is written.
    """
    declared = stages_of(recipe, run_folder)
    stages = _up_to(declared, until)
    stages = [stage for stage in stages if only is None or stage.path in only]
    return walk(stages, recipe, run_folder, console, declared=declared)


def walk(
    stages: list[Stage],
    recipe: Recipe,
    run_folder: str,
    console: Console,
    *,
    declared: list[Stage] | None = None,
) -> dict[str, dict[str, Any]]:
    """Run those of the stages that are not done, in order, of all that are declared; see `run`."""
    found = [stage.find(run_folder) for stage in stages]
    for stage, (state, begun) in zip(stages, found, strict=True):
        if state is State.CHANGED:
            assert begun is not None
            raise UserError(_refusal(stage, begun, run_folder))
    is_done = all(state is State.DONE for state, _ in found)
    if not is_done:
        storage.check_writable(run_folder)
        _start_attempt(recipe, run_folder, [stage.path for stage in declared or stages])
    with logs.end_logged():
        if not is_done:
            join_cluster(recipe)
            pairs = zip(stages, found, strict=True)
            to_do = {stage.kind for stage, (state, _) in pairs if state is not State.DONE}
            check_cluster(recipe, run_folder, to_do)
            check_engines_fit(recipe)
        return {
            stage.path: _run_stage(stage, number, len(stages), recipe, run_folder, console)
            for number, stage in enumerate(stages, start=1)
        }


@contextmanager
def _store_explained(run_folder: str) -> Iterator[None]:
    """Say so where a stage fails because the run folder cannot be written any more.

    By then each library has wrapped what the store said in errors of its own.
    """
    from ray.exceptions import RayError
    from ray.train.v2.api.exceptions import TrainingFailedError

    try:
        yield
    except storage.errors(RayError, TrainingFailedError):
        storage.check_writable(run_folder)
        raise


def _run_stage(
    stage: Stage, number: int, total: int, recipe: Recipe, run_folder: str, console: Console
) -> dict[str, Any]:
    state, record = stage.find(run_folder)
    heading = f"[{number:>2}/{total}] {stage.path}"
    if state is State.DONE:
        assert record is not None
        console.print(
            f"{heading}: done before, {describe(record)}", highlight=False, soft_wrap=True
        )
        return record
    verb = "resuming" if state is State.STARTED else "starting"
    # After an error it stays: what is logged last is about the stage that has failed.
    logs.log_stage(stage.path)
    console.print(f"{heading}: {verb}", highlight=False, soft_wrap=True)
    logs.logger.info("%s %s, fingerprint %s", verb, stage.path, stage.fingerprint[:12])
    with _store_explained(run_folder):
        record = stage.execute(run_folder, recipe.placement, console)
    logs.logger.info("finished %s: %s", stage.path, describe(record))
    logs.log_stage("")
    console.print(
        f"{heading}: {describe(record)} in {clock.duration(record['seconds'])}",
        highlight=False,
        soft_wrap=True,
    )
    return record


def describe(record: dict[str, Any]) -> str:
    """A record's counts in one line: rows and outcomes."""
    outcomes = ", ".join(f"{count} {name}" for name, count in sorted(record["outcomes"].items()))
    return f"{record['num_rows']} rows ({outcomes})"


def _up_to(stages: list[Stage], until: str | None) -> list[Stage]:
    if until is None:
        return stages
    paths = [stage.path for stage in stages]
    if until not in paths:
        raise UserError(f"--until {until}: no such stage; the stages are {', '.join(paths)}")
    return stages[: paths.index(until) + 1]


def _refusal(stage: Stage, begun: dict[str, Any], run_folder: str) -> str:
    folder = storage.join(run_folder, stage.path)
    return (
        f"{folder} was made under other settings or inputs "
        f"({'; '.join(stage.differences(begun))}). Set them back, or keep that run and choose "
        f"another folder with --run, or delete {folder} and every stage after it"
    )


def _start_attempt(recipe: Recipe, run_folder: str, stages: list[str]) -> None:
    storage.write_json(storage.join(run_folder, "config.json"), recipe.model_dump(mode="json"))
    number = 1
    while storage.exists(storage.join(run_folder, "attempts", f"{number:03}")):
        number += 1
    folder = storage.join(run_folder, "attempts", f"{number:03}")
    storage.write_json(
        storage.join(folder, "attempt.json"),
        {
            "recipe": recipe.model_dump(mode="json"),
            "stages": stages,
            "provenance": provenance.provenance(),
        },
    )
    logs.log_to(storage.join(folder, "run.log"), storage.name(run_folder), number)
