"""The user's mistakes, as one type apart from bugs."""

from __future__ import annotations

import re

# Ray Data appends a line about its attempts to the message of a task's exception.
RAY_DATA_ADDS = "\nFailed to apply UDF transform after"


class UserError(ValueError):
    """A mistake of the user's, or a machine or store that cannot do what a recipe asks for.

    The message is one line: the value, the rule, the way out. Only this package raises it, so every
    other exception is a bug and keeps its traceback.
    """


def user_message(error: BaseException) -> str | None:
    """The line of a `UserError`, even one from a Ray task; None for any other error."""
    cause = getattr(error, "cause", None) or error  # RayTaskError keeps what the task raised
    if isinstance(cause, UserError):
        return " ".join(str(cause).partition(RAY_DATA_ADDS)[0].split())
    # Ray Data wraps an error of a row function in its UserCodeException, so the driver gets the
    # original only as text.
    name = re.escape(f"{UserError.__module__}.{UserError.__name__}")
    match = type(cause).__name__ == "UserCodeException" and re.search(
        rf"^{name}: (.+)\n+The above exception was the direct cause", str(error), re.MULTILINE
    )
    return match[1].strip() if match else None
