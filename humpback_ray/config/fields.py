"""Types that settings and placement share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
)
from pydantic.fields import FieldInfo

PositiveInt = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(gt=0, le=1)]


def _quoted(language: object) -> object:
    if isinstance(language, bool):
        raise ValueError(
            f"a language is a code such as en, and YAML reads no, yes, on and off without quotes "
            f'as {str(language).lower()}: put it in quotes, as in language: "no"'
        )
    return language


LanguageCode = Annotated[str, BeforeValidator(_quoted)]


@dataclass(frozen=True)
class Location:
    """Marks a setting that names a file, a folder or a URL: `Annotated[str, Location()]`.

    The content behind a location decides a result, and the location itself does not.
    """

    has_many_files: bool = False  # a folder or a pattern; False: one file
    is_read_on_nodes: bool = False  # tasks on every node read it; False: the driver alone
    is_packed: bool = True  # `humpback submit` takes it along, if it is small enough
    suffixes: tuple[str, ...] = ()  # of its files; empty: those of a corpus
    takes_datasets: bool = False  # `dataset://` names too


def one_or_more(value: object) -> object:
    """The value of a setting that takes a location or a list of them; of a list of one, that one.

    Raises:
        ValueError: it is neither, the list is empty, or a location is in it twice.
    """
    if not isinstance(value, list | tuple):
        if not isinstance(value, str):
            raise ValueError(f"a path is wanted, or a list of paths (it is {value!r})")
        return value
    if not value or not all(isinstance(each, str) and each for each in value):
        raise ValueError(f"a list has one path or more (it is {list(value)!r})")
    if repeated := [each for each in value if value.count(each) > 1]:
        raise ValueError(f"{repeated[0]!r} is in the list twice: keep one")
    return value[0] if len(value) == 1 else tuple(value)


Places = Annotated[str | tuple[str, ...], BeforeValidator(one_or_more)]


def marks(field: FieldInfo) -> list[Location]:
    """The mark of a location; empty for every other field."""
    return [mark for mark in field.metadata if isinstance(mark, Location)]


def list_of(key: str) -> str:
    """The setting whose list has a location with such a key; empty for one that stands alone."""
    setting, _, number = key.rpartition(".")
    return setting if number.isdecimal() else ""


class Frozen(BaseModel):
    """A section of a recipe. It cannot change, and it refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    def identity(self) -> dict[str, Any]:
        """The values on which a result depends, as JSON: all but the locations."""
        marked = {name for name, field in type(self).model_fields.items() if marks(field)}
        return self.model_dump(mode="json", exclude=marked)


def locations(section: BaseModel, prefix: str = "") -> Iterator[tuple[str, Location, str]]:
    """Every location of a section that is set: its dotted key, its mark, its value.

    Those of a list have its key with their number in it.
    """
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            yield from locations(value, f"{prefix}{name}.")
        elif isinstance(value, tuple):
            for number, each in enumerate(value):
                if isinstance(each, BaseModel):
                    yield from locations(each, f"{prefix}{name}.{number}.")
                    continue
                yield from ((f"{prefix}{name}.{number}", mark, each) for mark in marks(field))
        elif value is not None:
            yield from ((f"{prefix}{name}", mark, value) for mark in marks(field))
