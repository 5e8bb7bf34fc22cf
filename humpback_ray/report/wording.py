"""Numbers as a person reads them."""

from __future__ import annotations

from humpback_ray.evaluation.estimates import Estimate

NONE = "–"


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


def mean_and_deviation(mean: float | None, deviation: float | None) -> str:
    """`1,072 ± 818`, as the paper's Table 1 has it."""
    if mean is None:
        return NONE
    return f"{mean:,.0f}" if deviation is None else f"{mean:,.0f} ± {deviation:,.0f}"
