"""Pages and texts of WARC archives, also behind damaged places."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import Any

from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType

from humpback_ray.corpus.decoding import decode_html, decode_text
from humpback_ray.corpus.documents import (
    Capture,
    CorpusFile,
    Document,
    NotRead,
    Unreadable,
    document_id,
    not_read,
    unreadable,
)
from humpback_ray.corpus.http_bodies import decoded_body
from humpback_ray.corpus.provenance import opt_outs, utc_time
from humpback_ray.corpus.warc_records import Damage, digest_says, records_of

XHTML_TYPE = "application/xhtml+xml"
HTML_TYPES = ("text/html", XHTML_TYPE)


def read_warc(file: CorpusFile) -> Iterator[Document | Unreadable | NotRead]:
    """Every record of an archive: a document, or the reason why it is none.

    Responses with status 200 and resources are pages where their type is HTML; conversions to plain
    text (WET) are texts. An Unreadable stands for each damaged place.
    """
    for index, piece in enumerate(records_of(file)):
        if isinstance(piece, Damage):
            yield unreadable(file, index, f"the archive is damaged: {piece.reason}")
            continue
        content = piece.content
        if digest_says(content) is False:
            reason = "the archive is damaged: a record is not what its digest says"
            yield unreadable(file, index, reason, _url_in(content))
            continue
        try:
            record = _parsed(content)
            yield _document_of_record(file, index, record, piece.offset)
        except (StopIteration, OSError, ValueError) as error:
            reason = str(error) or "no record in it"
            yield unreadable(file, index, f"undecodable record: {reason}", _url_in(content))


def _document_of_record(
    file: CorpusFile, index: int, record: WarcRecord, offset: int | None
) -> Document | NotRead:
    """The document of a record.

    Raises:
        OSError, ValueError: its body is not encoded as its headers say, or no text, or too large.
    """
    # wget writes the URL in angle brackets, as an example in the standard does.
    url = (record.headers.get("WARC-Target-URI") or "").strip(" <>") or file.name
    if reason := _reason_of_other(record):
        return not_read(file, index, reason, url)
    content_type = _content_type(record)
    capture = _capture(record, offset)
    # ClueWeb09 and 12 are known by the names that they give their records.
    source_id = record.headers.get("WARC-TREC-ID") or record.headers.get("WARC-Record-ID")
    body = record.reader.read()
    if record.record_type == WarcRecordType.conversion:
        text = decode_text(body)
        return Document(document_id(file, index), url, text, "text", index, source_id, capture)
    is_response = record.record_type == WarcRecordType.response
    http: Any = record.http_headers if is_response else {}
    body = decoded_body(
        body, http.get("Transfer-Encoding") or "", http.get("Content-Encoding") or ""
    )
    is_xhtml = _media_type(content_type) == XHTML_TYPE
    content = decode_html(body, _charset(content_type), is_xhtml=is_xhtml)
    return Document(document_id(file, index), url, content, "html", index, source_id, capture)


def _capture(record: WarcRecord, offset: int | None) -> Capture:
    http = record.http_headers
    found = [opt_outs(name, value) for name, value in http.items()] if http is not None else []
    return Capture(
        offset,
        utc_time(record.headers.get("WARC-Date")),
        http.status_code if http is not None else None,
        record.headers.get("WARC-Truncated"),
        frozenset().union(*found),
    )


def _reason_of_other(record: WarcRecord) -> str:
    """The reason why a record is no page; empty for a page."""
    kind = record.record_type
    media_type = _media_type(_content_type(record)) or "unknown type"
    if kind == WarcRecordType.response:
        if record.http_headers is None or record.http_headers.status_code is None:
            return "response without an HTTP status"
        if record.http_headers.status_code != 200:
            return f"response with status {record.http_headers.status_code}"
        return "" if media_type in HTML_TYPES else f"response of {media_type}"
    if kind == WarcRecordType.resource:
        return "" if media_type in HTML_TYPES else f"resource of {media_type}"
    if kind == WarcRecordType.conversion:
        return "" if media_type == "text/plain" else f"conversion of {media_type}"
    return f"record of type {(record.headers.get('WARC-Type') or 'unknown').strip().lower()}"


def _content_type(record: WarcRecord) -> str:
    headers = record.headers
    if record.record_type == WarcRecordType.response:
        headers = record.http_headers
    return (headers.get("Content-Type") if headers is not None else None) or ""


def _media_type(content_type: str) -> str:
    return re.split("[;,]", content_type)[0].strip().lower()


def _charset(content_type: str) -> str | None:
    found = re.search(r"charset\s*=\s*[\"']?([^\s\"';,]+)", content_type, re.IGNORECASE)
    return found.group(1) if found else None


_TYPE_LINE = re.compile(
    rb"(?im)^(?:(WARC-Type):|(Content-Type):(?=[ \t]*application/http))[ \t]*([^\r\n]*)"
)
_LENGTH_NAME = re.compile(rb"(?im)^content-length[ \t]*:")
_VERSION = re.compile(rb"\AWARC/[0-9.]+")
_HEADER_END = re.compile(rb"\r?\n\r?\n")


def _parsed(record: bytes) -> WarcRecord:
    """A record as FastWARC knows it: it compares types, and the name of the length, by their case.

    Raises:
        StopIteration, OSError: it is no record.
    """
    end = _HEADER_END.search(record)
    length = end.start() if end else 0
    header = _VERSION.sub(b"WARC/1.0", record[:length], count=1)  # ClueWeb09 has WARC/0.18
    header = _TYPE_LINE.sub(
        lambda line: (b"WARC-Type: " if line[1] else b"Content-Type: ") + line[3].lower(), header
    )
    header = _LENGTH_NAME.sub(b"Content-Length:", header, count=1)
    stream = io.BytesIO(header + record[length:])
    return next(iter(ArchiveIterator(stream, quirks_mode=True)))  # also bare line feeds


def _url_in(record: bytes) -> str | None:
    found = re.search(rb"(?im)^WARC-Target-URI:\s*(\S+)", record)
    return found.group(1).decode("utf-8", "replace") if found else None
