"""Reading a corpus: files to documents to segment rows, one file at a time.

A file is read as a stream, from any place that fsspec opens. What cannot be parsed becomes a row
of its own; only a corpus that cannot be there as described is an error.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.metadata
import io
import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any, Literal

import fsspec
import pyarrow
import pyarrow.parquet
from fastwarc.stream_io import BrotliReader, ChunkedReader, GzipReader, ZstdReader
from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem
from resiliparse.parse.encoding import bytes_to_str, detect_encoding, map_encoding_to_html5

from humpback_ray.config import CorpusSettings
from humpback_ray.records import Segment, SegmentOutcome
from humpback_ray.text.filters import outcome_of, segment_id, storable
from humpback_ray.text.segmenting import (
    Section,
    sections_of_html,
    sections_of_markdown,
    sections_of_text,
)

INSTALLED_PACKAGES = "installed-packages"

HTML_SUFFIXES = (".html", ".htm")
MARKDOWN_SUFFIXES = (".md", ".markdown")
TEXT_SUFFIXES = (".txt",)
JSONL_SUFFIXES = (".jsonl", ".jsonl.gz")
PARQUET_SUFFIXES = (".parquet",)
WARC_SUFFIXES = (".warc", ".warc.gz")
CORPUS_SUFFIXES = (
    *HTML_SUFFIXES, *MARKDOWN_SUFFIXES, *TEXT_SUFFIXES,
    *JSONL_SUFFIXES, *PARQUET_SUFFIXES, *WARC_SUFFIXES,
)  # fmt: skip

Format = Literal["html", "markdown", "text"]


@dataclass(frozen=True, slots=True)
class CorpusFile:
    """One file of a corpus."""

    path: str  # what fsspec opens; `installed-packages:NAME` for a distribution
    name: str  # relative to the corpus: the same wherever the corpus lies
    size: int  # bytes; characters for a distribution


@dataclass(frozen=True, slots=True)
class Document:
    """One text of a corpus, before it is cut."""

    document_id: str  # hash of the file's name and the document's index in it
    url: str  # the file's name where the corpus gives none
    content: str
    format: Format


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A document, or the rest of a file, that could not be parsed."""

    document_id: str
    url: str
    reason: str  # short, for a person


def segments_of(file: CorpusFile, settings: CorpusSettings) -> Iterator[Segment]:
    """Every section of a file as a row with its outcome; duplicates are not looked for here.

    (document_id, start) is unique. A document without any section gives one row TOO_SHORT. An
    unreadable one gives one row UNREADABLE, whose text is the reason.

    Raises:
        ValueError, OSError: as `read_documents`.
    """
    for document in read_documents(file, settings):
        if isinstance(document, Unreadable):
            yield _unreadable_segment(document, settings)
            continue
        try:
            sections = _sections_of(document, settings.max_characters)
        except ValueError as error:
            refused = Unreadable(document.document_id, document.url, str(error))
            yield _unreadable_segment(refused, settings)
            continue
        for section in sections or [Section(header=None, text="", start=0)]:
            yield _segment(document, section, settings)


def _sections_of(document: Document, max_characters: int) -> list[Section]:
    cut = {
        "html": sections_of_html,
        "markdown": sections_of_markdown,
        "text": sections_of_text,
    }[document.format]
    return list(cut(document.content, max_characters))


def _segment(document: Document, section: Section, settings: CorpusSettings) -> Segment:
    return Segment(
        segment_id=segment_id(section.text),
        text=storable(section.text, settings.max_characters),
        header=storable(section.header or "", settings.max_characters),
        document_id=document.document_id,
        url=storable(document.url, settings.max_characters),
        start=section.start,
        num_characters=len(section.text),
        outcome=outcome_of(section, settings),
    )


def _unreadable_segment(document: Unreadable, settings: CorpusSettings) -> Segment:
    return Segment(
        segment_id=segment_id(document.reason),
        text=storable(document.reason, settings.max_characters),
        header="",
        document_id=document.document_id,
        url=storable(document.url, settings.max_characters),
        start=0,
        num_characters=0,
        outcome=SegmentOutcome.UNREADABLE,
    )


