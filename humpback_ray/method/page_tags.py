"""A parsed page as a list of its tags, each with the text before it.

Python needs about five times as long to go through the parser's nodes one by one. The parser writes
its whole tree as markup in one call, and in that markup no text and no attribute has a `<` or `>`,
but for comments and the content of a few elements.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from resiliparse.parse.html.node import Node

# (text before the tag, name, attributes): ("Hello", "p", 'class="a"') for `Hello<p class="a">`,
# ("Hello", "/p", "") for `Hello</p>`, ("Hello", "", "") for a comment.
Tag = tuple[str, str, str]

# Elements without content and without an end tag.
VOID_TAGS = frozenset([
    "area", "base", "basefont", "bgsound", "br", "col", "embed", "frame", "hr", "img", "input",
    "keygen", "link", "meta", "param", "source", "track", "wbr",
])  # fmt: skip
_VOID_ENDS = frozenset(f"/{name}" for name in VOID_TAGS)  # elements of MathML may have these names
# Elements whose content is written as it stands.
_RAW_TAGS = frozenset(["script", "style", "iframe", "xmp", "noembed", "noframes", "plaintext"])


def tags_of(node: Node) -> list[Tag]:
    """The tags of a tree in document order; each element but void ones has an end tag."""
    tags: list[Tag] = []
    pieces = iter(node.html.split(">"))
    for piece in pieces:
        text, _, tag = piece.partition("<")
        name, _, attributes = tag.partition(" ")
        if "&" in text:
            text = unescaped(text)
        if name in _VOID_ENDS or name[:1] == "!":
            name = attributes = ""
        tags.append((text, name, attributes))
        if name in _RAW_TAGS:
            tags.append((_raw_text(pieces, name), f"/{name}", ""))
        elif tag[:3] == "!--":
            _skip_comment(pieces, piece)
    return tags


def attributes_of(tag: Tag) -> dict[str, str]:
    """The attributes of a start tag."""
    found = dict(_ATTRIBUTE.findall(tag[2]))
    if "&" in tag[2]:
        return {name: unescaped(value) for name, value in found.items()}
    return found


_ATTRIBUTE = re.compile(r'(=?[^ =]*)="([^"]*)"')


def unescaped(text: str) -> str:
    """Text or the value of an attribute without the five references that the parser writes."""
    for reference, character in _REFERENCES:
        text = text.replace(reference, character)
    return text


_REFERENCES = (
    ("&nbsp;", "\xa0"), ("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&amp;", "&"),
)  # fmt: skip


def _raw_text(pieces: Iterator[str], name: str) -> str:
    """The content of an element of raw text, whose start tag was the last piece."""
    end, depth = f"</{name}", 0
    content: list[str] = []
    for piece in pieces:
        content.append(piece)
        if name == "script":
            depth = _depth_in_script(piece, depth)
        elif piece.endswith(end):
            depth = _ENDED
        if depth == _ENDED:
            break
    return ">".join(content).removesuffix(end)


_ENDED = -1
_SCRIPT_STEP = re.compile(r"(<!--)|<(/?)script(?=[\s/]|\Z)", re.IGNORECASE)


def _depth_in_script(piece: str, depth: int) -> int:
    """The depth behind a piece of a script: 1 in a comment, 2 in a script in that comment.

    The end tag of the inner script does not end the outer one (HTML standard, 13.2.5.27).
    """
    for comment, slash in _SCRIPT_STEP.findall(piece):
        if comment:
            depth = max(depth, 1)
        elif slash:
            if depth < 2:
                return _ENDED
            depth = 1
        elif depth == 1:
            depth = 2
    return 0 if piece.endswith("--") else depth


def _skip_comment(pieces: Iterator[str], piece: str) -> None:
    """Go on behind a comment that begins in a piece."""
    while not piece.endswith("--"):
        piece = next(pieces, "--")
