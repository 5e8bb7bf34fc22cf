"""Characters that parsers drop or fail on and that Arrow cannot hold: NULs and lone surrogates."""

from __future__ import annotations

import re

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def has_unstorable(text: str) -> bool:
    """True for a text with NULs, or with lone surrogates, which have no UTF-8."""
    if text.isascii():
        return "\0" in text
    try:
        return b"\0" in text.encode()
    except UnicodeEncodeError:
        return True


def without_unstorable(text: str) -> str:
    """The text with U+FFFD for each such character; filters name it as the reason for a drop."""
    return _UNSTORABLE.sub("\ufffd", text) if has_unstorable(text) else text
