"""Paths that may be patterns, where a name that exists is no pattern."""

from __future__ import annotations

import os
import re
from pathlib import Path

_MAGIC = re.compile(r"[*?\[]")


def has_magic(path: str) -> bool:
    """True if a path has a character of a pattern: `*`, `?` or `[`."""
    return bool(_MAGIC.search(path))


def literal_folder(pattern: str, folder: Path | str = "") -> str:
    """The leading folders of a pattern, as far as folders of exactly that name exist.

    So `data [v1]/*.md` can mean the files of the folder `data [v1]`.

    Args:
        folder: where a relative pattern begins.
    """
    literal = ""
    for part in pattern.split("/")[:-1]:
        longer = f"{literal}{part}/"
        if not os.path.isdir(os.path.join(folder, longer)):
            break
        literal = longer
    return literal


def base_of(pattern: str) -> str:
    """The folder above every match of a pattern."""
    return _MAGIC.split(pattern)[0].rpartition("/")[0]
