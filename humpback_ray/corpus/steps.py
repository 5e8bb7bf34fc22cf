"""Tasks that write files and return figures, each run once however often its stage is killed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from humpback_ray import storage

Figures = dict[str, Any]

# Runs a function on the arguments of every item and returns the results in the items' order. The
# first argument is a line for people.
Tasks = Callable[[str, Callable[..., Any], Sequence[tuple[Any, ...]]], list[Any]]


def run_once(folder: str, steps: Any, step: str, *arguments: Any) -> Figures:
    """A step's figures, from the file that tells that it is done, or else by running it.

    Args:
        folder: of those files.
        steps: has the step as a method.
        arguments: of the step; the numbers among them tell its tasks apart.
    """
    name = "-".join(str(value) for value in arguments if isinstance(value, int))
    url = storage.join(folder, "done", f"{step}-{name}.json")
    if (done := storage.read_json(url)) is not None:
        return dict(done)
    figures: Figures = getattr(steps, step)(*arguments)
    storage.write_json(url, figures)
    return figures
