"""Elements of a page that a reader of its content does not read."""

from __future__ import annotations

from resiliparse.parse.html.node import ElementNode, Node

_TAGS = frozenset([
    "script", "style", "noscript", "template", "svg", "iframe", "object", "canvas", "audio",
    "video", "button", "input", "select", "textarea", "dialog", "nav", "aside", "footer",
])  # fmt: skip
_ROLES = frozenset(["navigation", "search", "contentinfo"])
_HIDING_STYLES = ("display:none", "display: none")
# The pilcrows and line numbers of documentation generators, highlighters and code hosts.
_CLASSES = frozenset([
    "linenos", "lineno", "linenumber", "line-numbers-rows", "rouge-gutter", "hljs-ln-numbers",
    "blob-num",
])  # fmt: skip
_CLASSES_OF_TAGS = frozenset([("a", "headerlink"), ("td", "gutter")])

HEADER_LEVELS = {f"h{level}": level for level in range(1, 7)}
HEADERS = ", ".join(HEADER_LEVELS)
_MAX_STEPS = 10  # up from a button to the header that it words
_MAX_ASKED = 1000  # buttons and links of a page that may word a header; the others are left out


class PageContent:
    """Judges the elements of one page, each on the way through it.

    A query for all of them at once takes a time that is quadratic in their number.
    """

    def __init__(self) -> None:
        self._num_asked = 0  # how often a whole header was read for a button in it

    def has(self, element: ElementNode) -> bool:
        """True for an element that is read."""
        tag = element.tag or ""
        if tag not in _TAGS and not _is_marked(element, tag):
            return True
        if tag not in ("button", "a") or self._num_asked == _MAX_ASKED:
            return False
        self._num_asked += 1
        return _words_a_header(element)


def _is_marked(element: ElementNode, tag: str) -> bool:
    """True if one of its attributes hides an element or says that it is no content."""
    names = element.attrs
    if not names:
        return False
    if "hidden" in names or element.getattr("aria-hidden") == "true":
        return True
    if "role" in names and element.getattr("role") in _ROLES:
        return True
    if "style" in names:
        style = element.getattr("style") or ""
        if any(hiding in style for hiding in _HIDING_STYLES):
            return True
    classes = (element.getattr("class") or "").split() if "class" in names else []
    return any(each in _CLASSES or (tag, each) in _CLASSES_OF_TAGS for each in classes)


def _words_a_header(element: ElementNode) -> bool:
    """True for a button or link that holds a header, or all the text of one (accordions)."""
    header: Node | None = element
    for _ in range(_MAX_STEPS):
        header = header.parent if header is not None else None
        if not isinstance(header, ElementNode) or header.tag in HEADER_LEVELS:
            break
    if not isinstance(header, ElementNode) or header.tag not in HEADER_LEVELS:
        return element.query_selector(HEADERS) is not None
    text = element.text or ""
    others = (header.text or "").replace(text, "", 1)
    return not _has_words(others) and _has_words(text)


def _has_words(text: str) -> bool:
    return any(character.isalnum() for character in text)