# --- finding files ------------------------------------------------------------------------------


def list_files(path: str, suffixes: tuple[str, ...] = CORPUS_SUFFIXES) -> list[CorpusFile]:
    """The files of a corpus, sorted by name; hidden files and folders are skipped.

    Args:
        path: `installed-packages`, or a folder (read recursively), glob or file, local or a URL
            that fsspec knows.
        suffixes: of the files to take, in lower case.

    Raises:
        ValueError: nothing is there, it cannot be reached, or no file has one of the suffixes.
    """
    if path == INSTALLED_PACKAGES:
        return [_file_of_package(name) for name in _package_names()]
    try:
        filesystem, root = url_to_fs(path)
        found = _entries(filesystem, root)
    except (ImportError, ValueError, OSError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"cannot list {path!r}: {reason}: give {_WANTED_PATH}") from error
    if not found:
        raise ValueError(f"nothing at {path!r}: give {_WANTED_PATH}")
    files = [f for f in found if not _is_hidden(f.name) and f.name.lower().endswith(suffixes)]
    if not files:
        raise ValueError(
            f"no file to read at {path!r}: files ending in {', '.join(suffixes)} are read, and "
            f"there are {len(found)} other files (hidden ones are skipped)"
        )
    return sorted(files, key=lambda file: file.name)


_WANTED_PATH = f"a folder, glob, file, fsspec URL or {INSTALLED_PACKAGES}"
_GLOB_CHARACTERS = re.compile(r"[*?\[]")


def _entries(filesystem: Any, root: str) -> list[CorpusFile]:
    """All files at `root`, named relative to the folder that every match lies in."""
    if filesystem.isdir(root):
        base, matches = root, [root]
    elif filesystem.isfile(root) or not _GLOB_CHARACTERS.search(root):
        base, matches = root.rpartition("/")[0], [root]
    else:
        base = _GLOB_CHARACTERS.split(root)[0].rpartition("/")[0]
        matches = filesystem.glob(root)
    # A match of a glob may be a folder, and contain another match.
    entries: dict[str, Any] = {}
    for match in matches:
        entries.update(filesystem.find(match, detail=True))
    return [
        CorpusFile(
            path=_openable(filesystem, path),
            name=path.removeprefix(base).lstrip("/"),
            size=int(entry.get("size") or 0),
        )
        for path, entry in entries.items()
    ]


def _openable(filesystem: Any, path: str) -> str:
    is_local = isinstance(filesystem, LocalFileSystem)
    return path if is_local else filesystem.unstrip_protocol(path)


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in PurePosixPath(name).parts)


def content_identity(files: list[CorpusFile]) -> str:
    """SHA-256 over names, sizes and contents, as 64 hexadecimal digits; no path, host or time.

    Files above 4 MiB count by their size and their first, middle and last MiB.
    """
    digest = hashlib.sha256()
    for file in sorted(files, key=lambda file: file.name):
        content = hashlib.sha256()
        for piece in _sampled(file):
            content.update(piece)
        entry = json.dumps([file.name, file.size, content.hexdigest()])
        digest.update(entry.encode() + b"\n")
    return digest.hexdigest()


_MIB = 2**20


