"""Files of every format as documents."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import pyarrow.compute as pc
import pyarrow.parquet

from humpback_ray.config.dataset_address import dataset_address, is_dataset
from humpback_ray.config.settings import CorpusSettings
from humpback_ray.corpus import columns, hub_datasets
from humpback_ray.corpus.decoding import decode_html, decode_text
from humpback_ray.corpus.documents import (
    CorpusFile,
    Document,
    Format,
    NotRead,
    Unreadable,
    damaged,
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
    RESTRUCTUREDTEXT_SUFFIXES,
    WARC_SUFFIXES,
    XHTML_SUFFIXES,
)
from humpback_ray.corpus.installed_packages import PACKAGE_PREFIX, read_package
from humpback_ray.corpus.json_values import JsonValue, json_values
from humpback_ray.corpus.opening import (
    DAMAGE,
    POINTER_REASON,
    decompressed,
    is_pointer,
    open_content,
    open_file,
)
from humpback_ray.corpus.warc import read_warc
from humpback_ray.errors import UserError
from humpback_ray.method.xhtml import html_of_xhtml, is_xml


def read_documents(
    file: CorpusFile, settings: CorpusSettings
) -> Iterator[Document | Unreadable | NotRead]:
    """The documents of one file, in order.

    One per HTML, Markdown, reStructuredText or text file, line or element of JSON, row of Parquet
    or of a dataset, and archived page or text. An Unreadable stands for each damaged place, a
    NotRead for each record of an archive that is no page, and for a file without any document.

    Raises:
        UserError: a Parquet file or dataset lacks the columns that the settings name or that
            corpora use, or the file is gone or cannot be reached.
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


def _format_of(name: str) -> Format:
    if name.endswith(MARKDOWN_SUFFIXES):
        return "markdown"
    return "restructuredtext" if name.endswith(RESTRUCTUREDTEXT_SUFFIXES) else "text"


MAX_FILE = 2**28  # bytes of a file that is one document: a larger one is no document


def _read_single(file: CorpusFile) -> Document | Unreadable:
    try:
        with open_content(file.path) as stream:
            data = b"".join(_limited(stream))
        name = file.name.lower()
        if name.endswith(HTML_SUFFIXES):
            page = decode_html(data, is_xhtml=name.endswith(XHTML_SUFFIXES))
            return Document(document_id(file, 0), file.name, page, "html")
        return Document(document_id(file, 0), file.name, decode_text(data), _format_of(name))
    except ValueError as error:
        return unreadable(file, 0, str(error))
    except DAMAGE as error:
        return damaged(file, 0, error)


def _limited(stream: Any) -> Iterator[bytes]:
    """The pieces of a stream.

    Raises:
        ValueError: they have more than MAX_FILE bytes.
    """
    num_bytes = 0
    while piece := bytes(stream.read(2**20)):
        num_bytes += len(piece)
        if num_bytes > MAX_FILE:
            raise ValueError(f"it has more than {MAX_FILE:,} bytes, too many for one document")
        yield piece


# --- JSON, Parquet and datasets -----------------------------------------------------------------


def _read_json(file: CorpusFile, settings: CorpusSettings) -> Iterator[Document | Unreadable]:
    index = 0
    with open_file(file.path) as raw:
        for stream in decompressed(raw, file.path):
            begin = index
            try:
                for value in json_values(stream):
                    index = begin + value.index + 1
                    yield _document_of_value(file, index - 1, value, settings)
            except DAMAGE as error:
                part = "gzip member" if file.path.lower().endswith(".gz") else "file"
                yield damaged(file, index, error, part)
                index += 1


def _document_of_value(
    file: CorpusFile, index: int, value: JsonValue, settings: CorpusSettings
) -> Document | Unreadable:
    if value.problem:
        return unreadable(file, index, f"{value.place} {value.problem}")
    row = value.value
    if not isinstance(row, dict):
        return unreadable(file, index, f"{value.place} is not a JSON object")
    return _document_of_row(file, index, _cells_of(row, settings), settings, columns.names_in(row))


class _Cells(NamedTuple):
    """The values of a row that make a document."""

    text: object
    url: object
    source_id: object


def _cells_of(row: dict[str, Any], settings: CorpusSettings) -> _Cells:
    wanted = columns.text_columns(settings), columns.url_columns(settings), columns.ID_COLUMNS
    return _Cells(*(columns.first_of(row, names) for names in wanted))


