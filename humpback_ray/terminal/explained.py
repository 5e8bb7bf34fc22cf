"""Every exception of a command as one line and an exit code."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import typer

from humpback_ray import storage
from humpback_ray.errors import user_message
from humpback_ray.execution.logs import keep_traceback
from humpback_ray.terminal.output import say_error


def explained(command: Callable[..., None]) -> Callable[..., None]:
    """Turn every exception of a command into one line and an exit code."""

    @wraps(command)
    def guarded(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except typer.Exit:
            raise
        except typer.BadParameter as error:
            say_error("error", storage.one_line(error))
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            say_error("stopped", "the same command resumes")
            raise typer.Exit(130) from None
        except Exception as error:  # noqa: BLE001 - the process ends here; the traceback is kept
            raise typer.Exit(_explain(error)) from None

    return guarded


def _explain(error: Exception) -> int:
    """Print an error's line; returns the exit code."""
    if (message := user_message(error)) is not None:
        say_error("error", message)
        return 2
    cause = getattr(error, "cause", None) or error  # RayTaskError keeps what the task raised
    text = f"{type(cause).__name__}: {storage.one_line(cause)[:500]}"
    place = keep_traceback(error)
    say_error("unexpected error", f"{text}; the traceback is in {place}")
    return 1
