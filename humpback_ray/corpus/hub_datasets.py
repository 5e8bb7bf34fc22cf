"""Hugging Face datasets, streamed: of the hub, of its cache, or in a local folder.

`datasets` reads a dataset in shards: a file, or a row group of a Parquet file where there are few
files. A shard is a `CorpusFile`, so tasks read shards as they read files, and a document's id
hashes the shard's name and the row's position, whatever the number of tasks.
"""

from __future__ import annotations

import lzma
import math
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from typing import Any

import pyarrow

from humpback_ray import storage
from humpback_ray.config.dataset_address import DatasetAddress, dataset_address, is_dataset
from humpback_ray.corpus.documents import CorpusFile
from humpback_ray.errors import UserError

# A dataset of fewer files is split at its row groups. The footer of every file is read for that.
FEW_FILES = 16
SHARD_BYTES = 8 * 2**20  # of a folder that `save_to_disk` wrote; of others nobody knows the size

_COMMIT = re.compile("[0-9a-f]{40}")


def list_shards(location: str, setting: str) -> list[CorpusFile]:
    """The shards of a dataset as files of a corpus, in order.

    Their paths name the commit of the hub's repository, so every task reads the same one.

    Raises:
        UserError: the dataset is not reached, or has no such config, split or revision.
    """
    address = _address(location, setting)
    num_shards = open_dataset(address, setting).num_shards
    pinned = replace(address, revision=commit(address, setting) or address.revision)
    return [
        CorpusFile(f"{pinned}#{index}/{num_shards}", f"{_name(address)}/{index:05}", SHARD_BYTES)
        for index in range(num_shards)
    ]


def read_shard(file: CorpusFile, columns: list[str], setting: str) -> Iterator[dict[str, Any]]:
    """The rows of a shard, in order, with some of their columns.

    Raises:
        UserError: as `list_shards`, a column is not there, or the connection is lost.
        One of DAMAGE: the content cannot be read; the rows before it have been given.
    """
    location, _, shard = file.path.partition("#")
    index, num_shards = map(int, shard.split("/"))
    address = _address(location, setting)
    check_columns(address, columns, setting)
    dataset = open_dataset(address, setting)
    if dataset.num_shards != num_shards:
        raise UserError(
            f"{address} has {dataset.num_shards} shards on this machine and {num_shards} where the "
            f"run lists them: give every node the same copy, or all of them the hub ({setting})"
        )
    yield from _rows(dataset.select_columns(columns).shard(num_shards, index), address, setting)


def read_rows(location: str, setting: str) -> Iterator[dict[str, Any]]:
    """Every row of a dataset with all of its columns, on this machine.

    Raises:
        UserError: as `list_shards`, the connection is lost, or the content cannot be read.
    """
    address = _address(location, setting)
    try:
        yield from _rows(open_dataset(address, setting), address, setting)
    except UserError:
        raise
    except DAMAGE as error:
        raise UserError(
            f"the dataset {address} is damaged: {storage.one_line(error)}; get it again, or set "
            f"{setting} to another"
        ) from error


def check_columns(address: DatasetAddress, columns: list[str], setting: str) -> None:
    """Refuse a dataset that lacks a column.

    Raises:
        UserError: the columns that are there are named.
    """
    names = column_names(address, setting)
    for column in columns:
        if column not in names:
            raise no_column(address, (column,), setting)


def no_column(address: DatasetAddress, columns: Sequence[str], setting: str) -> UserError:
    """The error for a dataset that has none of some columns."""
    return UserError(
        f"{address} has no column {' or '.join(map(repr, columns))}; it has "
        f"{', '.join(column_names(address, setting))}: name one with column= in {setting}, or in "
        "the setting of the column"
    )


def commit(address: DatasetAddress, setting: str) -> str | None:
    """The commit of the hub's repository that is read; None for a folder."""
    if address.folder is not None or (address.revision or "").startswith("refs/"):
        return None  # commits below refs/ are no revisions of the repository's branches
    found = str(_builder(address, setting).hash)
    return found if _COMMIT.fullmatch(found) else None


def dataset_read(location: str, setting: str) -> dict[str, str]:
    """A dataset and the commit that is read, for a stage's record; empty for other places."""
    if not is_dataset(location):
        return {}
    address = _address(location, setting)
    read = commit(address, setting)
    return {"dataset": str(address)} | ({"commit": read} if read else {})


def datasets_read(places: Sequence[str], setting: str) -> dict[str, Any]:
    """The entries of `dataset_read`; of several datasets, a list of them under `datasets`."""
    found = [read for place in places if (read := dataset_read(place, setting))]
    if len(found) > 1:
        return {"datasets": sorted(found, key=lambda read: read["dataset"])}
    return found[0] if found else {}


