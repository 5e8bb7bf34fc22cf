"""The files of a corpus: listed, and identified by their content."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

import fsspec
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from humpback_ray import storage
from humpback_ray.corpus.documents import CorpusFile
from humpback_ray.corpus.installed_packages import (
    INSTALLED_PACKAGES,
    PACKAGE_PREFIX,
    file_of_package,
    package_names,
    read_package,
)
from humpback_ray.errors import UserError

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


def list_files(path: str, suffixes: tuple[str, ...] = CORPUS_SUFFIXES) -> list[CorpusFile]:
    """The files of a corpus, sorted by name; hidden files and folders are skipped.

    Args:
        path: `installed-packages`, or a folder (read recursively), glob or file, local or a URL
            that fsspec knows.
        suffixes: of the files to take, in lower case.

    Raises:
        UserError: nothing is there, it cannot be reached, or no file has one of the suffixes.
    """
    if path == INSTALLED_PACKAGES:
        return [file_of_package(name) for name in package_names()]
    try:
        filesystem, root = url_to_fs(path)
        found = _entries(filesystem, root)
    except (ImportError, ValueError, OSError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"cannot list {path!r}: {reason}: give {_WANTED_PATH}") from error
    if not found:
        raise UserError(f"nothing at {path!r}: give {_WANTED_PATH}")
    files = [f for f in found if not _is_hidden(f.name) and f.name.lower().endswith(suffixes)]
    if not files:
        raise UserError(
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
        with storage.explained(file.path):
            for piece in _sampled(file):
                content.update(piece)
        entry = json.dumps([file.name, file.size, content.hexdigest()])
        digest.update(entry.encode() + b"\n")
    return digest.hexdigest()


_MIB = 2**20


def _sampled(file: CorpusFile) -> Iterator[bytes]:
    if file.path.startswith(PACKAGE_PREFIX):
        yield read_package(file).content.encode("utf-8", "surrogatepass")
        return
    with fsspec.open(file.path, "rb") as stream:
        if file.size <= 4 * _MIB:
            yield stream.read()
            return
        for offset in (0, file.size // 2, file.size - _MIB):
            stream.seek(offset)
            yield stream.read(_MIB)
