"""Hosts and URLs whose documents are left out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from humpback_ray.config.urls import blocked_entry


class BlockList:
    """Entries such as `example.com`, which blocks www.example.com too, or `example.com/forum`.

    Scheme, user, port, a `*.` before the host and a closing slash do not matter. A path blocks all
    URLs below it, and is compared with regard to case.
    """

    def __init__(self, entries: Iterable[str]) -> None:
        self._hosts: set[str] = set()  # blocked as a whole: lists of millions exist
        self._paths: dict[str, set[str]] = {}  # by host
        for entry in entries:
            host, path = _parts(entry)
            host = host.removeprefix("*.")
            if path:
                self._paths.setdefault(host, set()).add(path)
            else:
                self._hosts.add(host)

    def entry_for(self, url: str) -> str:
        """The entry that blocks a URL; empty if none does."""
        host, path = _parts(url)
        for parent in _with_parents(host):
            if parent in self._hosts:
                return parent
            if paths := self._paths.get(parent):
                for begin in _beginnings(path):
                    if begin in paths:
                        return parent + begin
        return ""


def entries_of(text: str) -> list[str]:
    """The entries in the text of a file: one on each line; a word that begins with # ends it.

    Raises:
        ValueError: a line has no host where an entry has one, or more than one word.
    """
    entries = []
    for number, line in enumerate(text.splitlines(), 1):
        entry = _REMARK.sub("", line).strip()
        if entry:
            try:
                entries.append(blocked_entry(entry))
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from error
    return entries


_REMARK = re.compile(r"(?:^|\s)#.*")


def _parts(url: str) -> tuple[str, str]:
    """Host in lower case, and path with query, without a slash at its end."""
    _, separator, rest = url.partition("://")
    rest = rest if separator else url
    end = next((i for i, character in enumerate(rest) if character in "/?#"), len(rest))
    host = rest[:end].rpartition("@")[2].lower()
    if not host.endswith("]"):  # an IPv6 address without a port has colons too
        host = host.partition("]")[0] + "]" if "]" in host else host.partition(":")[0]
    return host.rstrip("."), rest[end:].partition("#")[0].rstrip("/")


def _with_parents(host: str) -> Iterator[str]:
    """www.example.com, example.com, com; an address of numbers has no parents."""
    yield host
    if host.replace(".", "").isdigit() or host.startswith("["):
        return
    while "." in host:
        host = host.partition(".")[2]
        yield host


def _beginnings(path: str) -> Iterator[str]:
    """The path, and its beginnings up to a slash or a question mark."""
    yield path
    for end in range(len(path) - 1, 0, -1):
        if path[end] in "/?":
            yield path[:end]
