"""The files of a corpus: listed, and identified by their content."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from humpback_ray import storage
from humpback_ray.config.dataset_address import is_dataset
from humpback_ray.config.patterns import base_of, has_magic, literal_folder
from humpback_ray.corpus import documents
from humpback_ray.corpus.documents import CorpusFile, NotRead
from humpback_ray.corpus.hub_datasets import list_shards
from humpback_ray.corpus.installed_packages import (
    INSTALLED_PACKAGES,
    PACKAGE_PREFIX,
    file_of_package,
    package_names,
    read_package,
)
from humpback_ray.corpus.opening import COMPRESSIONS, filesystem_of, open_file
from humpback_ray.corpus.several import distinct, real_path
from humpback_ray.errors import UserError


def _compressed(*kinds: str) -> tuple[str, ...]:
    return tuple(kind + compression for kind in kinds for compression in COMPRESSIONS)


XHTML_SUFFIXES = _compressed(".xhtml")
HTML_SUFFIXES = (*_compressed(".html", ".htm"), *XHTML_SUFFIXES)
MARKDOWN_SUFFIXES = _compressed(".md", ".markdown")
RESTRUCTUREDTEXT_SUFFIXES = _compressed(".rst")
TEXT_SUFFIXES = _compressed(".txt")
JSON_SUFFIXES = _compressed(".jsonl", ".json", ".ndjson")
PARQUET_SUFFIXES = (".parquet",)
WARC_SUFFIXES = _compressed(".warc", ".wet")
CORPUS_SUFFIXES = (
    *HTML_SUFFIXES, *MARKDOWN_SUFFIXES, *RESTRUCTUREDTEXT_SUFFIXES, *TEXT_SUFFIXES,
    *JSON_SUFFIXES, *PARQUET_SUFFIXES, *WARC_SUFFIXES,
)  # fmt: skip


FILES_AT_A_TIME = 16  # whose content is identified, each 3 MiB or 4 MiB in memory


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A file of another kind, a hidden one, or a link that leads nowhere."""

    file: CorpusFile
    reason: str


@dataclass(frozen=True, slots=True)
class Listing:
    """The entries in the place of a corpus, sorted by name."""

    files: list[CorpusFile]
    left_out: list[LeftOut]

    @property
    def not_read(self) -> list[NotRead]:
        """A row for each entry that is left out."""
        return [documents.not_read(entry.file, 0, entry.reason) for entry in self.left_out]


def list_files(
    path: str | Sequence[str],
    suffixes: tuple[str, ...] = CORPUS_SUFFIXES,
    setting: str = "settings.corpus.path",
) -> list[CorpusFile]:
    """The files of `list_corpus` that are read."""
    return list_corpus(path, suffixes, setting).files


def list_corpus(
    path: str | Sequence[str],
    suffixes: tuple[str, ...] = CORPUS_SUFFIXES,
    setting: str = "settings.corpus.path",
) -> Listing:
    """List the files at one or several paths, and all else there with its reason.

    Hidden files and folders are not read; links are followed.

    A link to a file or folder that is read anyway, under its name or another link's, is not
    followed, so nothing is read twice and a cycle of links ends. The listing of several paths does
    not depend on their order; `several.py` has its rules.

    Args:
        path: `installed-packages`, a dataset, whose shards are its files, or a folder (read
            recursively), glob or file, local or a URL that fsspec knows.
        suffixes: of the files to take, in lower case.
        setting: that names the path, for messages.

    Raises:
        UserError: nothing is there, it cannot be reached, or no file has one of the suffixes.
    """
    if not isinstance(path, str):
        return _joined([list_corpus(each, suffixes, setting) for each in path])
    if path == INSTALLED_PACKAGES:
        return Listing([file_of_package(name) for name in package_names()], [])
    if is_dataset(path):
        return Listing(list_shards(path, setting), [])
    wanted = f"set {setting} to a folder, glob, file, fsspec URL, dataset or {INSTALLED_PACKAGES}"
    try:
        filesystem, root = filesystem_of(path)
        found, left_out = _entries(filesystem, root)
    except storage.errors(ImportError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"cannot list {path!r}: {reason}: {wanted}") from error
    if not found and not left_out:
        raise UserError(f"nothing at {path!r}: {wanted}")
    files = []
    for file in found:
        if file.name.lower().endswith(suffixes):
            files.append(file)
        else:
            left_out.append(LeftOut(file, _reason_of_kind(file)))
    files, left_out = _each_once(files, left_out)
    listing = Listing(_by_name(files), sorted(left_out, key=lambda entry: entry.file.name))
    if not files:
        raise UserError(
            f"no file to read at {path!r} ({setting}): files ending in {_shortly(suffixes)} are "
            f"read, and there are {len(left_out)} other files ({counted(listing.not_read)})"
        )
    return listing


