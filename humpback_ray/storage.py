"""Files on a local path or any fsspec URL (s3://, gs://, memory://, ...).

Importing this module sets fsspec's defaults for object stores. The user's own configuration takes
precedence: fsspec's files and FSSPEC_ variables, AWS_ENDPOINT_URL, AWS_RETRY_MODE and
AWS_MAX_ATTEMPTS. The package reads and writes through fsspec alone, even where a library brings
another client, so one configuration covers everything.
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar, cast

import fsspec
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from humpback_ray.errors import UserError

if TYPE_CHECKING:
    import pyarrow.fs as arrow_fs
    from pydantic import ValidationError

Content = TypeVar("Content")

OBJECT_STORES = ("s3", "s3a", "gs", "gcs", "abfs", "abfss", "az")
# A request that the store refuses with 503 or cuts off is retried for about half a minute, with
# growing pauses. The client's default is five attempts within about three seconds
# (https://docs.aws.amazon.com/boto3/latest/guide/retries.html).
S3_RETRIES = {"mode": "standard", "max_attempts": 8}

MAX_MISFITS = 3  # that a message names
PROBE_BYTES = 1 << 18  # not 0, because creating an empty file succeeds on a full disk


def _set_defaults() -> None:
    for protocol in OBJECT_STORES:
        # A cached listing would hide the files that other processes write later.
        fsspec.config.conf.setdefault(protocol, {}).setdefault("use_listings_cache", False)
    if not os.environ.keys() & {"AWS_RETRY_MODE", "AWS_MAX_ATTEMPTS"}:
        config = fsspec.config.conf["s3"].setdefault("config_kwargs", {})
        config.setdefault("retries", S3_RETRIES)


_set_defaults()


def errors(*more: type[Exception]) -> tuple[type[Exception], ...]:
    """Exceptions of a store that refuses, fails or does not answer, and `more`, for `except`."""
    # Client libraries whose exceptions are no OSError; only a loaded library can have raised one.
    client_errors = (
        ("botocore.exceptions", "BotoCoreError"),
        ("google.auth.exceptions", "GoogleAuthError"),
        ("azure.core.exceptions", "AzureError"),
        ("httpx", "HTTPError"),  # the Hugging Face hub's
    )
    return (
        *more,
        OSError,
        *(getattr(sys.modules[m], name) for m, name in client_errors if m in sys.modules),
    )


@contextmanager
def explained(url: str) -> Iterator[None]:
    """Turn a store's failure inside the block into a UserError about `url`.

    The block must do nothing but read and write there, because any other OSError inside it would
    look like the store's.
    """
    try:
        yield
    except errors() as error:
        reason = one_line(error) or type(error).__name__
        raise UserError(
            f"{url} cannot be read or written from here: {reason}; check the address, the rights "
            "and the connection, and give the same command again"
        ) from error


def locate(url: str) -> tuple[Any, str]:
    """The fsspec filesystem of a URL or local path, and the path on it.

    Raises:
        UserError: no such kind of URL, or its package is not installed.
    """
    if not is_url(url):  # fsspec takes a `::` in the name of a local file for a chain of URLs
        return LocalFileSystem(), LocalFileSystem._strip_protocol(url)
    try:
        return url_to_fs(url)
    except ImportError as error:
        raise UserError(f"cannot open {url}: {error}") from error


def is_url(location: str) -> bool:
    """True for `scheme://...`, False for a local path."""
    return "://" in location


def absolute(url: str) -> str:
    """A URL unchanged; a local path made absolute, because Ray's workers run in other folders.

    `file://` and `local://` name local paths too, which most libraries take as paths alone.
    """
    url = re.sub(r"^(?:file|local)://(?:localhost(?=/))?", "", url)
    return url if is_url(url) else os.path.abspath(os.path.expanduser(url))


# vLLM finds weights by glob; Ray Data and Ray Train parse paths as URLs, with queries, fragments,
# parameters and percent codes, and fsspec takes `::` for a chain of URLs.
_MISREAD = re.compile(r"[*?\[\]#%;\\\x00-\x1f\x7f]|::")


def refuse_misread(path: str, what: str, key: str) -> None:
    """Refuse a path or URL that a library of the run would take for something else.

    Args:
        path: as the libraries get it.
        what: description of the folder, for people.
        key: the setting or option that names it.

    Raises:
        UserError: the path has such a character, or bytes that are no text in this locale.
    """
    if re.search("[\ud800-\udfff]", path):
        raise UserError(
            f"the {what} {path} is no text in this locale's encoding: export LC_ALL=C.UTF-8, or "
            f"give {key} a path of ASCII characters"
        )
    if found := _MISREAD.search(path):
        raise UserError(
            f"the {what} {path} has {found[0]!r} in its path, which the run's libraries would read "
            f"as a pattern or as a part of a URL: give {key} a path without * ? [ ] # % ; :: \\ "
            "and control characters"
        )


def join(url: str, *parts: str) -> str:
    """A path below a local folder or URL."""
    return "/".join([url.rstrip("/"), *parts])


def name(url: str) -> str:
    """The last part of a path or URL, such as a run's name."""
    return url.rstrip("/").rpartition("/")[2]


