"""Documents of a corpus, and the reasons where a file or record gives none."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Literal

Format = Literal["html", "markdown", "restructuredtext", "text"]


@dataclass(frozen=True, slots=True)
class CorpusFile:
    """One file of a corpus."""

    # What fsspec opens; `installed-packages:NAME` for a distribution, and a dataset's address with
    # the number of a shard.
    path: str
    name: str  # relative to the corpus: the same wherever the corpus lies
    size: int  # bytes; characters for a distribution, and a rough one for a shard


@dataclass(frozen=True, slots=True)
class Capture:
    """Facts that an archive states about a document, beside its text."""

    offset: int | None = None  # bytes before the record, or before its gzip member
    captured_at: str | None = None  # in UTC, ISO 8601
    http_status: int | None = None
    truncated: str | None = None
    opt_outs: frozenset[str] = frozenset()  # of the HTTP headers


NO_CAPTURE = Capture()


@dataclass(frozen=True, slots=True)
class Document:
    """One text of a corpus, before it is cut."""

    document_id: str  # hash of the file's name and the document's index in it
    url: str  # the file's name where the corpus gives none
    content: str
    format: Format
    index: int = 0  # in its file
    source_id: str | None = None  # that the corpus gives it
    capture: Capture = NO_CAPTURE


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A document, or the rest of a file, that could not be parsed."""

    document_id: str
    url: str
    reason: str  # short, for a person


@dataclass(frozen=True, slots=True)
class NotRead:
    """A file, link or archive record that is no document."""

    document_id: str
    url: str
    reason: str  # for a person; few different ones, because they are counted


def document_id(file: CorpusFile, index: int) -> str:
    """The id of a document: a hash of its file's name and its index in it."""
    return hashlib.sha256(json.dumps([file.name, index]).encode()).hexdigest()[:32]


def not_read(file: CorpusFile, index: int, reason: str, url: str | None = None) -> NotRead:
    """The row of a file, link or record that is no document, with its reason."""
    # A reason may quote a header or a name that others wrote, and goes to terminals.
    plain = re.sub(r"[^\w .,:/+*-]", "?", reason, flags=re.ASCII)[:80]
    return NotRead(document_id(file, index), url or file.name, plain)


def unreadable(file: CorpusFile, index: int, reason: str, url: str | None = None) -> Unreadable:
    """The row of a document that cannot be parsed."""
    return Unreadable(document_id(file, index), url or file.name, reason)


def is_about_content(error: Exception) -> bool:
    """True for an error that speaks of a file's content and not of the file system."""
    return not isinstance(error, OSError) or error.errno is None


def damaged(file: CorpusFile, index: int, error: Exception, part: str = "file") -> Unreadable:
    """The row for the rest of a file, or of a part of it.

    Raises:
        OSError: the error came from the file system and says nothing about the content.
    """
    if not is_about_content(error):
        raise error
    return unreadable(file, index, f"the rest of the {part} is damaged: {error}")
