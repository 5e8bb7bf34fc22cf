"""A report as a list of sections, before it becomes a page or Markdown.

Cells and paragraphs hold plain text, never markup. A chart is the one exception: its SVG comes from
`charts.py`, out of numbers and names of this program.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Cell:
    """A cell of a table. `share` draws a bar behind the text, from 0 to 1 of the cell's width."""

    text: str
    share: float | None = None
    emphasis: str = ""  # good, bad, or empty


Row = Sequence[Cell | str]


@dataclass(frozen=True)
class Table:
    """A table; the first cell of a row names the row."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Row]
    text_columns: frozenset[int] = frozenset({0})  # the others hold numbers, flush right
    note: str = ""
    is_folded: bool = False

    def cells(self) -> list[list[Cell]]:
        """The rows with every cell as a `Cell`."""
        return [[c if isinstance(c, Cell) else Cell(c) for c in row] for row in self.rows]


@dataclass(frozen=True)
class Chart:
    """A chart with the sentence that a screen reader speaks in its place."""

    title: str
    description: str
    view_box: str  # of the SVG
    svg: str  # the elements in it


@dataclass(frozen=True)
class Paragraph:
    """A paragraph; a warning stands out."""

    text: str
    is_warning: bool = False


@dataclass(frozen=True)
class Text:
    """A text of a row, shown as it is; `num_hidden` counts the characters that are cut off."""

    name: str
    text: str
    num_hidden: int = 0


@dataclass(frozen=True)
class Excerpt:
    """A row for a person to read."""

    title: str
    texts: Sequence[Text]
    source: str = ""  # URL or file
    link: str = ""  # the source where a browser may open it


@dataclass(frozen=True)
class Excerpts:
    """Rows of one stage, folded until a reader opens them."""

    title: str
    summary: str
    entries: Sequence[Excerpt]


Block = Table | Chart | Paragraph | Excerpts


@dataclass(frozen=True)
class Section:
    """A section of a report."""

    anchor: str
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class KeyFigure:
    """A figure of the summary on top."""

    value: str
    name: str


@dataclass(frozen=True)
class Document:
    """A whole report."""

    title: str
    subtitle: str
    headline: str
    sections: Sequence[Section]
    key_figures: Sequence[KeyFigure] = field(default_factory=tuple)