def is_object_store(filesystem: Any) -> bool:
    """True where folders are mere prefixes of names and a file appears only once it is whole."""
    protocol = filesystem.protocol
    protocols = [protocol] if isinstance(protocol, str) else protocol
    return any(name in OBJECT_STORES for name in protocols)


def arrow_filesystem(url: str) -> tuple[arrow_fs.FileSystem, str]:
    """The Arrow filesystem that reads and writes a URL, and the path on it."""
    import pyarrow.fs as arrow_fs  # a step of a training needs no pyarrow, and the rest does

    filesystem, path = locate(url)
    if isinstance(filesystem, LocalFileSystem):
        return arrow_fs.LocalFileSystem(), path
    return arrow_fs.PyFileSystem(arrow_fs.FSSpecHandler(filesystem)), path


def exists(url: str) -> bool:
    """True if the file or folder exists."""
    filesystem, path = locate(url)
    return bool(filesystem.exists(path))


def read_json(url: str) -> Any:
    """The content of a JSON file; None if the file does not exist.

    Numbers that JSON lacks, NaN and infinities, are None.

    Raises:
        UserError: the file holds no JSON, because a writer was cut off or something damaged it.
    """
    if not exists(url):
        return None
    try:
        with open_text(url) as file:
            return parse_json(file.read())
    except ValueError as error:
        raise UserError(
            f"{url} is damaged, it is no JSON ({one_line(error)}): put a copy back"
        ) from error


def parse_json(text: str | bytes) -> Any:
    """The content of JSON text, where NaN and infinities are None.

    Raises:
        ValueError: the text is no JSON.
    """
    try:
        return json.loads(text, parse_constant=lambda _: None, parse_float=_finite)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _finite(digits: str) -> float | None:
    number = float(digits)
    return number if math.isfinite(number) else None


def read_as(url: str, kind: type[Content]) -> Content | None:
    """The content of a JSON file as a type that pydantic knows; None if the file does not exist.

    Raises:
        UserError: the file is damaged, or another version of the program wrote it.
    """
    return as_type(read_json(url), kind, url) if exists(url) else None


def as_type(content: Any, kind: type[Content], place: str) -> Content:
    """Plain values as a type that pydantic knows.

    Raises:
        UserError: they are not of that type; the message names the place and the values.
    """
    from pydantic import ValidationError

    try:
        return cast(Content, _adapter(cast(Any, kind)).validate_python(content))
    except ValidationError as error:
        raise UserError(
            f"{place} is damaged or of another version of this program ({misfits(error)}): put a "
            "copy back, or use that version"
        ) from error


@cache
def _adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def misfits(error: ValidationError) -> str:
    """The values of a content that are not of the type asked for, in one line."""
    entries = error.errors(include_url=False, include_context=False)
    lines = [_misfit(entry) for entry in entries[:MAX_MISFITS]]
    more = len(entries) - len(lines)
    return ", ".join(lines) + (f" and {more} more" if more > 0 else "")


def _misfit(entry: Any) -> str:
    place = ".".join(map(str, entry["loc"])) or "all of it"
    if entry["type"] == "missing":
        return f"{place} is missing"
    if entry["type"] == "value_error":  # one of the project's rules
        return f"{place}: {entry['msg'].removeprefix('Value error, ')}"
    shown = json.dumps(entry["input"], ensure_ascii=False, default=str)
    return f"{place} is {shown if len(shown) <= 40 else f'{shown[:37]}...'}"


def open_text(url: str) -> Any:
    """A text file for reading, as UTF-8."""
    filesystem, path = locate(url)
    return filesystem.open(path, "rt", encoding="utf-8")


