"""FineWeb's own rules (Penedo et al. 2024, arXiv 2406.17557, section 3), which follow C4's there.

Lines are those with a visible character, because segments have a blank line between paragraphs.
"""

from __future__ import annotations

from humpback_ray.method.quality.rules import Rule
from humpback_ray.method.quality.text import Text, share_of_repeated_characters
from humpback_ray.rows import SegmentOutcome as Outcome

MAX_SHORT_LINE = 30  # characters; the paper says shorter than 30, its code at most 30
_LINE_ENDS = (".", "'", '"', "!", "?")


def share_of_ended_lines(text: Text) -> float:
    """The share of lines that end in punctuation, 0 to 1."""
    return text.share_of_lines(sum(line.endswith(_LINE_ENDS) for line in text.lines))


def share_of_short_lines(text: Text) -> float:
    """The share of lines of at most `MAX_SHORT_LINE` characters, 0 to 1."""
    return text.share_of_lines(sum(len(line) <= MAX_SHORT_LINE for line in text.lines))


def line_breaks_per_word(text: Text) -> float:
    """Line breaks between lines with a visible character, for each word."""
    return text.per_word(max(0, len(text.lines) - 1))


RULES = (
    Rule(Outcome.FINEWEB_LINE_ENDS, share_of_ended_lines, above=0.12),
    # The paper's number; the default of its code is 0.01.
    Rule(
        Outcome.FINEWEB_DUPLICATE_LINES,
        lambda text: share_of_repeated_characters(text.lines), below=0.1,
    ),
    Rule(Outcome.FINEWEB_SHORT_LINES, share_of_short_lines, below=0.67),
    # Of the code alone, where it goes by the name of lists.
    Rule(Outcome.FINEWEB_LINE_BREAKS, line_breaks_per_word, at_most=0.3),
)  # fmt: skip
