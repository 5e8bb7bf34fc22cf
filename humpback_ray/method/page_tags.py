"""A parsed page as a list of its tags, each with the text before it.

The parser writes its whole tree as markup in one call, and Python goes through that text much
faster than through the parser's nodes one by one. The markup is regular: but for comments and the
content of a few elements, each `>` ends a tag, and the first `<` before it begins that tag.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from resiliparse.parse.html.node import Node

# (text before the tag, name, attributes): ("Hello", "p", 'class="a"') for `Hello<p class="a">`,
# ("Hello", "/p", "") for `Hello</p>`, ("Hello", "", "") for a comment or the end.
Tag = tuple[str, str, str]

# Elements without content and without an end tag.
VOID_TAGS = frozenset([
    "area", "base", "basefont", "bgsound", "br", "col", "embed", "frame", "hr", "img", "input",
    "keygen", "link", "meta", "param", "source", "track", "wbr",
])  # fmt: skip
_VOID_ENDS = frozenset(f"/{name}" for name in VOID_TAGS)  # of elements of MathML with such names
# Elements whose content is written as it stands.
_RAW_TAGS = frozenset(["script", "style", "iframe", "xmp", "noembed", "noframes", "plaintext"])
_SPECIAL = _VOID_ENDS | _RAW_TAGS | {"template", "/template"}


def tags_of(node: Node) -> list[Tag]:
    """The tags of a tree in document order; each element but void ones has an end tag.

    Templates are empty: what is in them is not in the tree.
    """
    tags: list[Tag] = []
    templates: list[int] = []  # open ones: the number of tags up to their start tags
    pieces = iter(node.html.split(">"))
    for piece in pieces:
        text, _, tag = piece.partition("<")
        name, _, attributes = tag.partition(" ")
        if "&" in text:
            text = unescaped(text)
        tags.append((text, name, attributes))
        if name not in _SPECIAL and name[:1] != "!":
            continue
        if name in _RAW_TAGS:
            tags.append((_raw_text(pieces, name), f"/{name}", ""))
        elif name == "template":
            templates.append(len(tags))
        elif name == "/template":
            tags[templates.pop() :] = [("", name, "")]
        else:
            tags[-1] = (text, "", "")
            if name.startswith("!--"):
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
