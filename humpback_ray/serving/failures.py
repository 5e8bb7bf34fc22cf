"""Failures of requests and engines."""

from __future__ import annotations

import re


class RequestRefused(Exception):
    """The engine refuses a request; its row becomes an ENGINE_ERROR."""


class EngineFailed(Exception):
    """The engines cannot continue the pass; the message is one line for the user."""


def explain(error: BaseException) -> str | None:
    """The line of an `EngineFailed` that has ended a pass, or None."""
    # Ray Data raises another error in its place and loses the causes on the way to the driver, so
    # only the text is left.
    match = re.search(rf"{EngineFailed.__module__}\.{EngineFailed.__name__}: (.+)", str(error))
    return match[1].strip() if match else None
