"""Numbers as a person reads them."""

from __future__ import annotations

from typing import Any

from humpback_ray.evaluation.estimates import Estimate
from humpback_ray.report.foreign_text import cut

NONE = "–"
INTERVALS = "Intervals are of 95%."


def count(number: int | float | None) -> str:
    """A whole number with separators: 502,133."""
    return NONE if number is None else f"{number:,.0f}"


def fixed(number: float | None, digits: int = 2, unit: str = "") -> str:
    """A number with so many digits behind the point."""
    return NONE if number is None else f"{number:,.{digits}f}{unit}"


def percent(share: float | None, digits: int = 1) -> str:
    """A share from 0 to 1 as a percentage."""
    return NONE if share is None else f"{share:.{digits}%}"


def interval(estimate: Estimate | None, digits: int = 3, *, is_share: bool = False) -> str:
    """The bounds of a figure's 95% interval."""
    if estimate is None or estimate.low is None or estimate.high is None:
        return NONE
    if is_share:
        return f"{estimate.low:.{digits}%} to {estimate.high:.{digits}%}"
    return f"{estimate.low:.{digits}f} to {estimate.high:.{digits}f}"


def bounds(low: float | None, high: float | None, digits: int = 1) -> str:
    """An interval by its two bounds."""
    return NONE if low is None or high is None else f"{low:.{digits}f} to {high:.{digits}f}"


def mean_and_deviation(mean: float | None, deviation: float | None) -> str:
    """`1,072 ± 818`, as the paper's Table 1 has it."""
    if mean is None:
        return NONE
    return f"{mean:,.0f}" if deviation is None else f"{mean:,.0f} ± {deviation:,.0f}"


def setting(value: Any) -> str:
    """A setting's value in one line."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return cut(", ".join(map(str, value)))
    return cut(str(value)) or "(empty)"
