"""The text, URL and id of a row: in the columns that the settings name, or that corpora use."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa

from humpback_ray.config.settings import CorpusSettings

TEXT_COLUMNS = (
    "text",  # C4, FineWeb, Dolma and most others
    "Clean-Text",  # ClueWeb22
    "content",  # RefinedWeb, OSCAR
    "raw_content",  # RedPajama 2
)
URL_COLUMNS = (
    "url",  # C4, FineWeb, RefinedWeb, RedPajama 2
    "URL",  # ClueWeb22
    "metadata.url",  # Dolma
    "warc_headers.warc-target-uri",  # OSCAR
)
ID_COLUMNS = (
    "ClueWeb22-ID",
    "id",  # FineWeb, Dolma and most others
    "doc_id",  # RedPajama 2
    "warc_headers.warc-record-id",  # OSCAR
)
SETTINGS = "settings.corpus.text_column or url_column"

_MAX_NAMED = 20  # columns in a message


def text_columns(settings: CorpusSettings) -> tuple[str, ...]:
    """Columns to look for the text in, the first one first."""
    return (settings.text_column,) if settings.text_column else TEXT_COLUMNS


def url_columns(settings: CorpusSettings) -> tuple[str, ...]:
    """Columns to look for the URL in, the first one first."""
    return (settings.url_column,) if settings.url_column else URL_COLUMNS


def outer_column(names: tuple[str, ...], there: Collection[str]) -> str | None:
    """The column of a row that is or may hold the first of some names; None if no name fits."""
    outer = (name if name in there else name.partition(".")[0] for name in names)
    return next((name for name in outer if name in there), None)


def first_of(row: Mapping[str, Any], columns: tuple[str, ...]) -> object:
    """The value of the first column that a row has and that is not null; None without one.

    A dotted name leads into a nested object, if the row has no column of that name.
    """
    return next((found for name in columns if (found := _value(row, name)) is not None), None)


def _value(row: Mapping[str, Any], name: str) -> object:
    if name in row:
        return row[name]
    outer, dot, inner = name.partition(".")
    below = row.get(outer) if dot else None
    return _value(below, inner) if isinstance(below, dict) else None


def names_in(row: Mapping[str, Any]) -> Iterator[str]:
    """The columns of a row; those of an object in it have dotted names."""
    for name, value in row.items():
        if isinstance(value, dict):
            yield from (f"{name}.{inner}" for inner in value)
        else:
            yield name


def names_of(fields: Any, prefix: str = "") -> Iterator[str]:
    """The columns of an Arrow schema or struct, nested ones with dotted names."""
    for field in fields:
        if pa.types.is_struct(field.type):
            yield from names_of(field.type, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}"


def path_of(fields: Iterable[pa.Field], name: str) -> list[int] | None:
    """The way to a column of `names_of`, as positions from the outside in; None for another name.

    Of columns with one name the first is meant.
    """
    numbered = list(enumerate(fields))
    for number, field in numbered:
        if field.name == name:
            return [number]
    for number, field in numbered:
        if pa.types.is_struct(field.type) and name.startswith(f"{field.name}."):
            inner = path_of(field.type, name.removeprefix(f"{field.name}."))
            if inner is not None:
                return [number, *inner]
    return None


def in_words(names: list[str]) -> str:
    """The names of columns for a message."""
    rest = len(names) - _MAX_NAMED
    return ", ".join(names[:_MAX_NAMED]) + (f" and {rest} more" if rest > 0 else "")
