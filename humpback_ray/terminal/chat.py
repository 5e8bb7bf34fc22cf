"""A talk with a model on the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain

from humpback_ray.terminal import output


def talk(answer: Callable[[str], Iterable[str]]) -> None:
    """Read turns and print the answers, until an empty line or the end of the input."""
    while True:
        try:
            text = output.console.input("[bold cyan]you>[/] ").strip()
        except EOFError:
            break
        if not text:
            break
        for piece in wrapped(answer(text), output.console.width):
            output.console.print(piece, end="", markup=False, highlight=False, soft_wrap=True)
        output.console.print()


def wrapped(pieces: Iterable[str], width: int) -> Iterator[str]:
    """Pieces of a text as they come, with line breaks between words so that no line is wider.

    A word appears once it is whole, and a word wider than a line stays whole. The spaces at the
    beginning of a line stay, because code has them.
    """
    column, spaces, word = 0, "", ""
    for character in chain.from_iterable(chain(pieces, ["\n"])):
        if not character.isspace():
            word += character
            continue
        if word:
            if column and column + len(spaces) + len(word) > width:
                column, spaces = 0, "\n"
            yield spaces + word
            column += len(spaces.rpartition("\n")[2]) + len(word)
            spaces = word = ""
        if character == "\n":
            column, spaces = 0, spaces + character
        else:
            spaces += character
