"""The user's mistakes, told apart from ours."""

from __future__ import annotations

import re

# Ray Data ends the message of what a task raised with a line about its attempts.
RAY_DATA_ADDS = "\nFailed to apply UDF transform after"


class UserError(ValueError):
    """A mistake of the user's, or a machine or store that cannot do what a recipe asks for.

    The message is one line: the value, the rule, the way out. Only our own raise sites raise it, so
    every other exception is a bug and keeps its traceback.
    """


def user_message(error: BaseException) -> str | None:
    """The one line of a `UserError`, also where a Ray task raised it; None for any other error."""
    cause = getattr(error, "cause", None) or error  # RayTaskError keeps what the task raised
    if isinstance(cause, UserError):
        return " ".join(str(cause).partition(RAY_DATA_ADDS)[0].split())
    # Around the error of a function for rows Ray Data raises its UserCodeException. The driver gets
    # the original as text only.
    name = re.escape(f"{UserError.__module__}.{UserError.__name__}")
    is_ours = type(cause).__name__ == "UserCodeException" and re.search(
        rf"^{name}: (.+)\n+The above exception was the direct cause", str(error), re.MULTILINE
    )
    return is_ours[1].strip() if is_ours else None