def _document_of_row(
    file: CorpusFile,
    index: int,
    cells: _Cells,
    settings: CorpusSettings,
    names: Iterable[str],
) -> Document | Unreadable:
    text, url, source_id = cells
    place = url.strip() if isinstance(url, str) else ""  # ClueWeb22 has a line break behind each
    if isinstance(text, bytes):  # of Parquet files whose writer gave no type of string
        try:
            text = decode_html(text) if settings.text_format == "html" else decode_text(text)
        except ValueError as error:
            return unreadable(file, index, f"row {index + 1} is {error}", place)
    if not isinstance(text, str):
        wanted = " or ".join(columns.text_columns(settings))
        reason = (
            f"row {index + 1} has no string in {wanted}; it has {columns.in_words(list(names))}"
        )
        return unreadable(file, index, reason, place)
    if settings.text_format == "html" and is_xml(text):
        text = html_of_xhtml(text)
    named = str(source_id).strip() if isinstance(source_id, str | int) else None
    url = place or file.name
    return Document(document_id(file, index), url, text, settings.text_format, index, named)


def _read_parquet(file: CorpusFile, settings: CorpusSettings) -> Iterator[Document | Unreadable]:
    index = 0
    with open_file(file.path) as stream:
        try:
            table = pyarrow.parquet.ParquetFile(stream)
            names = list(columns.names_of(table.schema_arrow))
            wanted = _wanted_columns(file, names, settings)
            there = list(dict.fromkeys(name for name in wanted if name))
            for batch in table.iter_batches(batch_size=_ROWS_PER_BATCH, columns=there):
                cells = [_column(batch, name) if name else [None] * len(batch) for name in wanted]
                for row in zip(*cells, strict=True):
                    values = _Cells(*map(_value, row))
                    yield _document_of_row(file, index, values, settings, names)
                    index += 1
        except DAMAGE as error:
            yield damaged(file, index, error)


_ROWS_PER_BATCH = 256  # a row is a whole page, and a batch is in memory


def _wanted_columns(
    file: CorpusFile, names: list[str], settings: CorpusSettings
) -> tuple[str, str | None, str | None]:
    """The columns of text, URL and id; None where the settings name no URL and none is known."""
    wanted = columns.text_columns(settings), columns.url_columns(settings)
    text, url = (next((name for name in each if name in names), None) for each in wanted)
    for column, candidates in zip(
        (text, url if settings.url_column else text), wanted, strict=True
    ):
        if column is None:
            raise UserError(
                f"{file.path} has no column {' or '.join(map(repr, candidates))}; it has "
                f"{columns.in_words(names)}: set {columns.SETTINGS}"
            )
    assert text is not None
    return text, url, next((name for name in columns.ID_COLUMNS if name in names), None)


def _column(batch: Any, name: str) -> Any:
    """A column of a batch of rows; a dotted name leads into a struct."""
    path = columns.path_of(batch.schema, name)
    assert path is not None, f"{name} is no column"
    first, *inner = path
    column = batch.column(first)
    return pc.struct_field(column, inner) if inner else column


def _value(scalar: Any) -> object:
    try:
        return scalar.as_py() if scalar is not None else None
    except UnicodeDecodeError:  # Parquet's writers need not check that a string is UTF-8
        return None


def check_dataset(location: str, settings: CorpusSettings, setting: str) -> None:
    """Refuse the address of a dataset that cannot be read as a corpus; nothing for other places.

    Raises:
        UserError: it is not reached, or has no such config, split or column.
    """
    if is_dataset(location):
        _columns_of_dataset(location, _with_column_of(location, settings), setting)


def _with_column_of(location: str, settings: CorpusSettings) -> CorpusSettings:
    """The settings, with the text's column as a dataset's address names it."""
    column = dataset_address(location).column or settings.text_column
    return settings.model_copy(update={"text_column": column})


def _columns_of_dataset(location: str, settings: CorpusSettings, setting: str) -> list[str]:
    """The columns in which a dataset has the text and, where it has them, the URL and the id."""
    address = dataset_address(location)
    there = hub_datasets.column_names(address, setting)
    texts, urls = columns.text_columns(settings), columns.url_columns(settings)
    text, url = (columns.outer_column(each, there) for each in (texts, urls))
    if text is None or (url is None and settings.url_column):
        raise hub_datasets.no_column(address, texts if text is None else urls, setting)
    source_id = columns.outer_column(columns.ID_COLUMNS, there)
    return list(dict.fromkeys(name for name in (text, url, source_id) if name))


def _read_shard(file: CorpusFile, settings: CorpusSettings) -> Iterator[Document | Unreadable]:
    location, index = file.path.partition("#")[0], 0
    settings = _with_column_of(location, settings)
    wanted = _columns_of_dataset(location, settings, "settings.corpus.path")
    try:
        for row in hub_datasets.read_shard(file, wanted, "settings.corpus.path"):
            cells = _cells_of(row, settings)
            yield _document_of_row(file, index, cells, settings, columns.names_in(row))
            index += 1
    except UserError:
        raise
    except hub_datasets.DAMAGE as error:
        yield damaged(file, index, error)
