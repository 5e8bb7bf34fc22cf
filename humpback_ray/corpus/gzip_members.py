"""Members of gzip files: most files have one, and others one for each record or block."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from typing import Any

_MEMBER_START = b"\x1f\x8b\x08"
_CHUNK = 2**18
_SLICE = 2**10  # of compressed bytes, enough to see that a member begins
_BEGINNING = 64  # bytes of a member's content that are looked at


def next_member(
    stream: Any, begin: int, is_wanted: Callable[[bytes], bool] = lambda beginning: True
) -> int | None:
    """The position of the first gzip member from `begin` on; None if none follows.

    Args:
        stream: the file, compressed.
        begin: the position in it at which the search begins.
        is_wanted: judges the first bytes of a member's content.
    """
    before = b""
    while True:
        stream.seek(begin)
        data = bytes(stream.read(_CHUNK))
        if not data:
            return None
        window = before + data
        offset = begin - len(before)
        found = window.find(_MEMBER_START)
        while found >= 0:
            beginning = _beginning(stream, offset + found)
            if beginning is not None and is_wanted(beginning):
                return offset + found
            found = window.find(_MEMBER_START, found + 1)
        begin += len(data)
        before = window[1 - len(_MEMBER_START) :]


def _beginning(stream: Any, position: int) -> bytes | None:
    stream.seek(position)
    try:
        return zlib.decompressobj(wbits=31).decompress(bytes(stream.read(_SLICE)), _BEGINNING)
    except zlib.error:
        return None


class GzipMembers(io.RawIOBase):
    """The content of a gzip file from a position on, member by member.

    Args:
        stream: the file, compressed and seekable.
        begin: where a member begins.

    `member` is the position of the member that was begun last.
    """

    def __init__(self, stream: Any, begin: int = 0) -> None:
        super().__init__()
        stream.seek(begin)
        self.member = begin
        self._stream = stream
        self._position = begin  # of `_data`
        self._data = b""  # read and not yet decompressed
        self._inside: Any = None  # decompresses the open member

    @property
    def is_inside(self) -> bool:
        """True within a member, and so behind damage."""
        return self._inside is not None

    def readable(self) -> bool:
        return True

    def read1(self, size: int = _CHUNK) -> bytes:
        """Some bytes, at most `size`; none at the end of the file.

        Raises:
            zlib.error, EOFError: a member is damaged or cut.
        """
        while True:
            self._data = self._data or bytes(self._stream.read(_SLICE))
            is_end = not self._data
            if self._inside is None:
                self._begin_member()
            if self._inside is None:
                if is_end:
                    return b""
                continue
            content = bytes(self._inside.decompress(self._data, size))
            self._keep(self._inside.unused_data or self._inside.unconsumed_tail)
            if self._inside.eof:
                self._inside = None
            elif is_end and not content:
                raise EOFError("the file ends within a gzip member")
            if content:
                return content

    def _begin_member(self) -> None:
        self._keep(self._data.lstrip(b"\0"))  # a file may have zeros behind a member
        if self._data:
            self.member = self._position
            self._inside = zlib.decompressobj(wbits=31)

    def _keep(self, rest: bytes) -> None:
        self._position += len(self._data) - len(rest)
        self._data = rest

    def readinto(self, buffer: Any) -> int:
        data = self.read1(len(buffer))
        buffer[: len(data)] = data
        return len(data)
