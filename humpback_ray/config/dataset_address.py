"""Addresses of Hugging Face datasets: `dataset://ORG/NAME?config=&split=&column=&revision=`.

`hf://datasets/ORG/NAME/FILE` is something else, one file of a repository as fsspec opens it.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, fields
from urllib.parse import parse_qsl, quote

PREFIX = "dataset://"
FORM = f"{PREFIX}ORG/NAME or {PREFIX}/FOLDER, then ?config=...&split=...&column=...&revision=..."

_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


@dataclass(frozen=True, slots=True)
class DatasetAddress:
    """A dataset of the hub, or one in a local folder, and the part of it that is read."""

    name: str  # ORG/NAME, or the path of a folder
    config: str | None = None
    split: str | None = None
    column: str | None = None
    revision: str | None = None  # of the hub's repository

    @property
    def folder(self) -> str | None:
        """The absolute path of a local dataset; None for one of the hub."""
        is_local = self.name.startswith(("/", "~"))
        return os.path.abspath(os.path.expanduser(self.name)) if is_local else None

    def __str__(self) -> str:
        query = "&".join(
            f"{name}={quote(value, safe='/:')}"
            for name in _KEYS
            if (value := getattr(self, name)) is not None
        )
        return f"{PREFIX}{self.name}" + (f"?{query}" if query else "")


_KEYS = tuple(field.name for field in fields(DatasetAddress) if field.name != "name")


def is_dataset(location: str) -> bool:
    """True for the address of a dataset, False for a path or another URL."""
    return location.startswith(PREFIX)


def dataset_address(location: str) -> DatasetAddress:
    """The parts of a dataset's address.

    Raises:
        ValueError: it has another form; the message is the rule and the way out.
    """
    name, _, query = location.removeprefix(PREFIX).partition("?")
    address = DatasetAddress(name)
    if address.folder is None and not _HUB_NAME.fullmatch(name):
        raise ValueError(f"a dataset is ORG/NAME, or a folder by its absolute path: write {FORM}")
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError as error:
        raise ValueError(f"behind ? stand KEY=VALUE, joined by &: write {FORM}") from error
    values = dict(pairs)
    if len(values) < len(pairs) or not values.keys() <= set(_KEYS) or not all(values.values()):
        raise ValueError(
            f"behind ? stand some of {', '.join(_KEYS)}, each once with a value: write {FORM}"
        )
    if address.folder is not None and "revision" in values:
        raise ValueError("a folder has no revision: leave it out")
    return DatasetAddress(name, **values)


def dataset_problem(location: str, *, takes_datasets: bool) -> str:
    """The reason why a location names no dataset that its setting takes; empty for every other."""
    if is_dataset(location):
        if not takes_datasets:
            return "this setting takes a file or a folder and no dataset: give its path or URL"
        try:
            dataset_address(location)
        except ValueError as error:
            return str(error)
    elif re.match(rf"hf://[^?]+\?({'|'.join(_KEYS)})=", location):
        return f"hf:// names files of a repository: write {FORM}"
    return ""
