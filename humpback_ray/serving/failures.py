"""Failures of the engines that end a pass."""

from __future__ import annotations

import re


class RequestRefused(Exception):
    """The engine takes no such request; the row becomes an ENGINE_ERROR."""


class EngineFailed(Exception):
    """The engines cannot go on; the message is one line for the user."""


def explain(error: BaseException) -> str | None:
    """The line of an `EngineFailed` that has ended a pass, or None."""
    # Ray Data raises an error of its own in its place, and on the way to the driver the causes are
    # lost: what is left is the text.
    found = re.search(rf"{EngineFailed.__module__}\.{EngineFailed.__name__}: (.+)", str(error))
    return found[1].strip() if found else None