_LINK_TO_FILE = "link to a file that is read under another name"


def _each_once(
    files: list[CorpusFile], left_out: list[LeftOut]
) -> tuple[list[CorpusFile], list[LeftOut]]:
    """Files without links to others of them, and what is left out."""
    if not any(os.path.islink(file.path) for file in files):  # which no URL is
        return files, left_out
    once = distinct(files)
    names = {file.name for file in once}
    links = [LeftOut(file, _LINK_TO_FILE) for file in files if file.name not in names]
    return once, [*_never_read(left_out, once), *links]


def _never_read(left_out: Iterable[LeftOut], files: Iterable[CorpusFile]) -> list[LeftOut]:
    """Entries but those that are read in another place or under another name."""
    read = {real_path(file.path) for file in files}
    return [
        entry for entry in left_out
        if entry.reason == _LINK_TO_FILE or real_path(entry.file.path) not in read
    ]  # fmt: skip


def _by_name(files: Iterable[CorpusFile]) -> list[CorpusFile]:
    return sorted(files, key=lambda file: file.name)


def _joined(listings: Sequence[Listing]) -> Listing:
    files = distinct([file for listing in listings for file in listing.files])
    entries = {entry.file.path: entry for listing in listings for entry in listing.left_out}
    others = distinct([entry.file for entry in entries.values()])
    left_out = [LeftOut(file, entries[file.path].reason) for file in others]
    return Listing(files, _never_read(left_out, files))


def counted(not_read: Iterable[NotRead]) -> str:
    """The reasons of entries with their counts, in one line."""
    reasons = Counter(entry.reason for entry in not_read)
    return ", ".join(f"{count} x {reason}" for reason, count in reasons.most_common(10))


def _shortly(suffixes: tuple[str, ...]) -> str:
    plain = [suffix for suffix in suffixes if suffix.count(".") == 1]
    compressed = ", compressed or not," if len(plain) < len(suffixes) else ""
    return ", ".join(plain) + compressed


def _reason_of_kind(file: CorpusFile) -> str:
    suffix = PurePosixPath(file.name).suffix.lower()
    return f"file ending in {suffix}" if suffix else "file whose name has no ending"


def _entries(filesystem: Any, root: str) -> tuple[list[CorpusFile], list[LeftOut]]:
    """Files at `root`, named relative to the folder of every match, and entries that are none."""
    if filesystem.isdir(root):
        base, matches = root, [root]
    elif filesystem.isfile(root) or not has_magic(root):
        base, matches = root.rpartition("/")[0], [root]
    else:
        base, matches = _matches(filesystem, root)
    if isinstance(filesystem, LocalFileSystem):
        return _LocalWalk(base).of(matches)
    # A match of a glob may be a folder, and contain another match.
    entries: dict[str, Any] = {}
    for match in matches:
        entries.update(filesystem.find(match, detail=True))
    files, left_out = [], []
    for path, entry in entries.items():
        name = path.removeprefix(base).lstrip("/")
        file = CorpusFile(filesystem.unstrip_protocol(path), name, int(entry.get("size") or 0))
        if any(part.startswith(".") for part in PurePosixPath(name).parts):
            left_out.append(LeftOut(file, "hidden"))
        else:
            files.append(file)
    return files, left_out


