"""Elements of a page that a reader of its content does not read."""

from __future__ import annotations

from resiliparse.parse.html.node import ElementNode

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
_MAX_HEADER = 1000  # characters of a header that a button in it may word


def is_content(element: ElementNode) -> bool:
    """True for an element that is read.

    Asked of each element on the way through a page, because a query for all of them at once takes
    a time that is quadratic in their number.
    """
    tag = element.tag
    if tag not in _TAGS and not _is_marked(element, tag):
        return True
    return tag in ("button", "a") and _words_a_header(element)


def _is_marked(element: ElementNode, tag: str | None) -> bool:
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
    header = element.parent
    for _ in range(_MAX_STEPS - 1):
        if not isinstance(header, ElementNode) or header.tag in HEADER_LEVELS:
            break
        header = header.parent
    if not isinstance(header, ElementNode) or header.tag not in HEADER_LEVELS:
        return element.query_selector(HEADERS) is not None
    whole = header.text or ""
    if len(whole) > _MAX_HEADER:
        return False
    text = element.text or ""
    return not _has_words(whole.replace(text, "", 1)) and _has_words(text)


def _has_words(text: str) -> bool:
    return any(character.isalnum() for character in text)
