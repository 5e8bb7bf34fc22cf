"""Streamed answers on the terminal."""

from __future__ import annotations

import pytest

from humpback_ray.terminal.chat import wrapped


@pytest.mark.parametrize(
    ("pieces", "lines"),
    [
        (["a load bal", "ancer spre", "ads it"], ["a load", "balancer", "spreads it"]),
        (["one\n", "\n  two"], ["one", "", "  two"]),
        (["a", " ", "b", "\n    if x:"], ["a b", "    if x:"]),
        (["incomprehensibilities of", " it"], ["incomprehensibilities", "of it"]),
        ([], [""]),
    ],
)  # fmt: skip
def test_streamed_text_breaks_between_words(pieces, lines):
    text = "".join(wrapped(iter(pieces), 10))
    assert [line.rstrip() for line in text.split("\n")] == lines


def test_streamed_text_appears_before_its_end():
    taken = []

    def pieces():
        for piece in ("one ", "two ", "three "):
            taken.append(piece)
            yield piece

    assert next(wrapped(pieces(), 80)) == "one"
    assert taken == ["one "]
