"""A text with what the rules count in it: each is computed once, and only if a rule asks for it."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from functools import cached_property

_BLANK_LINES = re.compile(r"\n\s*\n")


class Text:
    """A segment's text as the rules see it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._none_repeated_from: float = math.inf  # no n-gram of so many words comes twice

    @cached_property
    def words(self) -> list[str]:
        """The pieces between white space, punctuation included."""
        return self.text.split()

    @cached_property
    def folded_words(self) -> list[str]:
        """The words in lower case, without the punctuation around them."""
        return [word.strip(_AROUND_WORDS) for word in self.text.lower().split()]

    @cached_property
    def different_words(self) -> set[str]:
        """The folded words, each once."""
        return {word.strip(_AROUND_WORDS) for word in set(self.text.lower().split())}

    @cached_property
    def lines(self) -> list[str]:
        """The lines with a visible character, without the white space around them."""
        return [line for line in map(str.strip, self.text.split("\n")) if line]

    @cached_property
    def paragraphs(self) -> list[str]:
        """The pieces between blank lines."""
        return _BLANK_LINES.split(self.text.strip())

    @cached_property
    def num_word_characters(self) -> int:
        """The characters of all words, without white space."""
        return sum(map(len, self.words))

    def share_of_lines(self, num_lines: int) -> float:
        """A number of lines as a share of all."""
        return num_lines / max(1, len(self.lines))

    def per_word(self, number: int) -> float:
        """A number as a multiple of that of the words."""
        return number / max(1, len(self.words))

    def share_in_top_ngram(self, n: int) -> float:
        """The share of the words' characters in the most frequent n-gram; 0 if none comes twice.

        Of equally frequent ones the longest counts.
        """
        counts = Counter(self._ngrams(n))
        most = max(counts.values(), default=0)
        if most < 2:
            return 0.0
        length = max(sum(map(len, ngram)) for ngram, number in counts.items() if number == most)
        return most * length / self.num_word_characters

    def share_in_repeated_ngrams(self, n: int) -> float:
        """The share of the words' characters in n-grams that came before; none counts twice."""
        if n >= self._none_repeated_from:
            return 0.0
        ngrams = self._ngrams(n)
        if len(set(ngrams)) == len(ngrams):
            self._none_repeated_from = n
            return 0.0
        seen: set[tuple[str, ...]] = set()
        lengths = list(map(len, self.words))
        num_characters = end = 0
        for begin, ngram in enumerate(ngrams):
            if ngram in seen:
                num_characters += sum(lengths[max(begin, end) : begin + n])
                end = begin + n
            seen.add(ngram)
        return num_characters / self.num_word_characters

    def _ngrams(self, n: int) -> list[tuple[str, ...]]:
        return list(zip(*(self.words[begin:] for begin in range(n)), strict=False))


def share_repeated(pieces: Sequence[str]) -> float:
    """The share of pieces that are equal to one before them."""
    return (len(pieces) - len(set(pieces))) / max(1, len(pieces))


def share_of_repeated_characters(pieces: Sequence[str]) -> float:
    """The share of the pieces' characters in those that are equal to one before them."""
    num_characters = sum(map(len, pieces))
    return (num_characters - sum(map(len, set(pieces)))) / max(1, num_characters)


_AROUND_WORDS = ".,;:!?()[]{}<>\"'`*_-–—…“”‘’«»"
