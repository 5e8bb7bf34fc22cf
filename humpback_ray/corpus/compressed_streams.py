"""Files of bz2, xz and zstd, whose damage is told and costs nothing that stands before it.

The libraries' files need help with both: those of the standard library end without a word where a
stream is followed by anything but another one, and a read that fails also loses what was right.
"""

from __future__ import annotations

import bz2
import io
import lzma
from collections.abc import Callable
from typing import Any

import pyarrow

_CHUNK = 2**16
_SLICE = 2**13  # of compressed bytes
_DAMAGE = (OSError, EOFError, lzma.LZMAError, pyarrow.ArrowException)


def bz2_content(raw: Any) -> io.RawIOBase:
    """The content of a bz2 file.

    Args:
        raw: the file, compressed and seekable.
    """
    return _UpToDamage(raw, lambda stream: _Streams(stream, bz2.BZ2Decompressor))


def xz_content(raw: Any) -> io.RawIOBase:
    """The content of an xz or lzma file; as `bz2_content`."""
    return _UpToDamage(raw, lambda stream: _Streams(stream, lzma.LZMADecompressor))


def zstd_content(raw: Any) -> io.RawIOBase:
    """The content of a zstd file; as `bz2_content`."""
    return _UpToDamage(raw, _zstd)


def _zstd(raw: Any) -> Any:
    return pyarrow.CompressedInputStream(pyarrow.PythonFile(raw, mode="r"), "zstd")


class _Reader(io.RawIOBase):
    """A stream that is read by `read1`."""

    def readable(self) -> bool:
        return True

    def read1(self, size: int = _CHUNK) -> bytes:
        raise NotImplementedError

    def readinto(self, buffer: Any) -> int:
        data = self.read1(len(buffer))
        buffer[: len(data)] = data
        return len(data)


class _Streams(_Reader):
    """The content of the streams that a file consists of, one after the other."""

    def __init__(self, raw: Any, decompressor: Callable[[], Any]) -> None:
        super().__init__()
        self._raw = raw
        self._new = decompressor
        self._data = b""  # read and not yet decompressed
        self._inside: Any = None  # decompresses the open stream

    def read1(self, size: int = _CHUNK) -> bytes:
        """Some bytes, at most `size`; none at the end of the file.

        Raises:
            OSError, lzma.LZMAError, EOFError: a stream is damaged or cut, or something else stands
                behind one.
        """
        while True:
            if self._inside is None:
                self._data = self._data.lstrip(b"\0")  # zeros may fill a file up
            if not self._data and (self._inside is None or self._inside.needs_input):
                self._data = bytes(self._raw.read(_SLICE))
                if not self._data:
                    if self._inside is None:
                        return b""
                    raise EOFError("the file ends within a compressed stream")
                continue
            if self._inside is None:
                self._inside = self._new()
            content = bytes(self._inside.decompress(self._data, size))
            self._data = b""
            if self._inside.eof:
                self._data, self._inside = self._inside.unused_data, None
            if content:
                return content


class _UpToDamage(_Reader):
    """A stream that gives all content before a damaged place, and then raises."""

    def __init__(self, raw: Any, opened: Callable[[Any], Any]) -> None:
        super().__init__()
        self._raw = raw
        self._open = opened
        self._stream = opened(raw)
        self._num_read = 0
        self._damage: Exception | None = None

    def read1(self, size: int = _CHUNK) -> bytes:
        """Some bytes, at most `size`; none at the end of the file.

        Raises:
            OSError, lzma.LZMAError, EOFError: as the stream.
        """
        if self._damage is not None:
            raise self._damage
        try:
            content = bytes(self._stream.read(size))
        except _DAMAGE as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # the file system's: it says nothing about the content
            self._damage = error
            content = self._before_damage(size)
            if not content:
                raise
        self._num_read += len(content)
        return content

    def _before_damage(self, size: int) -> bytes:
        """What a read that failed would have given: the file once more, at the end byte by byte."""
        self._raw.seek(0)
        stream = self._open(self._raw)
        to_skip = self._num_read
        while to_skip:
            to_skip -= len(stream.read(min(to_skip, _CHUNK)))
        content = bytearray()
        try:
            while len(content) < size and (byte := stream.read(1)):
                content += byte
        except _DAMAGE:
            pass
        return bytes(content)
