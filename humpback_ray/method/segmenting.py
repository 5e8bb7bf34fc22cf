"""Documents cut into sections: the trees under their header nodes, as plain text.

The paper's rule for web pages (arXiv 2308.06259, section 3.1): a candidate segment is the tree
under a header node, lower headers included. Markdown and reStructuredText are rendered to HTML and
follow the same rule; plain text has no headers and is cut at blank lines, and at line breaks where
it must be.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from markdown_it import MarkdownIt

from humpback_ray.method.characters import without_unstorable
from humpback_ray.method.html_blocks import Block, blocks_of_html
from humpback_ray.method.page_limits import refuse_excess_of_markdown
from humpback_ray.method.restructuredtext import html_of_restructuredtext


@dataclass(frozen=True, slots=True)
class Section:
    """A piece of a document that may become a segment."""

    header: str | None  # None where the document has no header nodes
    text: str  # lower headers included; the section's header line first, where it is kept
    start: int  # index of the header node in its document; of the section where there are none


@dataclass(frozen=True, slots=True)
class Cutting:
    """The rules by which a document is cut."""

    max_characters: int
    keep_header: bool = True  # the header is the first line of its section's text
    # True for a section that its sub-sections replace. None: the too long ones.
    gives_way: Callable[[Section], bool] | None = None

    def is_refused(self, section: Section) -> bool:
        if self.gives_way is None:
            return len(section.text) > self.max_characters
        return self.gives_way(section)


def sections_of_html(html: str, cutting: Cutting) -> Iterator[Section]:
    """The sections of a web page, from the top down.

    A section ends before the next header of the same or a higher level. Its sub-sections follow
    where it is refused; otherwise it is not taken apart, so sections that are not refused never
    overlap. Text before the first header is in no section. A page without any header is one
    section.

    Raises:
        ValueError: the parser refuses the page.
    """
    parts = _parts_of_blocks(blocks_of_html(html))
    headed = [part for part in parts if part.header is not None]
    if headed:
        yield from _sections_between(headed, 0, len(headed), cutting)
    elif parts:
        yield Section(None, parts[0].text, start=0)


def sections_of_markdown(markdown: str, cutting: Cutting) -> Iterator[Section]:
    """The sections of a CommonMark document with tables, by the rules of `sections_of_html`.

    Front matter, comments and images leave no text; a link leaves its words.

    Raises:
        ValueError: the document is too large to be read in time.
    """
    refuse_excess_of_markdown(markdown)
    body = _FRONT_MATTER.sub("", _without_line_noise(markdown), count=1)
    html = MarkdownIt("commonmark").enable("table").render(without_unstorable(body))
    return sections_of_html(html, cutting)


def sections_of_restructuredtext(text: str, cutting: Cutting) -> Iterator[Section]:
    """The sections of a reStructuredText document, by the rules of `sections_of_html`.

    Files that it includes, raw HTML, comments and images leave no text.

    Raises:
        ValueError: the document is too large to be read in time, or docutils cannot read it.
    """
    return sections_of_html(html_of_restructuredtext(_without_line_noise(text)), cutting)


def sections_of_text(text: str, cutting: Cutting) -> Iterator[Section]:
    """Whole paragraphs of plain text, joined in order up to `max_characters`.

    A paragraph above the limit is cut at its line breaks, because in many corpora (C4, WET files)
    each line is a paragraph. A single line above the limit is a section.
    """
    paragraphs = [p for p in _BLANK_LINES.split(_without_line_noise(text)) if p.strip()]
    for start, group in enumerate(_grouped(paragraphs, cutting.max_characters)):
        yield Section(header=None, text=group.strip(), start=start)


_BLANK_LINES = re.compile(r"\n(?:[ \t]*\n)+")

# YAML between two lines of dashes, at the start of the file; the first line must be a key, so that
# text between two horizontal rules stays.
_FRONT_MATTER = re.compile(r"\A---[ \t]*\n\w[\w-]*:.*?\n(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)


def _without_line_noise(text: str) -> str:
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def _grouped(paragraphs: list[str], max_characters: int) -> Iterator[str]:
    group = ""
    for gap, piece in _pieces(paragraphs, max_characters):
        if group and len(group) + len(gap) + len(piece) > max_characters:
            yield group
            group = ""
        group = f"{group}{gap}{piece}" if group else piece
    if group:
        yield group


def _pieces(paragraphs: list[str], max_characters: int) -> Iterator[tuple[str, str]]:
    """Paragraphs, or the lines of long ones, each with the line breaks before it."""
    for paragraph in paragraphs:
        pieces = [paragraph] if len(paragraph) <= max_characters else paragraph.split("\n")
        for number, piece in enumerate(pieces):
            yield ("\n" if number else "\n\n"), piece


# --- from blocks to sections --------------------------------------------------------------------


@dataclass(slots=True)
class _Part:
    """A header with the text up to the next header, or the text before the first one."""

    header: str | None
    level: int
    text: str  # without the header

    @property
    def whole(self) -> str:
        return "\n\n".join(filter(None, [self.header, self.text]))


def _parts_of_blocks(blocks: list[Block]) -> list[_Part]:
    begins = [i for i, block in enumerate(blocks) if i == 0 or block.level]
    ends = [*begins[1:], len(blocks)]
    return [_part(blocks[begin:end]) for begin, end in zip(begins, ends, strict=False)]


def _part(blocks: list[Block]) -> _Part:
    header = blocks[0] if blocks[0].level else None
    lines: list[str] = []
    previous = Block("")
    for block in blocks[1:] if header else blocks:
        if lines:
            adjacent = block.kind == previous.kind != "paragraph"
            lines.append("\n" if adjacent else "\n\n")
        lines.append(block.text)
        previous = block
    return _Part(header.text if header else None, blocks[0].level, "".join(lines))


def _sections_between(
    parts: list[_Part], begin: int, end: int, cutting: Cutting
) -> Iterator[Section]:
    """The sections whose headers lie in parts[begin:end], none of them inside another."""
    while begin < end:
        after = begin + 1
        while after < end and parts[after].level > parts[begin].level:
            after += 1
        first = parts[begin].whole if cutting.keep_header else parts[begin].text
        texts = [first, *(part.whole for part in parts[begin + 1 : after])]
        section = Section(parts[begin].header, "\n\n".join(filter(None, texts)), start=begin)
        yield section
        if cutting.is_refused(section):
            yield from _sections_between(parts, begin + 1, after, cutting)
        begin = after
