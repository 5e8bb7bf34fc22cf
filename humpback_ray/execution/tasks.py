"""A function on many items, as Ray tasks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.exceptions import RayTaskError

from humpback_ray.errors import UserError
from humpback_ray.execution.progress import StageProgress


@ray.remote
def _run(work: Callable[..., Any], item: tuple[Any, ...]) -> Any:
    return work(*item)


def run_tasks(
    progress: StageProgress, label: str, work: Callable[..., Any], items: Sequence[tuple[Any, ...]]
) -> list[Any]:
    """The results of `work(*item)` in the order of the items, one Ray task for each.

    Raises:
        UserError: a task has raised one.
    """
    shared = ray.put(work)
    results = [_run.remote(shared, item) for item in items]
    waiting = results
    try:
        while waiting:
            progress.update(len(results) - len(waiting), len(results), label)
            _, waiting = ray.wait(waiting, num_returns=1)
        return list(ray.get(results))
    except RayTaskError as error:
        raise user_error(error) from error


def user_error(error: RayTaskError) -> Exception:
    """The UserError that a task has raised, in the line that it has; any other error as it is."""
    if isinstance(error.cause, UserError):
        # Ray adds a page of traceback and advice to what a task says in one line.
        return UserError(str(error.cause).partition("\n")[0])
    return error
