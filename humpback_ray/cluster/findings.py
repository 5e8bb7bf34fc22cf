"""The findings of the doctor: found, wanted, verdict, and the way out."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class CheckVerdict(StrEnum):
    """Consequence of a check for the run."""

    OK = "ok"
    WARNING = "warning"  # slower or less safe without it, or unknown
    MISSING = "missing"  # the run would fail or wait forever


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's table."""

    check: str
    found: str
    wanted: str
    verdict: CheckVerdict = CheckVerdict.OK
    way_out: str = ""


def ok_or_missing(check: str, found: str, wanted: str, is_enough: bool, way_out: str) -> Finding:
    """A finding that stops a run if it is not enough."""
    if is_enough:
        return Finding(check, found, wanted)
    return Finding(check, found, wanted, CheckVerdict.MISSING, way_out)
