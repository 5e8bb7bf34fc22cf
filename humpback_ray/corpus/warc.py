"""Pages of WARC archives."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import fsspec
from fastwarc.stream_io import BrotliReader, ChunkedReader, GzipReader, ZstdReader
from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType

from humpback_ray.corpus.documents import (
    CorpusFile,
    Document,
    Unreadable,
    damaged,
    decode_html,
    document_id,
    unreadable,
)

# --- WARC ---------------------------------------------------------------------------------------


def read_warc(file: CorpusFile) -> Iterator[Document | Unreadable]:
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
            yield damaged(file, index, error)


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
        return unreadable(file, index, f"undecodable response: {error}", url)
    return Document(document_id(file, index), url, decode_html(body, charset), "html")


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
