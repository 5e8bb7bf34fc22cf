"""Contamination: text to train on that has words of an evaluation prompt in it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from humpback_ray.method.filters import normalise

_WORD = re.compile(r"\w+")


class Hit(NamedTuple):
    """The words that a text shares with a prompt."""

    prompt_id: str
    ngram: str  # lower case, without punctuation


class PromptIndex:
    """The word n-grams of prompts.

    A text is contaminated if it has one of them. A prompt of fewer words is compared whole: it hits
    a text that has it as a line, as a page has a question for its header, and not a text that
    merely contains "who is he".

    Args:
        prompts: texts by their ids; of prompts with the same n-gram the first one is named.
    """

    def __init__(self, prompts: Mapping[str, str], ngram: int) -> None:
        self._ngram = ngram
        self._grams: dict[str, str] = {}
        self._short: dict[str, str] = {}
        for name, text in prompts.items():
            words = _words(text)
            if len(words) >= ngram:
                for gram in self._grams_of(words):
                    self._grams.setdefault(gram, name)
            elif words:
                self._short.setdefault(" ".join(words), name)

    def hit(self, text: str) -> Hit | None:
        """The first n-gram of a text that a prompt has, or the first line that is a short prompt.

        Time grows with the text's words, whatever the number of prompts.
        """
        for gram in self._grams_of(_words(text)):
            if name := self._grams.get(gram):
                return Hit(name, gram)
        for line in text.splitlines():
            words = _words(line)
            if len(words) < self._ngram and (name := self._short.get(" ".join(words))):
                return Hit(name, " ".join(words))
        return None

    def _grams_of(self, words: list[str]) -> Iterator[str]:
        shifted = (words[first:] for first in range(self._ngram))
        return map(" ".join, zip(*shifted, strict=False))


def _words(text: str) -> list[str]:
    return _WORD.findall(normalise(text))
