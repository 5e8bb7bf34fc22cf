"""XHTML as HTML.

XML writes `<title/>` or `<script src="x"/>` for an empty element. A parser of HTML ignores the
slash, so the rest of the page would belong to the title or the script. It takes `<![CDATA[...]]>`,
which is text in XML, for a comment.
"""

from __future__ import annotations

import html
import re

from humpback_ray.method.page_limits import MAX_CHARACTERS, MAX_TAGS
from humpback_ray.method.page_tags import VOID_TAGS

_DECLARATION = re.compile(r"[\ufeff\s]*<\?xml\s")
_START_TAG = re.compile(r"<([a-zA-Z][^\s/>]*)[^>]*\Z")
_CDATA = "<![CDATA["


def is_xml(page: str) -> bool:
    """True for a page that says of itself that it is XML."""
    return _DECLARATION.match(page) is not None


def html_of_xhtml(page: str) -> str:
    """A page of XHTML in the syntax of HTML; one above the limits of a page as it is."""
    if len(page) > MAX_CHARACTERS or max(page.count("<"), page.count("/>")) > MAX_TAGS:
        return page
    *pieces, rest = _without_cdata(page).split("/>")
    return "".join([*map(_with_end_tag, pieces), rest])


def _with_end_tag(piece: str) -> str:
    """A piece of a page, which ends in an empty element, with the slash and what is behind it."""
    tag = _START_TAG.match(piece, max(piece.rfind("<"), 0))
    if tag is None or tag[1].lower() in VOID_TAGS:
        return f"{piece}/>"
    return f"{piece}></{tag[1]}>"


def _without_cdata(page: str) -> str:
    first, *others = page.split(_CDATA)
    return "".join([first, *map(_as_text, others)])


def _as_text(part: str) -> str:
    """What follows the mark of a CDATA section, with its content as text."""
    content, end, rest = part.partition("]]>")
    return f"{html.escape(content, quote=False)}{rest}" if end else f"{_CDATA}{part}"
