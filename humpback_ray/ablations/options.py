"""The options of `humpback ablate`, checked."""

from __future__ import annotations

from humpback_ray.ablations.arms import Group, Values
from humpback_ray.errors import UserError


def groups(text: str) -> list[Group]:
    """The groups in a list such as `curation,k`.

    Raises:
        UserError: one of them is no group.
    """
    found = []
    for name in _parts(text, "--arms", "curation,size"):
        if name not in list(Group):
            raise UserError(f"--arms {name}: no such group; choose of {', '.join(Group)}")
        found.append(Group(name))
    return found


def values(sizes: str | None, seed_sizes: str | None, thresholds: str | None) -> Values:
    """The values of the groups with numbers; None leaves the default.

    Raises:
        UserError: a size that is no whole number above 0, or a threshold that is none from 1 to 5.
    """
    default = Values()
    return Values(
        _sizes(sizes, "--sizes") if sizes is not None else default.sizes,
        _sizes(seed_sizes, "--seed-sizes") if seed_sizes is not None else default.seed_sizes,
        _thresholds(thresholds) if thresholds is not None else default.thresholds,
    )


def _sizes(text: str, option: str) -> tuple[int, ...]:
    parts = _parts(text, option, "100,800")
    if wrong := [part for part in parts if not (part.isdecimal() and int(part))]:
        raise UserError(f"{option} {wrong[0]}: a size is a whole number above 0, as 3200")
    return tuple(dict.fromkeys(map(int, parts)))


def _thresholds(text: str) -> tuple[float, ...]:
    found: dict[float, None] = {}
    for part in _parts(text, "--thresholds", "4,4.5"):
        try:
            k = float(part)
        except ValueError:
            k = 0.0
        if not 1 <= k <= 5:
            raise UserError(f"--thresholds {part}: a threshold is a number from 1 to 5, as 4.5")
        found[k] = None
    return tuple(found)


def _parts(text: str, option: str, example: str) -> list[str]:
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise UserError(f"{option} {text!r}: name one or more, separated by commas, as {example}")
    return parts
