"""The characters of pages and texts: by byte order mark, HTTP header, meta element, detection."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator

from resiliparse.parse.encoding import bytes_to_str, detect_encoding, map_encoding_to_html5

from humpback_ray.method.xhtml import html_of_xhtml, is_xml

_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}

# Of a text: a page with a few wrong bytes stays, and filters drop the segments that hold them. A
# short text may have some for each cut character.
MAX_WRONG_SHARE, MAX_WRONG = 0.01, 8

_RIGHT_FOR_WRONG = 4  # characters of several bytes that are right, for each place that is wrong
_SAMPLE = 2**12  # bytes in which the zeros of UTF-16 and the declaration of a page are looked for
_DECLARATION = re.compile(
    rb"<(?:meta\s[^>]*charset|\?xml\s[^>]*encoding)\s*=\s*[\"']?\s*([\w:.-]+)", re.IGNORECASE
)
_WRONG = re.compile("[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f-\x9f\ufffd]")  # and no line, page or escape
_ESCAPED = "iso2022_jp"


def decode_html(data: bytes, declared: str | None = None, *, is_xhtml: bool = False) -> str:
    """The characters of a page; XHTML as HTML.

    Args:
        data: the page as it was sent, without content encoding.
        declared: the charset in its HTTP header.
        is_xhtml: the page is XHTML, also where it does not begin as XML.

    Raises:
        ValueError: no encoding gives readable characters.
    """
    found = _DECLARATION.search(data, 0, _SAMPLE)
    in_page = _encoding(found[1].decode()) if found else None
    if in_page == "utf-16-le":
        in_page = "utf-8"  # as browsers do: the declaration itself is not in UTF-16
    page = _decode(data, [_encoding(declared), in_page])
    return html_of_xhtml(page) if is_xhtml or is_xml(page) else page


def decode_text(data: bytes) -> str:
    """The characters of plain text; errors as in `decode_html`."""
    return _decode(data, [])


def _decode(data: bytes, declared: list[str | None]) -> str:
    mark = next((name for mark, name in _MARKS.items() if data.startswith(mark)), None)
    if encoding := mark or _utf16_by_zeros(data):
        candidates: Iterable[str] = [encoding]
    elif _ESCAPED not in declared and (as_utf8 := _as_utf8(data)) is not None:
        return as_utf8
    else:
        candidates = _candidates(data, declared)
    for candidate in candidates:
        text = str(bytes_to_str(data, candidate, errors="replace", fallback_encodings=()))
        if _is_readable(text):
            return text
    raise ValueError("undecodable: its bytes are no text in the encoding declared or detected")


def _as_utf8(data: bytes) -> str | None:
    """The characters of UTF-8, which may have a few wrong bytes; None for anything else.

    Bytes of another encoding are not valid UTF-8 by accident, while many servers declare ISO-8859-1
    for every page. Only escape sequences are, because they are plain ASCII.
    """
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = data.decode(errors="replace")
        num_wrong = text.count("\ufffd")
        num_right = len(text) - num_wrong - sum(map(str.isascii, text))
        return text if num_wrong * _RIGHT_FOR_WRONG <= num_right else None
    return text if "\0" not in text or _is_readable(text) else None


def _candidates(data: bytes, declared: list[str | None]) -> Iterator[str]:
    yield from (encoding for encoding in declared if encoding)
    yield detect_encoding(data) or "utf-8"


def _encoding(name: str | None) -> str | None:
    """Python's name of an encoding that the web knows, as the WHATWG's standard maps them."""
    return map_encoding_to_html5(name, fallback_utf8=False) if name else None


def _utf16_by_zeros(data: bytes) -> str | None:
    """UTF-16 without its mark: every second byte of its markup and ASCII characters is zero."""
    sample = data[:_SAMPLE]
    even, odd = sample[::2].count(0), sample[1::2].count(0)
    if max(even, odd) * 10 < len(sample) or max(even, odd) < 4 * min(even, odd):
        return None
    return "utf-16-le" if odd > even else "utf-16-be"


def _is_readable(text: str) -> bool:
    num_wrong = sum(1 for _ in _WRONG.finditer(text))
    return num_wrong <= max(MAX_WRONG, len(text) * MAX_WRONG_SHARE)
