"""Rows of a seed: of a JSON or Parquet file, or of a dataset."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq

from humpback_ray.config.dataset_address import dataset_address, is_dataset
from humpback_ray.corpus import hub_datasets
from humpback_ray.corpus.documents import is_about_content
from humpback_ray.corpus.json_values import json_values
from humpback_ray.corpus.opening import (
    DAMAGE,
    POINTER_REASON,
    is_pointer,
    open_content,
    open_file,
)
from humpback_ray.errors import UserError

MAX_SHOWN = 1000  # characters of a dropped row's text that are kept


@dataclass(frozen=True, slots=True)
class SeedRow:
    """One row, and the place where it stands, for a person."""

    place: str
    values: dict[str, Any]  # empty for a value that is no object
    is_of_table: bool = False  # of Parquet or a dataset, so each row has every column


def read_seed_rows(path: str, formats: str, setting: str) -> Iterator[SeedRow]:
    """Rows of a JSON file (lines or an array, compressed or not), a Parquet file or a dataset.

    Args:
        path: local path, URL or address of a dataset.
        formats: the ones that are read, for messages.
        setting: the one that names the file.

    Raises:
        UserError: no such file or dataset, or a damaged one.
    """
    if is_dataset(path):
        yield from _dataset_rows(path, setting)
        return
    try:
        if is_pointer(path):
            raise UserError(f"seed file {path} cannot be read: {POINTER_REASON} ({setting})")
        if path.lower().endswith(".parquet"):
            yield from _parquet_rows(path)
        else:
            yield from _json_rows(path, formats, setting)
    except FileNotFoundError as error:
        raise UserError(f"no seed file {path}: set {setting} to {formats}") from error
    except DAMAGE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        is_gzip = path.lower().endswith(".gz") and "incorrect header check" in reason
        problem = "ends in .gz and is not gzip" if is_gzip else "is damaged or cut"
        if not is_about_content(error):
            problem = "cannot be read"
        raise UserError(
            f"seed file {path} {problem}: {reason}; get it again, or set {setting} to another"
        ) from error


def check_seed(path: str, setting: str) -> None:
    """Refuse a dataset that cannot be read as a seed; nothing for files.

    Raises:
        UserError: it is not reached, has no such config or split, or names a column.
    """
    if not is_dataset(path):
        return
    address = dataset_address(path)
    if address.column is not None:
        raise UserError(
            f"{setting}={path} names a column, and a pair is read from several: leave column= out"
        )
    hub_datasets.open_dataset(address, setting)


def _dataset_rows(path: str, setting: str) -> Iterator[SeedRow]:
    check_seed(path, setting)
    for number, row in enumerate(hub_datasets.read_rows(path, setting)):
        yield SeedRow(f"seed {path}, row {number + 1}", _known(row), is_of_table=True)


def _parquet_rows(path: str) -> Iterator[SeedRow]:
    with open_file(path) as file:
        number = 0
        for batch in pq.ParquetFile(file).iter_batches():
            for row in batch.to_pylist():
                number += 1
                yield SeedRow(f"seed file {path}, row {number}", _known(row), is_of_table=True)


def _json_rows(path: str, formats: str, setting: str) -> Iterator[SeedRow]:
    with open_content(path) as stream:
        for value in json_values(stream):
            place = f"seed file {path}, {value.place}"
            if value.problem:
                raise UserError(
                    f"{place} {value.problem}: the file must hold {formats} ({setting})"
                )
            yield SeedRow(place, _known(value.value) if isinstance(value.value, dict) else {})


def _known(row: dict[str, Any]) -> dict[str, Any]:
    """A row with None also for the NaN that pandas writes for a null."""
    return {
        name: None if isinstance(value, float) and math.isnan(value) else value
        for name, value in row.items()
    }
