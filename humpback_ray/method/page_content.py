"""Elements of a page that a reader of its content does not read."""

from __future__ import annotations

import re
from bisect import bisect
from functools import cached_property

from humpback_ray.method.page_tags import VOID_TAGS, Tag, attributes_of

_TAGS = frozenset([
    "script", "style", "noscript", "template", "svg", "iframe", "object", "canvas", "audio",
    "video", "button", "input", "select", "textarea", "dialog", "nav", "aside", "footer",
])  # fmt: skip
_ROLES = frozenset(["navigation", "search", "contentinfo"])
_HIDING_STYLE = re.compile(r"(?:display\s*:\s*none|visibility\s*:\s*hidden)\b", re.IGNORECASE)
# The pilcrows and line numbers of documentation generators, highlighters and code hosts.
_CLASSES = frozenset([
    "linenos", "lineno", "linenumber", "line-numbers-rows", "rouge-gutter", "hljs-ln-numbers",
    "blob-num",
])  # fmt: skip
_CLASSES_OF_TAGS = frozenset([("a", "headerlink"), ("td", "gutter")])

HEADER_LEVELS = {f"h{level}": level for level in range(1, 7)}
_MAX_STEPS = 10  # up from a button to the header that it words
_MAX_ASKED = 1000  # buttons and links of a page that may word a header; the others are left out


class PageContent:
    """Judges the elements of one page, each on the way through its tags."""

    def __init__(self, tags: list[Tag]) -> None:
        self._tags = tags
        self._num_asked = 0  # how often a whole header was read for a button in it

    def has(self, index: int, open_elements: list[int]) -> bool:
        """True for an element that is read.

        Args:
            index: of its start tag.
            open_elements: the start tags of the elements around it, the innermost last.
        """
        tag = self._tags[index]
        name = tag[1]
        if name not in _TAGS and not (tag[2] and _is_marked(tag)):
            return True
        if name not in ("button", "a") or self._num_asked == _MAX_ASKED:
            return False
        self._num_asked += 1
        return self._words_a_header(index, open_elements)

    def _words_a_header(self, index: int, open_elements: list[int]) -> bool:
        """True for a button or link that holds a header, or all the text of one (accordions)."""
        for header in reversed(open_elements[-_MAX_STEPS:]):
            if self._tags[header][1] in HEADER_LEVELS:
                text = self._text_of(index)
                others = self._text_of(header).replace(text, "", 1)
                return not _has_words(others) and _has_words(text)
        following = self._headers[bisect(self._headers, index) :][:1]
        return any(header < self._ends[index] for header in following)

    def _text_of(self, index: int) -> str:
        """All the text between an element's tags, as the parser gives it."""
        return "".join(text for text, _, _ in self._tags[index + 1 : self._ends[index] + 1])

    @cached_property
    def _ends(self) -> dict[int, int]:
        """The end tags of the elements, by their start tags."""
        ends: dict[int, int] = {}
        open_elements: list[int] = []
        for index, (_, name, _) in enumerate(self._tags):
            if name.startswith("/"):
                ends[open_elements.pop()] = index
            elif name and name not in VOID_TAGS:
                open_elements.append(index)
        return ends

    @cached_property
    def _headers(self) -> list[int]:
        """The start tags of all headers."""
        return [index for index, (_, name, _) in enumerate(self._tags) if name in HEADER_LEVELS]


_MARKING = re.compile("hidden|role|style|class")


def _is_marked(tag: Tag) -> bool:
    """True if an attribute hides an element or says that it is no content."""
    if not _MARKING.search(tag[2]):
        return False
    attributes = attributes_of(tag)
    if "hidden" in attributes or attributes.get("aria-hidden") == "true":
        return True
    if attributes.get("role") in _ROLES:
        return True
    if _HIDING_STYLE.search(attributes.get("style", "")):
        return True
    classes = attributes.get("class", "").split()
    return any(each in _CLASSES or (tag[1], each) in _CLASSES_OF_TAGS for each in classes)


def _has_words(text: str) -> bool:
    return any(character.isalnum() for character in text)