def _matches(filesystem: Any, pattern: str) -> tuple[str, list[str]]:
    """The folder above the matches of a pattern, and the matches, sorted."""
    if isinstance(filesystem, LocalFileSystem) and has_magic(folder := literal_folder(pattern)):
        # fsspec would read the name of the folder as a pattern. Its escape ends at links.
        rest = pattern.removeprefix(folder)
        return (folder + base_of(rest)).rstrip("/"), sorted(map(str, Path(folder).glob(rest)))
    return base_of(pattern), sorted(filesystem.glob(pattern))


class _LocalWalk:
    """The files below local folders: those that lie there first, then those behind links."""

    def __init__(self, base: str) -> None:
        self.base = base
        self.files: dict[str, CorpusFile] = {}  # by path: matches of a glob may hold each other
        self.left_out: dict[str, LeftOut] = {}
        self._folders: set[str] = set()  # real paths of those that have been walked
        self._links: list[str] = []  # to folders

    def of(self, matches: list[str]) -> tuple[list[CorpusFile], list[LeftOut]]:
        for match in matches:
            # What a user names is read, also behind a link; a glob's own matches are entries.
            if os.path.isdir(match) and (match == self.base or not os.path.islink(match)):
                self._walk(match)
            elif os.path.lexists(match):
                self._enter(match)
        while self._links:
            link = self._links.pop(0)
            if os.path.realpath(link) in self._folders:
                self._leave_out(link, "link to a folder that is read under another name")
            else:
                self._walk(link)
        return list(self.files.values()), list(self.left_out.values())

    def _walk(self, folder: str) -> None:
        real = os.path.realpath(folder)
        if real in self._folders:
            return
        self._folders.add(real)
        try:
            names = sorted(os.listdir(folder))
        except PermissionError:
            self._leave_out(folder, "folder that may not be read")
            return
        for name in names:
            self._enter(f"{folder.rstrip('/')}/{name}")

    def _enter(self, path: str) -> None:
        if self._name(path).startswith(".") or "/." in self._name(path):
            self._leave_out(path, "hidden")
        elif re.search("[\ud800-\udfff]", path):  # Arrow, and so Ray Data, cannot hold such a name
            self._leave_out(path, "name that is not UTF-8")
        elif os.path.isdir(path):
            if os.path.islink(path):
                self._links.append(path)
            else:
                self._walk(path)
        elif os.path.isfile(path):
            self.files[path] = CorpusFile(path, self._name(path), os.path.getsize(path))
        elif os.path.islink(path):
            self._leave_out(path, "link that leads nowhere")
        else:
            self._leave_out(path, "neither a file nor a folder")

    def _name(self, path: str) -> str:
        return path.removeprefix(self.base).lstrip("/")

    def _leave_out(self, path: str, reason: str) -> None:
        self.left_out[path] = LeftOut(CorpusFile(path, self._name(path), 0), reason)


def content_identity(files: list[CorpusFile], setting: str = "settings.corpus.path") -> str:
    """SHA-256 over names, sizes and contents, as 64 hexadecimal digits; no path, host or time.

    Files above 4 MiB count by their size and their first, middle and last MiB.

    Raises:
        UserError: a file cannot be read.
    """
    digest = hashlib.sha256()
    # An object store answers slowly, and many requests at a time.
    with ThreadPoolExecutor(FILES_AT_A_TIME) as pool:
        for entry in pool.map(partial(_identity_of_file, setting=setting), _by_name(files)):
            digest.update(entry.encode() + b"\n")
    return digest.hexdigest()


def _identity_of_file(file: CorpusFile, setting: str) -> str:
    content = hashlib.sha256()
    try:
        for piece in _sampled(file):
            content.update(piece)
    except storage.errors() as error:
        reason = storage.one_line(error) or type(error).__name__
        raise UserError(f"{file.path} cannot be read: {reason} ({setting})") from error
    return json.dumps([file.name, file.size, content.hexdigest()])


_MIB = 2**20


def _sampled(file: CorpusFile) -> Iterator[bytes]:
    if file.path.startswith(PACKAGE_PREFIX):
        yield read_package(file).content.encode("utf-8", "surrogatepass")
        return
    with open_file(file.path) as stream:
        if file.size <= 4 * _MIB:
            yield stream.read()
            return
        for offset in (0, file.size // 2, file.size - _MIB):
            stream.seek(offset)
            yield stream.read(_MIB)