@lru_cache(maxsize=8)  # a process reads many shards of one dataset, and opening asks the hub
def open_dataset(address: DatasetAddress, setting: str) -> Any:
    """A split of a dataset as a streaming `IterableDataset`.

    Raises:
        UserError: the dataset is not reached, or has no such config, split or revision.
    """
    if _is_saved(address.folder):
        return _open_saved(address, setting)
    builder = _builder(address, setting)
    with _explained(address, setting):
        dataset = builder.as_streaming_dataset(split=address.split or "train")
        if dataset.num_shards < FEW_FILES:
            dataset = dataset.reshard()
    return dataset


@lru_cache(maxsize=8)
def column_names(address: DatasetAddress, setting: str) -> tuple[str, ...]:
    """The columns of a dataset: those of its first row, where no schema names them."""
    dataset = open_dataset(address, setting)
    with _explained(address, setting):
        return tuple(dataset.column_names or next(iter(dataset), {}))


def _open_saved(address: DatasetAddress, setting: str) -> Any:
    """A split of what `save_to_disk` wrote."""
    library = _library()
    with _explained(address, setting):
        if address.config is not None:
            raise ValueError("a folder of save_to_disk has no configs: leave config= out")
        dataset = library.load_from_disk(address.folder)
        if isinstance(dataset, library.DatasetDict):
            if (split := address.split or "train") not in dataset:
                raise ValueError(f"Bad split: {split}. Available splits: {list(dataset)}")
            dataset = dataset[split]
        elif address.split is not None:
            raise ValueError("this folder of save_to_disk has no splits: leave split= out")
        num_shards = min(math.ceil(dataset.data.nbytes / SHARD_BYTES), len(dataset))
        return dataset.to_iterable_dataset(num_shards=max(num_shards, 1))


def _is_saved(folder: str | None) -> bool:
    if folder is None:
        return False
    config = _library().config
    marks = (config.DATASET_STATE_JSON_FILENAME, config.DATASETDICT_JSON_FILENAME)
    return any(os.path.exists(os.path.join(folder, mark)) for mark in marks)


@lru_cache(maxsize=8)
def _builder(address: DatasetAddress, setting: str) -> Any:
    if address.folder is None and os.path.isdir(address.name):
        raise UserError(
            f"{setting}={address} names a dataset of the hub, and `datasets` would read the folder "
            f"{address.name} of this directory in its place: write its absolute path behind "
            "dataset://, or start from another directory"
        )
    with _explained(address, setting):
        builder = _library().load_dataset_builder(
            address.folder or address.name, address.config, revision=address.revision
        )
    if builder.name == "cache" and address.revision not in (None, builder.hash):
        raise UserError(
            f"the hub is not reached, and the cache has the commit {builder.hash} of "
            f"{address.name}: write revision={builder.hash} in {setting}, or connect to the hub"
        )
    return builder


def _library() -> Any:
    # Not at the top, because it takes seconds to load.
    import datasets

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()
    return datasets


@contextmanager
def _explained(address: DatasetAddress, setting: str) -> Iterator[None]:
    """Turn what `datasets` raises about a dataset into one line with the way out."""
    try:
        yield
    except storage.errors(ValueError, RuntimeError, ImportError) as error:
        reason = storage.one_line(error) or type(error).__name__
        raise UserError(
            f"the dataset {address} cannot be read: {reason} ({setting}); "
            + _way_out(address, error)
        ) from error


def _way_out(address: DatasetAddress, error: Exception) -> str:
    if "scripts are no longer supported" in str(error):
        return "the hub has a copy of many in Parquet: add revision=refs/convert/parquet"
    if isinstance(error, ValueError | RuntimeError):
        return "config= and split= choose a part of it"
    if address.folder is not None:
        return "give a folder of Parquet, JSON, CSV or text files, or one that save_to_disk wrote"
    if isinstance(error, FileNotFoundError):
        return "see its name and revision; a private or gated dataset needs HF_TOKEN on every node"
    return (
        "connect every node to the hub, or give each node its cache (HF_HOME, with "
        "HF_HUB_OFFLINE=1) or a folder, dataset:///FOLDER"
    )


def _rows(dataset: Any, address: DatasetAddress, setting: str) -> Iterator[dict[str, Any]]:
    try:
        yield from dataset
    except storage.errors() as error:
        # Arrow speaks of damaged content in a plain OSError without a number.
        if type(error) is OSError and error.errno is None:
            raise
        raise UserError(
            f"the dataset {address} is lost while it is read: {storage.one_line(error)} "
            f"({setting}); give the same command again when it can be reached"
        ) from error


# What damaged content raises while rows are read: JSON and Arrow among the ValueErrors.
DAMAGE = (
    ValueError, pyarrow.ArrowException, EOFError, zlib.error, lzma.LZMAError, OSError,
)  # fmt: skip


def _address(location: str, setting: str) -> DatasetAddress:
    try:
        return dataset_address(location)
    except ValueError as error:
        raise UserError(f"{setting}: {error} (it is {location!r})") from error


def _name(address: DatasetAddress) -> str:
    """The name of a dataset's part: the same wherever a copy lies."""
    repository = "" if address.folder else f"{address.name}@{address.revision or 'main'}"
    return "/".join(filter(None, (repository, address.config, address.split or "train")))
