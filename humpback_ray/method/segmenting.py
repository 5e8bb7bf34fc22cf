"""Documents cut into sections: the trees under their header nodes, as plain text.

The paper's rule for web pages (arXiv 2308.06259, section 3.1): a candidate segment is the tree
under a header node, lower headers included. Markdown is rendered to HTML and follows the same
rule; plain text has no headers and is cut at blank lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from markdown_it import MarkdownIt
from resiliparse.parse.html import HTMLTree
from resiliparse.parse.html.node import ElementNode, Node, TextNode


@dataclass(frozen=True, slots=True)
class Section:
    """A piece of a document that may become a segment."""

    header: str | None  # None where the document has no header nodes
    text: str  # the header line first, lower headers included
    start: int  # index of the header node in its document; of the section where there are none


def sections_of_html(html: str, max_characters: int) -> Iterator[Section]:
    """The sections of a web page, from the top down.

    A section ends before the next header of the same or a higher level. One that is longer than
    `max_characters` and has lower headers is followed by its sub-sections; one that fits is not
    taken apart, so sections that fit never overlap. Text before the first header is in no
    section. A page without headers is cut like plain text.

    Raises:
        ValueError: the parser refuses the page.
    """
    parts = _parts_of_blocks(_blocks_of_html(html))
    headed = [part for part in parts if part.header is not None]
    if headed:
        yield from _sections_between(headed, 0, len(headed), max_characters)
    elif parts:
        yield from sections_of_text(parts[0].text, max_characters)


def sections_of_markdown(markdown: str, max_characters: int) -> Iterator[Section]:
    """The sections of a CommonMark document with tables, by the rules of `sections_of_html`.

    Front matter, comments and images leave no text; a link leaves its words.
    """
    body = _FRONT_MATTER.sub("", _without_line_noise(markdown), count=1)
    html = MarkdownIt("commonmark").enable("table").render(_parseable(body))
    return sections_of_html(html, max_characters)


def sections_of_text(text: str, max_characters: int) -> Iterator[Section]:
    """Whole paragraphs of plain text, joined in order up to `max_characters`.

    A single paragraph above the limit is a section of its own.
    """
    paragraphs = [p for p in _BLANK_LINES.split(_without_line_noise(text)) if p.strip()]
    for start, group in enumerate(_grouped(paragraphs, max_characters)):
        yield Section(header=None, text="\n\n".join(group).strip(), start=start)


_BLANK_LINES = re.compile(r"\n(?:[ \t]*\n)+")

# YAML between two lines of dashes, at the start of the file; the first line must be a key, so that
# text between two horizontal rules stays.
_FRONT_MATTER = re.compile(r"\A---[ \t]*\n\w[\w-]*:.*?\n(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)


def _without_line_noise(text: str) -> str:
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def _parseable(text: str) -> str:
    # The parsers drop NULs or fail on lone surrogates. As U+FFFD both reach the filter, which
    # then names the reason.
    return re.sub("[\x00\ud800-\udfff]", "\ufffd", text)


def _grouped(paragraphs: list[str], max_characters: int) -> Iterator[list[str]]:
    group: list[str] = []
    length = 0
    for paragraph in paragraphs:
        if group and length + 2 + len(paragraph) > max_characters:
            yield group
            group, length = [], 0
        length += len(paragraph) + (2 if group else 0)
        group.append(paragraph)
    if group:
        yield group


# --- from blocks to sections --------------------------------------------------------------------


@dataclass(slots=True)
class _Block:
    text: str
    level: int = 0  # 1 to 6 for a header
    kind: str = "paragraph"  # neighbours of the kinds "item" and "row" stand on adjacent lines


@dataclass(slots=True)
class _Part:
    """A header with the text up to the next header, or the text before the first one."""

    header: str | None
    level: int
    text: str


def _parts_of_blocks(blocks: list[_Block]) -> list[_Part]:
    begins = [i for i, block in enumerate(blocks) if i == 0 or block.level]
    ends = [*begins[1:], len(blocks)]
    return [_part(blocks[begin:end]) for begin, end in zip(begins, ends, strict=False)]


def _part(blocks: list[_Block]) -> _Part:
    lines: list[str] = []
    previous = _Block("")
    for block in blocks:
        if lines:
            adjacent = block.kind == previous.kind != "paragraph"
            lines.append("\n" if adjacent else "\n\n")
        if block.text:
            lines.append(block.text)
        previous = block
    first = blocks[0]
    return _Part(first.text if first.level else None, first.level, "".join(lines))


def _sections_between(
    parts: list[_Part], begin: int, end: int, max_characters: int
) -> Iterator[Section]:
    """The sections whose headers lie in parts[begin:end], none of them inside another."""
    while begin < end:
        after = begin + 1
        while after < end and parts[after].level > parts[begin].level:
            after += 1
        text = "\n\n".join(part.text for part in parts[begin:after] if part.text)
        yield Section(header=parts[begin].header, text=text, start=begin)
        if len(text) > max_characters:
            yield from _sections_between(parts, begin + 1, after, max_characters)
        begin = after


# --- from HTML to blocks ------------------------------------------------------------------------

# What a reader of the page's content does not read. `extract_plain_text` of resiliparse is not
# used: it leaves out empty headers, which the paper's rules count, and runs code into paragraphs.
_NOT_CONTENT = ", ".join([
    "script", "style", "noscript", "template", "svg", "iframe", "object", "canvas", "audio",
    "video", "button", "input", "select", "textarea", "dialog", "nav", "aside", "footer",
    "[hidden]", "[aria-hidden=true]", "[role=navigation]", "[role=search]", "[role=contentinfo]",
    '[style*="display:none"]', '[style*="display: none"]',
    "a.headerlink", ".linenos",  # the pilcrows and line numbers of documentation generators
])  # fmt: skip

_BLOCK_TAGS = frozenset([
    "address", "article", "blockquote", "body", "caption", "center", "dd", "details", "div", "dl",
    "dt", "fieldset", "figcaption", "figure", "form", "header", "hr", "li", "main", "ol", "p",
    "pre", "section", "summary", "table", "td", "th", "tr", "ul",
])  # fmt: skip
_HEADER_LEVELS = {f"h{level}": level for level in range(1, 7)}

# A table that holds one of these arranges the page; any other table is data.
_LAYOUT_CONTENT = "h1, h2, h3, h4, h5, h6, pre, table"


def _blocks_of_html(html: str) -> list[_Block]:
    body = HTMLTree.parse(_parseable(html)).body
    if body is None:
        return []
    for element in body.query_selector_all(_NOT_CONTENT):
        element.decompose()
    writer = _BlockWriter()
    for node, entering in _walk(body):
        if isinstance(node, ElementNode):
            writer.enter(node) if entering else writer.leave(node)
        elif isinstance(node, TextNode) and entering:
            writer.write(node.node_value or "")
    writer.end_block()
    return writer.blocks


def _walk(root: Node) -> Iterator[tuple[Node, bool]]:
    """Every node under `root` in document order: (node, True), and (node, False) on the way out."""
    # A stack of our own: pages nest deeper than Python's calls may.
    stack = [(root, True)]
    while stack:
        node, entering = stack.pop()
        yield node, entering
        if entering:
            stack.append((node, False))
            child = node.last_child
            while child is not None:
                stack.append((child, True))
                child = child.previous_sibling


@dataclass(slots=True)
class _BlockWriter:
    """Collects the text between block boundaries, with the state that nested elements need."""

    blocks: list[_Block] = field(default_factory=list)
    words: list[str] = field(default_factory=list)  # of the block that is being written
    level: int = 0  # of the header that is open
    num_preformatted: int = 0  # open <pre> elements
    lists: list[int | None] = field(default_factory=list)  # open ones: next number, None for ul
    marker: str = ""  # of the list item whose first block is still to come
    data_tables: list[bool] = field(default_factory=list)  # open ones: data or layout

    def write(self, text: str) -> None:
        self.words.append(text if self._verbatim else re.sub(r"\s+", " ", text))

    def enter(self, node: ElementNode) -> None:
        tag = node.tag
        if tag == "br":
            self.words.append(" " if self._one_line else "\n")
        elif tag in _HEADER_LEVELS:
            self.end_block()
            self.level = _HEADER_LEVELS[tag]
        elif tag == "table":
            self.end_block()
            self.data_tables.append(node.query_selector(_LAYOUT_CONTENT) is None)
        elif tag in ("td", "th") and self._in_data_table:
            self.words.append(_CELL_BREAK)
        elif tag in _BLOCK_TAGS:
            self._break_block(tag)
            self._open(tag)

    def _open(self, tag: str) -> None:
        if tag == "pre":
            self.num_preformatted += 1
        elif tag in ("ul", "ol"):
            self.lists.append(1 if tag == "ol" else None)
        elif tag == "li" and self.lists:
            number = self.lists[-1]
            self.marker = "- " if number is None else f"{number}. "
            self.lists[-1] = None if number is None else number + 1

    def leave(self, node: ElementNode) -> None:
        tag = node.tag
        if tag in _HEADER_LEVELS:
            self.end_block()
        elif tag in _BLOCK_TAGS:
            self._break_block(tag)
            if tag == "pre":
                self.num_preformatted -= 1
            elif tag in ("ul", "ol"):
                self.lists.pop()
            elif tag == "li":
                self.marker = ""
            elif tag == "table":
                self.data_tables.pop()

    def _break_block(self, tag: str) -> None:
        if self._one_line and tag not in ("tr", "caption", "table"):
            self.words.append(" ")
        else:
            self.end_block()

    @property
    def _in_data_table(self) -> bool:
        return bool(self.data_tables) and self.data_tables[-1]

    @property
    def _one_line(self) -> bool:
        """Whether the open block is one line whatever elements it holds: a header, a row."""
        return bool(self.level) or self._in_data_table

    @property
    def _verbatim(self) -> bool:
        return bool(self.num_preformatted) and not self._one_line

    def end_block(self) -> None:
        """Append what was written since the last block; a header even if it is empty."""
        text, self.words = "".join(self.words), []
        if self.level:
            self.blocks.append(_Block(_line(text), level=self.level))
            self.level = 0
        elif self._verbatim:
            self._append(_Block(text.strip("\n").rstrip()))
        elif _CELL_BREAK in text:
            cells = [_line(cell) for cell in text.split(_CELL_BREAK)[1:]]
            self._append(_Block(" | ".join(cells) if any(cells) else "", kind="row"))
        else:
            kind = "item" if self.lists else "paragraph"
            lines = [_line(line) for line in text.split("\n")]
            self._append(_Block("\n".join(lines).strip("\n"), kind=kind))

    def _append(self, block: _Block) -> None:
        if not block.text.strip():
            return
        if block.kind == "item":
            indent = "  " * min(len(self.lists) - 1, _MAX_INDENTS)
            lead = self.marker or " " * 2
            block.text = indent + lead + block.text.replace("\n", "\n" + indent + "  ")
            self.marker = ""
        self.blocks.append(block)


_MAX_INDENTS = 8  # pages with thousands of nested lists exist; their indents would fill the memory

_CELL_BREAK = "\x1f"  # the unit separator of ASCII; whitespace to `write`, so no page brings one


def _line(text: str) -> str:
    return " ".join(text.split())
