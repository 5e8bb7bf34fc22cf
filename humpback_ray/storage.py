"""Files of a run on a local path or any fsspec URL (s3://, gs://, memory://, ...)."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import fsspec
import pyarrow.fs as arrow_fs
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem


def errors() -> tuple[type[Exception], ...]:
    """What is raised when a store refuses, fails or does not answer: for an `except` clause."""
    # Those of client libraries that are no OSError; only a loaded library can have raised one.
    beside = (
        ("botocore.exceptions", "BotoCoreError"),
        ("google.auth.exceptions", "GoogleAuthError"),
        ("azure.core.exceptions", "AzureError"),
    )
    return (OSError, *(getattr(sys.modules[m], name) for m, name in beside if m in sys.modules))


def absolute(url: str) -> str:
    """A URL as it is; a local path made absolute, because Ray's workers run in other folders."""
    return url if "://" in url else os.path.abspath(os.path.expanduser(url))


def join(url: str, *parts: str) -> str:
    """A path below a local folder or URL."""
    return "/".join([url.rstrip("/"), *parts])


def name(url: str) -> str:
    """The last part of a path or URL, such as a run's name."""
    return url.rstrip("/").rpartition("/")[2]


def arrow_filesystem(url: str) -> tuple[arrow_fs.FileSystem, str]:
    """The Arrow filesystem that reads and writes a URL, and the path on it."""
    filesystem, path = url_to_fs(url)
    if isinstance(filesystem, LocalFileSystem):
        return arrow_fs.LocalFileSystem(), path
    return arrow_fs.PyFileSystem(arrow_fs.FSSpecHandler(filesystem)), path


def exists(url: str) -> bool:
    """Whether a file or folder is there."""
    filesystem, path = url_to_fs(url)
    # Object stores list a folder that other nodes have just written only without the cache.
    filesystem.invalidate_cache()
    return bool(filesystem.exists(path))


def read_json(url: str) -> Any:
    """The content of a JSON file; None when there is no such file."""
    if not exists(url):
        return None
    with fsspec.open(url, "rt", encoding="utf-8") as file:
        return json.load(file)


def size(url: str, what: str, key: str) -> int:
    """Size of a file in bytes.

    Raises:
        ValueError: there is no such file; `what` it should be and the setting `key` are named.
    """
    try:
        filesystem, path = url_to_fs(url)
        if filesystem.isfile(path):
            return int(filesystem.size(path))
    except (ImportError, OSError, ValueError) as error:
        raise ValueError(f"{what} {url} cannot be read ({error}): set {key}") from error
    raise ValueError(f"no {what} {url}: set {key} to a file or an fsspec URL of one")


def read_text(url: str, what: str, key: str) -> str:
    """Content of a small text file; errors as in `size`."""
    size(url, what, key)
    try:
        with fsspec.open(url, "rt", encoding="utf-8") as file:
            return file.read()
    except UnicodeDecodeError as error:
        raise ValueError(f"{what} {url} is not UTF-8 text: set {key}") from error


def names(url: str) -> set[str]:
    """Names of the files and folders in a folder; empty when there is no such folder."""
    filesystem, path = url_to_fs(url)
    if not filesystem.exists(path):
        return set()
    return {entry.rstrip("/").rpartition("/")[2] for entry in filesystem.ls(path, detail=False)}


def write_text(url: str, text: str) -> None:
    """Write a small file so that a reader sees all of it or nothing."""
    filesystem, path = url_to_fs(url)
    filesystem.makedirs(filesystem._parent(path), exist_ok=True)
    if isinstance(filesystem, LocalFileSystem):
        partial = f"{path}.partial"
        with open(partial, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    else:  # object stores show an object only when it is whole
        filesystem.pipe_file(path, text.encode("utf-8"))


def write_json(url: str, content: Any) -> None:
    """Write a JSON file, atomically, for people to read."""
    write_text(url, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def delete(url: str) -> None:
    """Delete a file or folder with all that is in it; nothing happens when it is not there."""
    filesystem, path = url_to_fs(url)
    if filesystem.exists(path):
        filesystem.rm(path, recursive=True)


def check_writable(url: str) -> None:
    """Find out before any work whether a folder can be written.

    Raises:
        ValueError: it cannot, with the reason.
    """
    probe = join(url, ".write-probe")
    try:
        write_text(probe, "")
        delete(probe)
    except OSError as error:
        raise ValueError(
            f"cannot write to the run folder {url}: {error.strerror or error}; "
            "choose another with --run"
        ) from error
