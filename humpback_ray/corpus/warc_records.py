"""Records of a WARC archive as bytes, also of those behind a damaged place.

FastWARC stops at the first damaged place. A reader can find the next record, because each begins
with a line such as `WARC/1.0` and most archives compress records one by one.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import zlib
from collections import deque
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

from humpback_ray.corpus.documents import CorpusFile, is_about_content
from humpback_ray.corpus.gzip_members import next_member
from humpback_ray.corpus.opening import COMPRESSIONS, DAMAGE, open_content, open_file

MAX_RECORD = 2**28  # bytes; a larger one is no page, and a damaged length may say anything
_MAX_HEADER = 2**16
_MAX_HELD = 2**24  # bytes of a gzip member's content that are held until its checksum is known
_CHUNK = 2**18
_SLICE = 2**10  # of compressed bytes: a call that fails also loses what was right before


@dataclass(frozen=True, slots=True)
class Damage:
    """A place at which an archive cannot be read."""

    reason: str


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive bytes of an archive's content."""

    content: bytes
    offset: int | None  # in the file: of the content, or of the gzip member that it is in
    is_member: bool = False


@dataclass(frozen=True, slots=True)
class Record:
    """A record with its headers."""

    content: bytes
    # Bytes of the file before it, or before its gzip member: where a reader begins, as in CDX
    # files. None where the whole archive is compressed.
    offset: int | None


def records_of(file: CorpusFile) -> Iterator[Record | Damage]:
    """Each record, in order, and one Damage for each damaged place.

    Raises:
        OSError: the file is gone or cannot be reached.
    """
    if file.path.lower().endswith(".gz"):
        with open_file(file.path) as stream:
            yield from _Framer(_gzip_pieces(stream)).records()
    else:
        yield from _Framer(_plain_pieces(file)).records()


def _plain_pieces(file: CorpusFile) -> Iterator[Piece | Damage]:
    is_compressed = file.path.lower().endswith(COMPRESSIONS[1:])
    position = 0
    try:
        with open_content(file.path) as stream:
            while chunk := bytes(stream.read(_CHUNK)):
                yield Piece(chunk, None if is_compressed else position)
                position += len(chunk)
    except DAMAGE as error:
        if not is_about_content(error):
            raise
        yield Damage(f"it cannot be decompressed further ({error})")


# --- gzip ---------------------------------------------------------------------------------------


def _gzip_pieces(stream: Any) -> Iterator[Piece | Damage]:
    """The content of each gzip member; behind damage, from the next member that holds a record.

    Nothing behind damage within a member can be read. The next block of its bits can be found, but
    text is a chain of references to what stands up to 32 KiB before it. Of a file of 219 records of
    package metadata (1.8 MB in one member, 40 bytes overwritten at a third of it), the 1.1 MB
    behind the next block had 69% unknown bytes at first and 28% at the end, and none of its 148
    records was whole.
    """
    start: int | None = 0
    while start is not None:
        end, damage = yield from _member(stream, start)
        if damage:
            yield Damage(damage)
            end = next_member(stream, start + 1, _is_record)
        start = end


def _member(stream: Any, start: int) -> Generator[Piece, None, tuple[int | None, str]]:
    """The content of the gzip member at a position.

    Returns:
        Where the next member begins, None at the end of the file; and the damage, if there is any.
    """
    stream.seek(start)
    decompressor = zlib.decompressobj(wbits=31)
    held: list[bytes] = []
    num_read = num_bytes = 0
    damage = ""
    while not decompressor.eof and not damage:
        data = bytes(stream.read(_SLICE))
        if not num_read and not data.strip(b"\0"):
            if not data:
                return None, ""
            start += len(data)  # a file may end in zeros
            continue
        num_read += len(data)
        try:
            piece = decompressor.decompress(data)
        except zlib.error as error:
            damage = str(error)
            break
        if not data:
            damage = "the file ends within a record"
        num_bytes += len(piece)
        held.append(piece)
        if num_bytes > _MAX_HELD:
            yield Piece(b"".join(held), start, True)
            held = []
    content = b"".join(held)
    is_one_record = num_bytes <= _MAX_HELD and len(_RECORD_START.findall(content)) <= 1
    # Of one record with a wrong checksum nothing can be trusted; of many, most are right.
    if content and not ("incorrect" in damage and is_one_record):
        yield Piece(content, start, True)
    return start + num_read - len(decompressor.unused_data), damage


def _is_record(beginning: bytes) -> bool:
    return beginning.startswith(b"WARC/")


# --- digests ------------------------------------------------------------------------------------

_DIGEST = re.compile(
    rb"(?im)^WARC-Block-Digest:[ \t]*(md5|sha-?1|sha-?256|sha-?512)[:=][ \t]*([A-Za-z0-9+/=]+)"
)


def digest_says(record: bytes) -> bool | None:
    """True if a record's block has the digest in its header, False if not; None without a digest.

    Bytes that were overwritten within a block change no length, so only a digest shows them. An
    archive without digests keeps such a record; filters then drop it where the bytes are no text.
    """
    end = _HEADER_END.search(record)
    found = _DIGEST.search(record, 0, end.end()) if end else None
    if end is None or found is None:
        return None
    digest = hashlib.new(found[1].decode().lower().replace("-", ""), record[end.end() :]).digest()
    for decode in (bytes.fromhex, _base32, _base64):
        try:
            given = decode(found[2].decode())
        except (ValueError, binascii.Error):
            continue
        if len(given) == len(digest):
            return given == digest
    return None


