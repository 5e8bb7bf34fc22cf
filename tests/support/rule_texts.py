"""Texts whose measures are known: different words of one length, lines of known words."""

from __future__ import annotations

import string
from collections.abc import Sequence

# Prose that no rule drops.
PROSE = """\
Whales

A whale breathes air, so it has to come to the surface of the sea. Before it dives, it takes
several breaths that last only a second or two. Some species then stay below for more than an hour.

Their songs carry over hundreds of kilometres, because sound travels well in cold water. Nobody has
shown what each phrase says. Males sing most in the season when calves are born, and every group
has a melody that its neighbours do not share. In some years a new one spreads from west to east
until all of them have learnt it!

People hunted these animals for oil, which lit lamps in many towns. Most countries have stopped.
Since then the numbers of humpbacks have risen, while those of right whales remain very low."""


def words(number: int, length: int = 5, first: str = "") -> list[str]:
    """Different words of one length, all of letters, none of them a stop word."""
    letters = string.ascii_lowercase
    found = []
    for index in range(number):
        word = first
        while len(word) < length:
            index, digit = divmod(index, len(letters))
            word += letters[digit]
        assert not index, "too short for so many different words"
        found.append(word)
    return found


def repeated(ngram_length: int, num_repetitions: int, num_words: int) -> str:
    """A text of words of 5 letters in which one n-gram comes again so often, and no longer one."""
    ngram = words(ngram_length, first="q")
    others = iter(words(num_words, first="x"))
    text = list(ngram)
    for _ in range(num_repetitions):
        text += [next(others), *ngram]
    text += [next(others) for _ in range(num_words - len(text))]
    assert len(text) == num_words
    return " ".join(text)


def lines(numbers: Sequence[tuple[int, str]]) -> str:
    """So many different lines of each kind; `{}` in a line is a word of its own."""
    total = sum(number for number, _ in numbers)
    own = iter(words(total))
    return "\n".join(line.format(next(own)) for number, line in numbers for _ in range(number))
