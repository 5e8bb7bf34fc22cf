"""Files of every format as documents."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from typing import Any

import fsspec
import pyarrow
import pyarrow.parquet

from humpback_ray.config.settings import CorpusSettings
from humpback_ray.corpus.documents import (
    CorpusFile,
    Document,
    Format,
    Unreadable,
    damaged,
    decode_html,
    document_id,
    unreadable,
)
from humpback_ray.corpus.files import (
    HTML_SUFFIXES,
    JSONL_SUFFIXES,
    MARKDOWN_SUFFIXES,
    PARQUET_SUFFIXES,
    WARC_SUFFIXES,
)
from humpback_ray.corpus.installed_packages import PACKAGE_PREFIX, read_package
from humpback_ray.corpus.warc import read_warc
from humpback_ray.errors import UserError


def read_documents(file: CorpusFile, settings: CorpusSettings) -> Iterator[Document | Unreadable]:
    """The documents of one file, in order.

    One per HTML, Markdown or text file, line of JSONL, row of Parquet, and WARC response with
    status 200 and HTML in it. When a compressed or binary file is damaged, the last row is an
    Unreadable for the rest of it.

    Raises:
        UserError: a Parquet file lacks a column that the settings name.
        OSError: the file is gone or cannot be reached.
    """
    name = file.name.lower()
    if file.path.startswith(PACKAGE_PREFIX):
        yield read_package(file)
    elif name.endswith(JSONL_SUFFIXES):
        yield from _read_jsonl(file, settings)
    elif name.endswith(PARQUET_SUFFIXES):
        yield from _read_parquet(file, settings)
    elif name.endswith(WARC_SUFFIXES):
        yield from read_warc(file)
    else:
        yield _read_single(file)


def _read_single(file: CorpusFile) -> Document:
    with fsspec.open(file.path, "rb") as stream:
        data = stream.read()
    name = file.name.lower()
    if name.endswith(HTML_SUFFIXES):
        return Document(document_id(file, 0), file.name, decode_html(data), "html")
    content = data.decode("utf-8-sig", "replace")
    kind: Format = "markdown" if name.endswith(MARKDOWN_SUFFIXES) else "text"
    return Document(document_id(file, 0), file.name, content, kind)


# --- JSONL and Parquet --------------------------------------------------------------------------


def _read_jsonl(file: CorpusFile, settings: CorpusSettings) -> Iterator[Document | Unreadable]:
    compression = "gzip" if file.name.lower().endswith(".gz") else None
    index = 0
    with fsspec.open(file.path, "rb", compression=compression) as stream:
        try:
            for line in stream:
                if line.strip():
                    yield _document_of_line(file, index, line, settings)
                index += 1
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            yield damaged(file, index, error)


def _document_of_line(
    file: CorpusFile, index: int, line: bytes, settings: CorpusSettings
) -> Document | Unreadable:
    try:
        row = json.loads(line.decode("utf-8-sig", "replace"))
    except (ValueError, RecursionError) as error:
        return unreadable(file, index, f"line {index + 1} is not JSON: {error}")
    if not isinstance(row, dict):
        return unreadable(file, index, f"line {index + 1} is not a JSON object")
    text = row.get(settings.text_column)
    url = row.get(settings.url_column) if settings.url_column else None
    return _document_of_row(file, index, text, url, settings)


def _document_of_row(
    file: CorpusFile, index: int, text: object, url: object, settings: CorpusSettings
) -> Document | Unreadable:
    place = url if isinstance(url, str) and url else file.name
    if not isinstance(text, str):
        reason = f"row {index + 1} has no string in {settings.text_column!r}"
        return unreadable(file, index, reason, place)
    return Document(document_id(file, index), place, text, settings.text_format)


def _read_parquet(file: CorpusFile, settings: CorpusSettings) -> Iterator[Document | Unreadable]:
    index = 0
    with fsspec.open(file.path, "rb") as stream:
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
        except (pyarrow.ArrowException, UnicodeDecodeError, OSError) as error:
            yield damaged(file, index, error)


_ROWS_PER_BATCH = 256  # a row is a whole page, and a batch is in memory


def _wanted_columns(file: CorpusFile, names: list[str], settings: CorpusSettings) -> list[str]:
    wanted = [name for name in (settings.text_column, settings.url_column) if name]
    for column in wanted:
        if column not in names:
            raise UserError(
                f"{file.path} has no column {column!r}; it has {', '.join(names)}: set "
                f"settings.corpus.text_column or url_column"
            )
    return wanted


def _value(scalar: Any) -> object:
    try:
        return scalar.as_py()
    except UnicodeDecodeError:  # Parquet's writers need not check that a string is UTF-8
        return None