def size(url: str, what: str, key: str) -> int:
    """Size of a file in bytes.

    Raises:
        UserError: the file does not exist. The message says `what` it should be and names the
            setting `key`.
    """
    try:
        filesystem, path = locate(url)
        if filesystem.isfile(path):
            return int(filesystem.size(path))
    except errors(ValueError) as error:
        raise UserError(f"{what} {url} cannot be read ({error}): set {key}") from error
    if not is_url(url) and os.path.islink(path):
        target = os.readlink(path)
        raise UserError(f"{what} {url} is a link to {target}, which is no file: set {key}")
    raise UserError(f"no {what} {url}: set {key} to a file or an fsspec URL of one")


def read_text(url: str, what: str, key: str) -> str:
    """Content of a small text file; errors as in `size`."""
    size(url, what, key)
    try:
        with open_text(url) as file:
            return file.read()
    except UnicodeDecodeError as error:
        raise UserError(f"{what} {url} is not UTF-8 text: set {key}") from error


def names(url: str) -> set[str]:
    """Names of the files and folders in a folder; empty if the folder does not exist."""
    filesystem, path = locate(url)
    if not filesystem.exists(path):
        return set()
    return {entry.rstrip("/").rpartition("/")[2] for entry in filesystem.ls(path, detail=False)}


def write_bytes(url: str, content: bytes) -> None:
    """Write a file atomically: a reader sees all of it or nothing, even with two writers."""
    filesystem, path = locate(url)
    if is_object_store(filesystem):
        # An object appears only once it is whole. Making a folder for it might create a bucket.
        filesystem.pipe_file(path, content)
        return
    parent, _, name = path.rpartition("/")
    filesystem.makedirs(parent, exist_ok=True)
    # The dot hides the file from readers of the folder; the random part keeps writers apart.
    partial = f"{parent}/.{name}.{uuid.uuid4().hex[:8]}.partial"
    try:
        with filesystem.open(partial, "wb") as file:
            file.write(content)
            if isinstance(filesystem, LocalFileSystem):
                file.flush()
                os.fsync(file.fileno())
        filesystem.mv(partial, path)
    except OSError:
        # On a full disk the partial file would keep space that other writers need.
        with suppress(OSError):
            filesystem.rm(partial)
        raise


def write_text(url: str, text: str) -> None:
    """Write a small text file atomically, as UTF-8."""
    write_bytes(url, text.encode("utf-8"))


def replace_text(url: str, text: str) -> bool:
    """Write a small text file if its content differs; returns True if it was written."""
    filesystem, path = locate(url)
    if filesystem.exists(path) and filesystem.cat_file(path) == text.encode("utf-8"):
        return False
    write_text(url, text)
    return True


def append_text(url: str, text: str) -> None:
    """Append to a small file; rewrites it where the store cannot append."""
    filesystem, path = locate(url)
    if isinstance(filesystem, LocalFileSystem):
        filesystem.makedirs(filesystem._parent(path), exist_ok=True)
        with open(path, "a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
        return
    before = filesystem.cat_file(path) if filesystem.exists(path) else b""
    write_bytes(url, before + text.encode("utf-8", "backslashreplace"))


def write_json(url: str, content: Any) -> None:
    """Write an indented JSON file atomically."""
    write_text(url, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def delete(url: str) -> None:
    """Delete a file, or a folder with its contents; does nothing if it does not exist."""
    filesystem, path = locate(url)
    if filesystem.exists(path):
        filesystem.rm(path, recursive=True)


def move(url: str, target: str) -> None:
    """Move a folder to `target`; creates the parent of `target` if necessary."""
    filesystem, path = locate(url)
    _, new = locate(target)
    if not is_object_store(filesystem):
        filesystem.makedirs(filesystem._parent(new), exist_ok=True)
    filesystem.mv(path, new, recursive=True)


def check_writable(url: str) -> None:
    """Check by a small file that a folder can be written, before any work or after a failure.

    Raises:
        UserError: the write fails; the message has the reason.
    """
    probe = join(url, ".write-probe")
    try:
        write_bytes(probe, bytes(PROBE_BYTES))
        delete(probe)
    except errors() as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise UserError(
            f"cannot write to {url}: {reason or type(error).__name__}; choose another run folder "
            "with --run, or go on with the same command when it can be written"
        ) from error


def one_line(error: BaseException) -> str:
    """The text of an error without line breaks."""
    return " ".join(str(error).split())
