"""Files of every format as documents."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow.parquet

from humpback_ray.config.dataset_address import dataset_address, is_dataset
from humpback_ray.config.settings import CorpusSettings
from humpback_ray.corpus import hub_datasets
from humpback_ray.corpus.documents import (
    CorpusFile,
    Document,
    Format,
    NotRead,
    Unreadable,
    damaged,
    decode_html,
    decode_text,
    document_id,
    is_about_content,
    not_read,
    unreadable,
)
from humpback_ray.corpus.files import (
    HTML_SUFFIXES,
    JSON_SUFFIXES,
    MARKDOWN_SUFFIXES,
    PARQUET_SUFFIXES,
    WARC_SUFFIXES,
)
from humpback_ray.corpus.installed_packages import PACKAGE_PREFIX, read_package
from humpback_ray.corpus.json_values import JsonValue, json_values
from humpback_ray.corpus.opening import DAMAGE, POINTER_REASON, is_pointer, open_content, open_file
from humpback_ray.corpus.warc import read_warc
from humpback_ray.errors import UserError


def read_documents(
    file: CorpusFile, settings: CorpusSettings
) -> Iterator[Document | Unreadable | NotRead]:
    """The documents of one file, in order.

    One per HTML, Markdown or text file, line or element of JSON, row of Parquet or of a dataset,
    and archived page or text. An Unreadable stands for each damaged place, a NotRead for each
    record of an archive that is no page, and for a file without any document.

    Raises:
        UserError: a Parquet file or dataset lacks a column that the settings name, or the file is
            gone or cannot be reached.
    """
    try:
        is_empty = True
        for document in _documents_of(file, settings):
            is_empty = False
            yield document
    except OSError as error:
        if is_about_content(error):
            raise
        reason = error.strerror or " ".join(str(error).split())
        raise UserError(
            f"corpus file {file.path} cannot be read: {reason}; settings.corpus.path names it"
        ) from error
    if is_empty:
        yield not_read(file, 0, "file without a document in it")


def _documents_of(
    file: CorpusFile, settings: CorpusSettings
) -> Iterator[Document | Unreadable | NotRead]:
    name = file.name.lower()
    if file.path.startswith(PACKAGE_PREFIX):
        yield read_package(file)
    elif is_dataset(file.path):
        yield from _read_shard(file, settings)
    elif is_pointer(file.path):
        yield unreadable(file, 0, POINTER_REASON)
    elif name.endswith(JSON_SUFFIXES):
        yield from _read_json(file, settings)
    elif name.endswith(PARQUET_SUFFIXES):
        yield from _read_parquet(file, settings)
    elif name.endswith(WARC_SUFFIXES):
        yield from read_warc(file)
    else:
        yield _read_single(file)


def _read_single(file: CorpusFile) -> Document:
    with open_file(file.path) as stream:
        data = stream.read()
    name = file.name.lower()
    if name.endswith(HTML_SUFFIXES):
        return Document(document_id(file, 0), file.name, decode_html(data), "html")
    kind: Format = "markdown" if name.endswith(MARKDOWN_SUFFIXES) else "text"
    return Document(document_id(file, 0), file.name, decode_text(data), kind)


# --- JSON, Parquet and datasets -----------------------------------------------------------------


def _read_json(file: CorpusFile, settings: CorpusSettings) -> Iterator[Document | Unreadable]:
    index = 0
    try:
        with open_content(file.path) as stream:
            for value in json_values(stream):
                yield _document_of_value(file, value, settings)
                index = value.index + 1
    except DAMAGE as error:
        yield damaged(file, index, error)


def _document_of_value(
    file: CorpusFile, value: JsonValue, settings: CorpusSettings
) -> Document | Unreadable:
    if value.problem:
        return unreadable(file, value.index, f"{value.place} {value.problem}")
    row = value.value
    if not isinstance(row, dict):
        return unreadable(file, value.index, f"{value.place} is not a JSON object")
    text = row.get(settings.text_column)
    url = row.get(settings.url_column) if settings.url_column else None
    return _document_of_row(file, value.index, text, url, settings)


def _document_of_row(
    file: CorpusFile, index: int, text: object, url: object, settings: CorpusSettings
) -> Document | Unreadable:
    place = url if isinstance(url, str) and url else file.name
    if not isinstance(text, str):
        reason = f"row {index + 1} has no string in {settings.text_column!r}"
        return unreadable(file, index, reason, place)
    return Document(document_id(file, index), place, text, settings.text_format, index)


def _read_parquet(file: CorpusFile, settings: CorpusSettings) -> Iterator[Document | Unreadable]:
    index = 0
    with open_file(file.path) as stream:
        try:
            table = pyarrow.parquet.ParquetFile(stream)
            columns = _wanted_columns(file, table.schema_arrow.names, settings)
            for batch in table.iter_batches(batch_size=_ROWS_PER_BATCH, columns=columns):
                texts = batch.column(settings.text_column)
                urls = batch.column(settings.url_column or settings.text_column)
                for text, url in zip(texts, urls, strict=True):
                    place = _value(url) if settings.url_column else None
                    yield _document_of_row(file, index, _value(text), place, settings)
                    index += 1
        except DAMAGE as error:
            yield damaged(file, index, error)


_ROWS_PER_BATCH = 256  # a row is a whole page, and a batch is in memory


def _wanted_columns(file: CorpusFile, names: list[str], settings: CorpusSettings) -> list[str]:
    wanted = _columns(settings)
    for column in wanted:
        if column not in names:
            raise UserError(
                f"{file.path} has no column {column!r}; it has {', '.join(names)}: set "
                f"settings.corpus.text_column or url_column"
            )
    return wanted


def _columns(settings: CorpusSettings) -> list[str]:
    return [name for name in (settings.text_column, settings.url_column) if name]


def _value(scalar: Any) -> object:
    try:
        return scalar.as_py()
    except UnicodeDecodeError:  # Parquet's writers need not check that a string is UTF-8
        return None


def check_dataset(location: str, settings: CorpusSettings, setting: str) -> None:
    """Refuse the address of a dataset that cannot be read as a corpus; nothing for other places.

    Raises:
        UserError: it is not reached, or has no such config, split or column.
    """
    if is_dataset(location):
        columns = _columns(_with_column_of(location, settings))
        hub_datasets.check_columns(dataset_address(location), columns, setting)


def _with_column_of(location: str, settings: CorpusSettings) -> CorpusSettings:
    """The settings, with the text's column as a dataset's address names it."""
    column = dataset_address(location.partition("#")[0]).column or settings.text_column
    return settings.model_copy(update={"text_column": column})


def _read_shard(file: CorpusFile, settings: CorpusSettings) -> Iterator[Document | Unreadable]:
    settings, index = _with_column_of(file.path, settings), 0
    try:
        for row in hub_datasets.read_shard(file, _columns(settings), "settings.corpus.path"):
            place = row[settings.url_column] if settings.url_column else None
            yield _document_of_row(file, index, row[settings.text_column], place, settings)
            index += 1
    except UserError:
        raise
    except hub_datasets.DAMAGE as error:
        yield damaged(file, index, error)