def _sampled(file: CorpusFile) -> Iterator[bytes]:
    if file.path.startswith(_PACKAGE_PREFIX):
        yield _read_package(file).content.encode("utf-8", "surrogatepass")
        return
    with fsspec.open(file.path, "rb") as stream:
        if file.size <= 4 * _MIB:
            yield stream.read()
            return
        for offset in (0, file.size // 2, file.size - _MIB):
            stream.seek(offset)
            yield stream.read(_MIB)


# --- reading documents --------------------------------------------------------------------------


def read_documents(file: CorpusFile, settings: CorpusSettings) -> Iterator[Document | Unreadable]:
    """The documents of one file, in order.

    One per HTML, Markdown or text file, line of JSONL, row of Parquet, and WARC response with
    status 200 and HTML in it. When a compressed or binary file is damaged, the last row is an
    Unreadable for the rest of it.

    Raises:
        ValueError: a Parquet file lacks a column that the settings name.
        OSError: the file is gone or cannot be reached.
    """
    name = file.name.lower()
    if file.path.startswith(_PACKAGE_PREFIX):
        yield _read_package(file)
    elif name.endswith(JSONL_SUFFIXES):
        yield from _read_jsonl(file, settings)
    elif name.endswith(PARQUET_SUFFIXES):
        yield from _read_parquet(file, settings)
    elif name.endswith(WARC_SUFFIXES):
        yield from _read_warc(file)
    else:
        yield _read_single(file)


def _document_id(file: CorpusFile, index: int) -> str:
    return hashlib.sha256(json.dumps([file.name, index]).encode()).hexdigest()[:32]


def _unreadable(file: CorpusFile, index: int, reason: str, url: str | None = None) -> Unreadable:
    return Unreadable(_document_id(file, index), url or file.name, reason)


def _damaged(file: CorpusFile, index: int, error: Exception) -> Unreadable:
    """The row for the rest of a file.

    Raises:
        OSError: the error came from the file system and says nothing about the content.
    """
    if isinstance(error, OSError) and error.errno is not None:
        raise error
    return _unreadable(file, index, f"the rest of the file is damaged: {error}")


def _read_single(file: CorpusFile) -> Document:
    with fsspec.open(file.path, "rb") as stream:
        data = stream.read()
    name = file.name.lower()
    if name.endswith(HTML_SUFFIXES):
        return Document(_document_id(file, 0), file.name, _decode_html(data), "html")
    content = data.decode("utf-8-sig", "replace")
    kind: Format = "markdown" if name.endswith(MARKDOWN_SUFFIXES) else "text"
    return Document(_document_id(file, 0), file.name, content, kind)


def _decode_html(data: bytes, declared: str | None = None) -> str:
    """The characters of a page.

    UTF-8 where the bytes are valid UTF-8: no other encoding gives such bytes by accident, and
    detection fails on short pages. Otherwise as the HTTP header declares, or byte order mark,
    meta element or the bytes themselves suggest.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        encoding = map_encoding_to_html5(declared, fallback_utf8=False) if declared else None
        encoding = encoding or detect_encoding(data, from_html_meta=True) or "utf-8"
        return bytes_to_str(data, encoding, errors="replace", fallback_encodings=())


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
            yield _damaged(file, index, error)


def _document_of_line(
    file: CorpusFile, index: int, line: bytes, settings: CorpusSettings
) -> Document | Unreadable:
    try:
        row = json.loads(line.decode("utf-8-sig", "replace"))
    except (ValueError, RecursionError) as error:
        return _unreadable(file, index, f"line {index + 1} is not JSON: {error}")
    if not isinstance(row, dict):
        return _unreadable(file, index, f"line {index + 1} is not a JSON object")
    text = row.get(settings.text_column)
    url = row.get(settings.url_column) if settings.url_column else None
    return _document_of_row(file, index, text, url, settings)


def _document_of_row(
    file: CorpusFile, index: int, text: object, url: object, settings: CorpusSettings
) -> Document | Unreadable:
    place = url if isinstance(url, str) and url else file.name
    if not isinstance(text, str):
        reason = f"row {index + 1} has no string in {settings.text_column!r}"
        return _unreadable(file, index, reason, place)
    return Document(_document_id(file, index), place, text, settings.text_format)


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
            yield _damaged(file, index, error)


_ROWS_PER_BATCH = 256  # a row is a whole page, and a batch is in memory


def _wanted_columns(file: CorpusFile, names: list[str], settings: CorpusSettings) -> list[str]:
    wanted = [name for name in (settings.text_column, settings.url_column) if name]
    for column in wanted:
        if column not in names:
            raise ValueError(
                f"{file.path} has no column {column!r}; it has {', '.join(names)}: set "
                f"settings.corpus.text_column or url_column"
            )
    return wanted


def _value(scalar: Any) -> object:
    try:
        return scalar.as_py()
    except UnicodeDecodeError:  # Parquet's writers need not check that a string is UTF-8
        return None


# --- WARC ---------------------------------------------------------------------------------------


def _read_warc(file: CorpusFile) -> Iterator[Document | Unreadable]:
    # Python's gzip notices a truncated file, where FastWARC's own ends in silence.
    compression = "gzip" if file.name.lower().endswith(".gz") else None
    index = 0
    with fsspec.open(file.path, "rb", compression=compression) as stream:
        try:
            source: Any = _ShortReads(stream) if compression else stream
            for record in ArchiveIterator(source, record_types=WarcRecordType.response):
                if _is_page(record):
                    yield _document_of_record(file, index, record)
                index += 1
        except (EOFError, OSError, zlib.error) as error:
            yield _damaged(file, index, error)


@dataclass(frozen=True, slots=True)
class _ShortReads:
    """A stream that gives what one read of the compressed file yields.

    A full read would fail as a whole, and the records before a damaged place be lost with it.
    """

    stream: Any

    def read(self, size: int = -1) -> bytes:
        return self.stream.read1(size)

    def tell(self) -> int:
        return self.stream.tell()


def _is_page(record: WarcRecord) -> bool:
    headers = record.http_headers
    if headers is None or headers.status_code != 200:
        return False
    return record.http_content_type in ("text/html", "application/xhtml+xml")


def _document_of_record(file: CorpusFile, index: int, record: WarcRecord) -> Document | Unreadable:
    url = record.headers.get("WARC-Target-URI") or file.name
    charset = record.http_charset
    body = record.reader.read()
    try:
        body = _decode_transfer(body, record)
    except (OSError, ValueError) as error:
        return _unreadable(file, index, f"undecodable response: {error}", url)
    return Document(_document_id(file, index), url, _decode_html(body, charset), "html")


_CONTENT_READERS = {
    "gzip": GzipReader, "x-gzip": GzipReader, "br": BrotliReader, "zstd": ZstdReader,
}  # fmt: skip


def _decode_transfer(body: bytes, record: WarcRecord) -> bytes:
    """The body without its HTTP transfer and content encodings.

    FastWARC's `auto_decode` does the same, but an undecodable response then ends the archive.

    Raises:
        OSError, ValueError: the body is not encoded as its headers say.
    """
    if "chunked" in (record.http_headers.get("Transfer-Encoding") or "").lower():
        body = ChunkedReader(io.BytesIO(body)).read()
    encoding = (record.http_headers.get("Content-Encoding") or "identity").strip().lower()
    if encoding == "identity":
        return body
    if encoding not in _CONTENT_READERS:
        raise ValueError(f"content encoding {encoding!r}")
    return _CONTENT_READERS[encoding](io.BytesIO(body)).read()


# --- installed packages -------------------------------------------------------------------------

_PACKAGE_PREFIX = f"{INSTALLED_PACKAGES}:"
_THIS_PACKAGE = "humpback-ray"


def _package_names() -> list[str]:
    """Normalised names of the distributions of this interpreter, sorted, without this project."""
    names = {
        re.sub(r"[-_.]+", "-", distribution.name).lower()  # as PyPI normalises them
        for distribution in importlib.metadata.distributions()
        if distribution.name
    }
    return sorted(names - {_THIS_PACKAGE})


def _file_of_package(name: str) -> CorpusFile:
    distribution = importlib.metadata.distribution(name)
    file = CorpusFile(f"{_PACKAGE_PREFIX}{name}", f"{name}-{distribution.version}", size=0)
    return replace(file, size=len(_read_package(file).content))


def _read_package(file: CorpusFile) -> Document:
    """The long description (README) of a distribution; reStructuredText counts as plain text.

    Raises:
        ValueError: the distribution is not installed here.
    """
    name = file.path.removeprefix(_PACKAGE_PREFIX)
    try:
        metadata = importlib.metadata.metadata(name)
    except importlib.metadata.PackageNotFoundError as error:
        raise ValueError(f"{name} is not installed on this machine: {error}") from error
    content_types = metadata.get_all("Description-Content-Type") or [""]
    kind: Format = "markdown" if content_types[0].lower().startswith("text/markdown") else "text"
    # The body of METADATA, or its Description field: importlib.metadata joins the two.
    descriptions = metadata.get_all("Description") or [""]
    return Document(_document_id(file, 0), file.name, descriptions[-1], kind)
