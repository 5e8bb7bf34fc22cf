"""Gopher's rules (Rae et al. 2021, arXiv 2112.11446, appendix A.1 and table A1).

The paper gives the numbers, and leaves open what a word and a duplicate are. Words are the pieces
between white space. Of equal lines, paragraphs and n-grams all but the first are duplicates, as in
datatrove, with which FineWeb applied these rules. Shares of characters leave white space out of
n-grams, and line breaks out of lines.
"""

from __future__ import annotations

from functools import partial

from humpback_ray.method.quality.rules import Rule
from humpback_ray.method.quality.text import (
    Text,
    share_of_repeated_characters,
    share_repeated,
)
from humpback_ray.rows import SegmentOutcome as Outcome

_STOP_WORDS = frozenset(["the", "be", "to", "of", "and", "that", "have", "with"])
_BULLETS = ("•", "-", "*")  # the paper shows none; segments have "- " for HTML's
_ELLIPSES = ("...", "…")


def num_words(text: Text) -> int:
    """Pieces between white space."""
    return len(text.words)


def mean_word_length(text: Text) -> float:
    """Characters of a word, on average."""
    return text.per_word(text.num_word_characters)


def hashes_per_word(text: Text) -> float:
    """Number signs for each word."""
    return text.per_word(text.text.count("#"))


def ellipses_per_word(text: Text) -> float:
    """Ellipses, of one character or three dots, for each word."""
    return text.per_word(sum(map(text.text.count, _ELLIPSES)))


def share_of_bullet_lines(text: Text) -> float:
    """Share of the lines that begin with a bullet."""
    return text.share_of_lines(sum(line.startswith(_BULLETS) for line in text.lines))


def share_of_ellipsis_lines(text: Text) -> float:
    """Share of the lines that end in an ellipsis."""
    return text.share_of_lines(sum(line.endswith(_ELLIPSES) for line in text.lines))


def share_of_alphabetic_words(text: Text) -> float:
    """Share of the words that have a letter."""
    return text.per_word(sum(word.isalpha() or any(map(str.isalpha, word)) for word in text.words))


def num_different_stop_words(text: Text) -> int:
    """Different ones among the eight stop words."""
    return len(_STOP_WORDS & text.different_words)


def _top(n: int) -> partial[float]:
    return partial(Text.share_in_top_ngram, n=n)


def _repeated(n: int) -> partial[float]:
    return partial(Text.share_in_repeated_ngrams, n=n)


RULES = (
    # A segment of at least 600 characters nearly always has 50 words, and none of 3,000 has
    # 100,000: these two speak of whole pages. They stay, so that the set is what its name says.
    Rule(Outcome.GOPHER_WORDS, num_words, at_least=50, at_most=100_000),
    Rule(Outcome.GOPHER_WORD_LENGTH, mean_word_length, at_least=3, at_most=10),
    Rule(Outcome.GOPHER_HASHES, hashes_per_word, at_most=0.1),
    Rule(Outcome.GOPHER_ELLIPSES, ellipses_per_word, at_most=0.1),
    Rule(Outcome.GOPHER_BULLET_LINES, share_of_bullet_lines, at_most=0.9),
    Rule(Outcome.GOPHER_ELLIPSIS_LINES, share_of_ellipsis_lines, at_most=0.3),
    Rule(Outcome.GOPHER_ALPHABETIC_WORDS, share_of_alphabetic_words, at_least=0.8),
    Rule(Outcome.GOPHER_STOP_WORDS, num_different_stop_words, at_least=2),
    # Table A1.
    Rule(Outcome.GOPHER_LINES, lambda text: share_repeated(text.lines), at_most=0.3),
    Rule(Outcome.GOPHER_PARAGRAPHS, lambda text: share_repeated(text.paragraphs), at_most=0.3),
    Rule(
        Outcome.GOPHER_LINE_CHARACTERS,
        lambda text: share_of_repeated_characters(text.lines), at_most=0.2,
    ),
    Rule(
        Outcome.GOPHER_PARAGRAPH_CHARACTERS,
        lambda text: share_of_repeated_characters(text.paragraphs), at_most=0.2,
    ),
    Rule(Outcome.GOPHER_TOP_2_GRAM, _top(2), at_most=0.20),
    Rule(Outcome.GOPHER_TOP_3_GRAM, _top(3), at_most=0.18),
    Rule(Outcome.GOPHER_TOP_4_GRAM, _top(4), at_most=0.16),
    Rule(Outcome.GOPHER_5_GRAMS, _repeated(5), at_most=0.15),
    Rule(Outcome.GOPHER_6_GRAMS, _repeated(6), at_most=0.14),
    Rule(Outcome.GOPHER_7_GRAMS, _repeated(7), at_most=0.13),
    Rule(Outcome.GOPHER_8_GRAMS, _repeated(8), at_most=0.12),
    Rule(Outcome.GOPHER_9_GRAMS, _repeated(9), at_most=0.11),
    Rule(Outcome.GOPHER_10_GRAMS, _repeated(10), at_most=0.10),
)  # fmt: skip
