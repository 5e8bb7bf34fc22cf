"""Values that note which of their fields are read."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from humpback_ray.config.fields import Frozen


def spied(value: Any, read: set[str]) -> Any:
    """A dataclass or a section of a recipe that adds the path of each field that is read to `read`.

    Sections inside of it are spied on as well. In other processes it is the plain value.
    """
    spy = _spied(value, read, "")
    read.clear()  # of what validators have read
    return spy


def _spied(value: Any, read: set[str], prefix: str) -> Any:
    names = list(type(value).model_fields) if isinstance(value, Frozen) else [
        field.name for field in fields(value)
    ]  # fmt: skip
    inside: dict[str, Any] = {}
    for name in names:
        content = getattr(value, name)
        is_section = isinstance(content, Frozen)
        inside[name] = _spied(content, read, f"{prefix}{name}.") if is_section else content
    return _spy_on(value, names, inside, read, prefix)


def _spy_on(
    value: Any, names: list[str], inside: dict[str, Any], read: set[str], prefix: str
) -> Any:
    kind: Any = type(value)

    class Spy(kind):
        def __getattribute__(self, name: str) -> Any:
            if name not in names:
                return super().__getattribute__(name)
            read.add(prefix + name)
            return inside[name]

        def __reduce__(self) -> Any:
            return _same, (value,)

        # Ray hashes what it sends to actors, or its `repr`: no reading of a stage's fields.
        __eq__ = object.__eq__
        __hash__ = object.__hash__
        __repr__ = object.__repr__

    if isinstance(value, Frozen):
        return Spy.model_validate(value.model_dump())
    return Spy(**inside)


def _same(value: Any) -> Any:
    return value
