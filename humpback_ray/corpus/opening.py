"""Files opened for reading: local or remote, compressed or not, pointers recognised."""

from __future__ import annotations

import gzip
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import fsspec
import pyarrow
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from humpback_ray.corpus.compressed_streams import bz2_content, xz_content, zstd_content
from humpback_ray.corpus.gzip_members import GzipMembers, next_member

# What reading a damaged file raises. OSError is among them because Arrow and bz2 raise it without
# an errno; with one it comes from the file system.
DAMAGE = (
    EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, pyarrow.ArrowException,
    UnicodeDecodeError, OSError,
)  # fmt: skip

COMPRESSIONS = ("", ".gz", ".zst", ".xz", ".bz2")  # as names end


def filesystem_of(url: str) -> tuple[Any, str]:
    """The fsspec filesystem of a URL or local path, and the path on it.

    Only `a::b://c` is a chain of filesystems here: fsspec would also take `::` in the name of a
    local file for one.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        filesystem: Any = LocalFileSystem()
        return filesystem, filesystem._strip_protocol(url)
    if "::" in rest and "::" not in scheme and "://" not in rest:
        filesystem = fsspec.filesystem(scheme)
        return filesystem, filesystem._strip_protocol(url)
    filesystem, path = url_to_fs(url)
    return filesystem, path


def open_file(path: str) -> Any:
    """A file as a stream of bytes, as it is stored."""
    filesystem, place = filesystem_of(path)
    return filesystem.open(place, "rb")


@contextmanager
def open_content(path: str) -> Iterator[Any]:
    """The content of a file, decompressed where its name says so, as a stream of bytes.

    Raises:
        One of DAMAGE while it is read, also where a compressed file ends too early.
    """
    with open_file(path) as raw:
        yield next(decompressed(raw, path))


def decompressed(raw: Any, path: str) -> Iterator[Any]:
    """The content of a file as streams of bytes.

    All but one file has one. Behind a damaged member of a gzip file, the next stream goes on with
    the next member: ask for it where reading has raised, or ended.
    """
    name = path.lower()
    if not name.endswith(".gz"):
        yield _decompressed(raw, name)
        return
    begin: int | None = 0
    while begin is not None:
        members = GzipMembers(raw, begin)
        yield members
        begin = next_member(raw, members.member + 1) if members.is_inside else None


def _decompressed(raw: Any, name: str) -> Any:
    if name.endswith(".xz"):
        return xz_content(raw)
    if name.endswith(".bz2"):
        return bz2_content(raw)
    if name.endswith(".zst"):
        return zstd_content(raw)
    return raw


MAX_LINE = 2**27  # bytes of a line, because one line must not fill the memory


def lines_of(stream: Any) -> Iterator[bytes]:
    """Lines with their ends; a piece of a line before damage is not given.

    Of a line above MAX_LINE bytes, the first MAX_LINE + 1 are given.
    """
    begun: list[bytes] = []  # pieces of a line whose end is still to come
    num_begun = 0
    while chunk := bytes(_read_some(stream)):
        first, *others = chunk.split(b"\n")
        if num_begun <= MAX_LINE:
            begun.append(first)
            num_begun += len(first)
        if not others:
            continue
        yield _line(begun, b"\n")
        for line in others[:-1]:
            yield line + b"\n"
        begun, num_begun = others[-1:], len(others[-1])
    if num_begun:
        yield _line(begun, b"")


def _line(pieces: list[bytes], end: bytes) -> bytes:
    line = b"".join(pieces)
    return line[: MAX_LINE + 1] if len(line) > MAX_LINE else line + end


_CHUNK = 2**16


def _read_some(stream: Any) -> Any:
    # Up to a chunk: a full read fails as a whole and loses the lines before a damaged place.
    read = getattr(stream, "read1", None) or stream.read
    return read(_CHUNK)


_POINTER = b"version https://git-lfs.github.com/spec/"
POINTER_REASON = "it is a Git LFS pointer and not the file itself: fetch it with `git lfs pull`"


def is_pointer(path: str) -> bool:
    """True for the pointer that Git LFS leaves in place of a file."""
    with open_file(path) as stream:
        return bytes(stream.read(len(_POINTER))) == _POINTER