def _base32(text: str) -> bytes:
    return base64.b32decode(text.upper() + "=" * (-len(text) % 8))


def _base64(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)


# --- records ------------------------------------------------------------------------------------

_RECORD_START = re.compile(rb"WARC/[01]\.[0-9]{1,2}\r?\n[A-Za-z-]+:")
_MAX_START = 64  # bytes: none is longer
_HEADER_END = re.compile(rb"\r?\n\r?\n")
_LENGTH = re.compile(rb"(?im)^Content-Length:[ \t]*([0-9]{1,18})[ \t]*\r?$")


class _Framer:
    """Cuts a stream of pieces into records."""

    def __init__(self, pieces: Iterator[Piece | Damage]) -> None:
        self.pieces = pieces
        self.buffer = bytearray()
        self.broken: Damage | None = None  # the stream goes on elsewhere behind the buffer
        # Pieces that begin in the buffer or reach into it, with the places of their beginnings.
        self.places: deque[tuple[int, Piece]] = deque()

    def records(self) -> Iterator[Record | Damage]:
        while True:
            self._skip_line_breaks()
            if self.buffer:
                yield self._record()
            elif self.broken:
                yield self.broken
                self.broken = None
            else:
                return

    def _record(self) -> Record | Damage:
        """The record at the front of the buffer, which is at the next one afterwards."""
        length = self._length()
        if isinstance(length, str):
            return self._lose(length)
        while len(self.buffer) < length and self._fill():
            pass
        if len(self.buffer) < length:
            return self._lose("a record is cut")
        if not self._ends_at(length):
            return self._lose("a record does not end where its header says")
        record = Record(bytes(self.buffer[:length]), self._offset())
        self._drop(length)
        return record

    def _length(self) -> int | str:
        """Bytes of the record at the front of the buffer, or why that is not known."""
        while (end := _HEADER_END.search(self.buffer)) is None:
            if len(self.buffer) > _MAX_HEADER or not self._fill():
                break
        if not _RECORD_START.match(self.buffer):
            return "no record begins where one should"
        if end is None:
            return "the header of a record has no end"
        found = _LENGTH.search(self.buffer, 0, end.end())
        if found is None:
            return "the header of a record gives no length"
        length = int(found.group(1))
        if length > MAX_RECORD:
            return f"a record has {length:,} bytes, and at most {MAX_RECORD:,} are read"
        return end.end() + length

    def _ends_at(self, length: int) -> bool:
        """True where a record can end: nothing, another record, or its two line breaks follow.

        Where bytes are missing in a record, the length in its header reaches into later records.
        """
        while len(self.buffer) < length + _MAX_START and self._fill():
            pass
        behind = bytes(self.buffer[length : length + _MAX_START])
        following = behind.lstrip(b"\r\n")
        if not following or _RECORD_START.match(following):
            return True
        # Bytes that were overwritten behind a record leave it whole, and the next one in its place.
        if any(_RECORD_START.match(behind, n) for n in (2, 4)):
            return True
        if digest_says(bytes(self.buffer[:length])) is True:
            return True
        has_line_breaks = behind.startswith((b"\r\n\r\n", b"\n\n"))
        return has_line_breaks and _RECORD_START.search(self.buffer, 1, length) is None

    def _lose(self, reason: str) -> Damage:
        """Drop what is in front of the next record; one Damage says why."""
        damage, begin = Damage(reason), 1
        while (found := _RECORD_START.search(self.buffer, begin)) is None:
            if len(self.buffer) > _MAX_START:
                self._drop(len(self.buffer) - _MAX_START)
                begin = 0
            if not self._fill():
                self._drop(len(self.buffer))
                if self.broken is None:
                    return damage
                damage, self.broken, begin = self.broken, None, 0
        self._drop(found.start())
        return damage

    def _skip_line_breaks(self) -> None:
        while True:
            rest = self.buffer.lstrip(b"\r\n")
            self._drop(len(self.buffer) - len(rest))
            if rest:
                return
            if not self._fill():
                return

    def _fill(self) -> bool:
        """Append the next piece; False at the end of the file and at a break of the stream."""
        if self.broken:
            return False
        piece = next(self.pieces, None)
        if isinstance(piece, Piece):
            self.places.append((len(self.buffer), piece))
            self.buffer += piece.content
        else:
            self.broken = piece
        return isinstance(piece, Piece)

    def _drop(self, number: int) -> None:
        """Remove bytes from the front of the buffer, and pieces that lie before it."""
        if not number:
            return
        del self.buffer[:number]
        places = ((place - number, piece) for place, piece in self.places)
        self.places = deque(p for p in places if p[0] + len(p[1].content) > 0)

    def _offset(self) -> int | None:
        """The offset in the file of what is at the front of the buffer."""
        place, piece = self.places[0]
        return piece.offset if piece.offset is None or piece.is_member else piece.offset - place
