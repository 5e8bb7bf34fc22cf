"""Blocks of a web page's text: its headers, paragraphs, list items, code and rows of tables."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from resiliparse.parse.html import HTMLTree

from humpback_ray.method.characters import without_unstorable
from humpback_ray.method.page_content import HEADER_LEVELS, PageContent
from humpback_ray.method.page_limits import refuse_excess
from humpback_ray.method.page_tags import VOID_TAGS, Tag, attributes_of, tags_of


@dataclass(slots=True)
class Block:
    """Text between two block boundaries of a page."""

    text: str
    level: int = 0  # 1 to 6 for a header
    kind: str = "paragraph"  # neighbours of any other kind stand on adjacent lines


def blocks_of_html(html: str) -> list[Block]:
    """The blocks of a page's content in document order; a header even if it is empty.

    Raises:
        ValueError: the parser refuses the page, or it is too large to be read in time.
    """
    refuse_excess(html)
    body = HTMLTree.parse(without_unstorable(html)).body
    if body is None:
        return []
    tags = tags_of(body)
    content, writer = PageContent(tags), _BlockWriter(tags)
    open_elements: list[int] = []  # the indices of their start tags
    entries = iter(enumerate(tags))
    for index, (text, name, _) in entries:
        if text:
            writer.write(text)
        if name[:1] == "/":
            open_elements.pop()
            if name[1:] in _WRITTEN_TAGS:
                writer.leave(name[1:])
        elif not name:
            continue
        elif not content.has(index, open_elements):
            _skip(entries, name)
        else:
            if name in _WRITTEN_TAGS:
                writer.enter(index)
            if name not in VOID_TAGS:
                open_elements.append(index)
            elif name in _WRITTEN_TAGS:
                writer.leave(name)
    writer.end_block()
    return writer.blocks


def _skip(entries: Iterator[tuple[int, Tag]], name: str) -> None:
    """Go on behind the element whose start tag was the last entry."""
    end, depth = f"/{name}", int(name not in VOID_TAGS)
    while depth:
        _, (_, other, _) = next(entries)
        depth += (other == name) - (other == end)


_BLOCK_TAGS = frozenset([
    "address", "article", "blockquote", "body", "caption", "center", "dd", "details", "div", "dl",
    "dir", "dt", "fieldset", "figcaption", "figure", "form", "header", "hr", "li", "main", "menu",
    "ol", "p", "pre", "section", "summary", "table", "td", "th", "tr", "ul",
])  # fmt: skip
_LIST_TAGS = frozenset(["ul", "ol", "menu", "dir", "dl"])
_CODE_TAGS = frozenset(["code", "kbd", "samp", "tt"])
_WRITTEN_TAGS = _BLOCK_TAGS | _CODE_TAGS | HEADER_LEVELS.keys() | {"br"}  # all that change the text

# A table that holds one of these, or a cell of class "code", arranges the page or is a listing; any
# other table is data.
_LAYOUT_TAGS = frozenset(["table", "pre", *HEADER_LEVELS])


@dataclass(slots=True)
class _Table:
    """An open table: where the next cell stands among cells that span columns or rows."""

    is_data: bool  # not layout
    column: int = 0
    rows_left: dict[int, int] = field(default_factory=dict)  # of cells above, by column
    gap: int = 0  # columns behind the last cell that it spans too

    def columns_before(self, cell: Tag) -> int:
        """The number of columns that begin behind the last cell, up to the first of this one."""
        num_columns = self.gap + self._spanned() + 1
        width = min(_number(cell, "colspan", 1) or 1, _MAX_SPAN)
        height = min(_number(cell, "rowspan", 1) or 1, _MAX_SPAN)
        for column in range(self.column, self.column + width):
            self.rows_left[column] = height - 1
        self.column += width
        self.gap = width - 1
        return num_columns

    def end_row(self) -> int:
        """The number of columns behind the last cell of the row."""
        num_columns = self.gap + self._spanned()
        self.column = self.gap = 0
        return num_columns

    def _spanned(self) -> int:
        begin = self.column
        while self.rows_left.get(self.column, 0) > 0:
            self.rows_left[self.column] -= 1
            self.column += 1
        return self.column - begin


@dataclass(slots=True)
class _BlockWriter:
    """Collects the text between block boundaries, with the state that nested elements need."""

    tags: list[Tag]  # of the page
    blocks: list[Block] = field(default_factory=list)
    words: list[str] = field(default_factory=list)  # of the block that is being written
    level: int = 0  # of the header that is open
    num_preformatted: int = 0  # open <pre> elements
    num_code: int = 0  # open <code> elements and the like
    is_code: bool = True  # all words of the block stand in <code>
    line_begins: list[int] = field(default_factory=list)  # lengths of `words`: open lines of <pre>
    at_line_edge: bool = False  # a line of <pre> has just been opened or closed
    lists: list[int | None] = field(default_factory=list)  # open ones: next number, None for ul
    marker: str = ""  # of the list item whose first block is still to come
    is_term: bool = False  # the open item of the innermost list is a <dt>
    tables: list[_Table] = field(default_factory=list)  # open ones
    num_tables: int = 0  # opened so far: rows of different tables are not adjacent

    def write(self, text: str) -> None:
        if self.num_preformatted and self._verbatim:
            if self.at_line_edge and not text.strip():
                text = "\n" * (text.count("\n") - 1)  # the source's break between two elements
            self.at_line_edge = self.at_line_edge and not text
        elif text.isspace():
            text = " " if self.words else ""
        else:
            text = text.replace("\n", " ").replace(_CELL_BREAK, " ")
            self.is_code = self.is_code and self.num_code > 0
        if text:
            self.words.append(text)

    def enter(self, index: int) -> None:
        """Begin the element, one of _WRITTEN_TAGS, whose start tag has this index."""
        _, tag, _ = self.tags[index]
        if tag == "br":
            self.words.append(" " if self._one_line else "\n")
            self.at_line_edge = False
        elif tag in HEADER_LEVELS:
            self.end_block()
            self.level = HEADER_LEVELS[tag]
        elif tag in _CODE_TAGS:
            self.num_code += 1
        elif self._verbatim:
            if tag in _LINE_TAGS:
                self._begin_line()
            elif tag == "pre":
                self.num_preformatted += 1
        elif tag == "table":
            self.end_block()
            self.tables.append(_Table(is_data=not self._is_layout(index)))
            self.num_tables += 1
        elif tag in ("td", "th") and self._in_data_table:
            self.words += [_CELL_BREAK] * self.tables[-1].columns_before(self.tags[index])
        elif tag in _BLOCK_TAGS:
            self._break_block(tag)
            self._open(self.tags[index])

    def _is_layout(self, index: int) -> bool:
        """True for a table that is no data."""
        # Up to the table's end or the next table, so that all tables together take linear time.
        for following in range(index + 1, len(self.tags)):
            tag = self.tags[following]
            if tag[1] == "/table":
                return False
            if tag[1] in _LAYOUT_TAGS:
                return True
            if tag[1] == "td" and "code" in attributes_of(tag).get("class", "").split():
                return True
        return False

    def _open(self, node: Tag) -> None:
        _, tag, _ = node
        if tag == "pre":
            self.num_preformatted += 1
        elif tag in _LIST_TAGS:
            self.lists.append(_number(node, "start", 1) if tag == "ol" else None)
        elif tag in ("dt", "dd"):
            self.is_term = tag == "dt"
        elif tag == "li" and self.lists:
            number = self.lists[-1]
            if number is None:
                self.marker = "- "
                return
            number = _number(node, "value", number)
            self.marker = f"{number}. "
            self.lists[-1] = number + 1

    def leave(self, tag: str) -> None:
        """End the innermost open element, which has this name."""
        if tag in HEADER_LEVELS:
            self.end_block()
        elif tag in _CODE_TAGS:
            self.num_code -= 1
        elif self._verbatim and (tag != "pre" or self.num_preformatted > 1):
            if tag in _LINE_TAGS:
                self._end_line()
            elif tag == "pre":
                self.num_preformatted -= 1
        elif tag in ("td", "th") and self._in_data_table:
            self.words.append(" ")
        elif tag in _BLOCK_TAGS:
            if tag == "tr" and self._in_data_table:
                self.words += [_CELL_BREAK] * self.tables[-1].end_row()
            self._break_block(tag)
            if tag == "pre":
                self.num_preformatted -= 1
            elif tag in _LIST_TAGS:
                self.lists.pop()
            elif tag == "li":
                self.marker = ""
            elif tag == "dt":
                self.is_term = False
            elif tag == "table":
                self.tables.pop()

    def _break_block(self, tag: str) -> None:
        if self._one_line and tag not in ("tr", "caption", "table"):
            self.words.append(" ")
        else:
            self.end_block()

    def _begin_line(self) -> None:
        if self._last_character not in ("", "\n"):
            self.words.append("\n")
        self.line_begins.append(len(self.words))
        self.at_line_edge = True

    def _end_line(self) -> None:
        begin = self.line_begins.pop() if self.line_begins else len(self.words)
        if len(self.words) == begin or self._last_character != "\n":
            self.words.append("\n")
        self.at_line_edge = True

    @property
    def _last_character(self) -> str:
        return self.words[-1][-1] if self.words else ""

    @property
    def _in_data_table(self) -> bool:
        return bool(self.tables) and self.tables[-1].is_data

    @property
    def _one_line(self) -> bool:
        """True in a header or row, which is one line whatever elements it holds."""
        return bool(self.level) or self._in_data_table

    @property
    def _verbatim(self) -> bool:
        return bool(self.num_preformatted) and not self._one_line

    def end_block(self) -> None:
        """Append what was written since the last block; a header even if it is empty."""
        if not self.words and not self.level:
            return
        text, self.words = "".join(self.words), []
        is_code, self.is_code = self.is_code, True
        if self.level:
            self.blocks.append(Block(_line(text), level=self.level))
            self.level = 0
        elif self._verbatim:
            self._append(Block(text.strip("\n").rstrip()))
        elif _CELL_BREAK in text:
            cells = [_line(cell) for cell in text.split(_CELL_BREAK)[1:]]
            row = " | ".join(cells) if any(cells) else ""
            self._append(Block(row, kind=f"row of table {self.num_tables}"))
        else:
            # Blocks of nothing but code are the lines of a listing.
            lines = "\n".join(map(_line, text.split("\n"))).strip("\n")
            self._append(Block(lines, kind="code" if is_code else "paragraph"))

    def _append(self, block: Block) -> None:
        if not block.text.strip():
            return
        if self.lists and not block.kind.startswith("row"):
            block.kind = "item"
            indent = "  " * min(len(self.lists) - 1, _MAX_INDENTS)
            # A term stands where its list stands, and its definitions are indented below it.
            hang = "" if self.is_term and not self.marker else "  "
            rest = _LINE_BREAK.sub(f"\n{indent}{hang}", block.text)
            block.text = indent + (self.marker or hang) + rest
            self.marker = ""
        self.blocks.append(block)


def _number(node: Tag, attribute: str, default: int) -> int:
    value = attributes_of(node).get(attribute, "")
    return int(value) if re.fullmatch(r"[0-9]{1,9}", value) else default


# Elements that are lines where highlighters put them into <pre>; cells are parts of such a line.
_LINE_TAGS = _BLOCK_TAGS - {"pre", "td", "th"}

_MAX_SPAN = 100  # HTML allows a thousand columns

_MAX_INDENTS = 8  # pages with thousands of nested lists exist; their indents would fill the memory

_CELL_BREAK = "\x1f"  # the unit separator of ASCII; whitespace to `write`, so no page brings one

_LINE_BREAK = re.compile(r"\n(?=[^\n])")


def _line(text: str) -> str:
    return " ".join(text.split())
