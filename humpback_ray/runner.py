"""A run: its stages one after the other, on the cluster that it joins.

What is done is skipped, what was begun is resumed, and what was made under other settings is
refused before anything is written.
"""

from __future__ import annotations

import logging
import os
import socket
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console

from humpback_ray import doctor, estimate, nodes, observe, storage
from humpback_ray.config import Recipe
from humpback_ray.engines import vllm_engine
from humpback_ray.pipeline import stages_of
from humpback_ray.stages.stage import Stage, State

CONNECT_SECONDS = 10.0  # in which a head that is there takes a connection


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
        ValueError: a mistake of the user's, said before anything of it is written.
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
            raise ValueError(_refusal(stage, begun, run_folder))
    is_done = all(state is State.DONE for state, _ in found)
    if not is_done:
        storage.check_writable(run_folder)
        _start_attempt(recipe, run_folder, [stage.path for stage in declared or stages])
    with observe.end_logged():
        if not is_done:
            join_cluster(recipe)
            pairs = zip(stages, found, strict=True)
            to_do = {stage.kind for stage, (state, _) in pairs if state is not State.DONE}
            _check_cluster(recipe, run_folder, to_do)
            _check_engines_fit(recipe)
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
    observe.log_stage(stage.path)
    console.print(f"{heading}: {verb}", highlight=False, soft_wrap=True)
    observe.logger.info("%s %s, fingerprint %s", verb, stage.path, stage.fingerprint[:12])
    with _store_explained(run_folder):
        record = stage.execute(run_folder, recipe.placement, console)
    observe.logger.info("finished %s: %s", stage.path, describe(record))
    observe.log_stage("")
    console.print(
        f"{heading}: {describe(record)} in {observe.duration(record['seconds'])}",
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
        raise ValueError(f"--until {until}: no such stage; the stages are {', '.join(paths)}")
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
            "provenance": observe.provenance(),
        },
    )
    observe.log_to(storage.join(folder, "run.log"), storage.name(run_folder), number)


def join_cluster(recipe: Recipe) -> None:
    """Join the cluster that the recipe or `RAY_ADDRESS` names, or start one in this process.

    Raises:
        ConnectionError: no cluster is running here, and the address is `auto`.
        ValueError: nothing answers at the address, another Ray or Python runs there, or the token
            is missing.
    """
    import ray
    from ray.exceptions import AuthenticationError

    if ray.is_initialized():
        _quieten()
        return
    cluster = recipe.placement.cluster
    address = cluster.address or os.environ.get("RAY_ADDRESS")
    if address:
        _check_answers(address)
        try:
            ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        except (RuntimeError, AuthenticationError) as error:
            raise ValueError(f"the cluster at {address} cannot be joined: {error}") from error
    else:
        # A cluster of this process alone: no token is needed, and one lying about must not be used.
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")
        # Ray's C++ parts write to the terminal; their logs are for debugging Ray itself.
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        ray.init(
            address="local",
            num_cpus=cluster.local_cpus,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
        )
    _quieten()


def _check_answers(address: str) -> None:
    """Ray itself looks for more than a minute for a cluster that is not there."""
    if address.startswith(("http://", "https://")):
        raise ValueError(
            f"{address} is a dashboard: `humpback submit --address {address}` starts a run there; "
            "to join the cluster from one of its machines give HEAD:6379 or auto"
        )
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except OSError as error:
        raise ValueError(
            f"nothing answers at {address} ({error}): is the cluster up, and RAY_ADDRESS or "
            "placement.cluster.address that of its head, with the port of `ray start` (6379)?"
        ) from error


def _check_cluster(recipe: Recipe, run_folder: str, kinds: Collection[str]) -> None:
    """Refuse a cluster that can never run stages of these kinds; `humpback doctor` looks at more.

    Raises:
        ValueError: no room for engines or workers, or a node that does not see the run's folder.
    """
    there = nodes.alive()
    doctor.check_room(recipe, kinds, there, nodes.growth)
    if len(there) > 1:
        doctor.check_shared(run_folder, nodes.blind(run_folder))


def _check_engines_fit(recipe: Recipe) -> None:
    """Say that the models are too large before hours of work and not when the first engine starts.

    Raises:
        ValueError: what is needed, what there is, and the settings that would make it fit.
    """
    placement, settings = recipe.placement.engine, recipe.settings
    architecture = estimate.known_architecture(recipe)
    memory = vllm_engine.device_memory(placement)
    if architecture is None or memory is None:
        return
    estimate.check_engine_fits(
        architecture,
        dtype=settings.dtype,
        context_length=settings.context_length,
        tensor_parallel_size=placement.tensor_parallel_size,
        pipeline_parallel_size=placement.pipeline_parallel_size,
        gpu_memory_utilization=placement.gpu_memory_utilization
        if placement.device == "gpu"
        else 1.0,
        gpu_memory=memory,
    )


def _quieten() -> None:
    """The terminal shows what a person must know; libraries' own lines stay in Ray's log files."""
    import ray.data
    from ray.util.annotations import RayDeprecationWarning

    # What a later Ray drops concerns who raises its version here, and not who runs this.
    warnings.filterwarnings("ignore", category=RayDeprecationWarning)
    # Handlers and not only levels: Ray sets its level again whenever a library calls `ray.init`.
    for handler in logging.getLogger("ray").handlers:
        handler.setLevel(logging.ERROR)
    # What a task raised comes to the driver too, which says it in one line or with its traceback.
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.CRITICAL)
    # ray.llm gives each of its loggers a handler unless their parent has one.
    logging.getLogger("ray.llm").addHandler(logging.NullHandler())
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    ray.data.DataContext.get_current().enable_progress_bars = False
