"""Diversity of texts: different n-grams of words, and texts that nearly repeat each other."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

NEAR_DUPLICATE_JACCARD = 0.7  # of the trigrams of words
_WORD = re.compile(r"\w+")
_BITS = 21  # of a word's number, so that those of a trigram fit into one: two million words
_NO_WORD = 0  # stands behind each text, so that n-grams of two texts never mix


@dataclass(frozen=True)
class Words:
    """The words of texts as numbers: equal words, up to case, have equal numbers from 1 on."""

    codes: NDArray[np.int64]  # (words,) of all texts, one after the other
    text_of: NDArray[np.int64]  # (words,) index of the text
    num_texts: int

    @classmethod
    def of(cls, texts: Sequence[str]) -> Words:
        """The words of texts in their order."""
        found = [_WORD.findall(text.casefold()) for text in texts]
        flat = np.array([word for words in found for word in words], object)
        lengths = [len(words) for words in found]
        codes = pd.factorize(flat)[0].astype(np.int64) + 1
        assert not len(codes) or codes.max() < 2**_BITS, "too many different words"
        return cls(codes, np.repeat(np.arange(len(texts)), lengths), len(texts))

    def distinct(self, n: int) -> float | None:
        """The share of different n-grams among all of them; None if there is none.

        (Li et al., arXiv 1510.03055: distinct-1 and distinct-2.)

        Args:
            n: at most 3.
        """
        grams, _ = self._ngrams(n)
        return len(pd.unique(grams)) / len(grams) if len(grams) else None

    def _ngrams(self, n: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """All n-grams within a text as one number each, and the text of each."""
        assert n * _BITS < 64, n
        num_starts = max(len(self.codes) - n + 1, 0)
        grams = np.zeros(num_starts, np.int64)
        for i in range(n):
            grams = (grams << _BITS) | self.codes[i : i + num_starts]
        first, last = self.text_of[:num_starts], self.text_of[n - 1 : n - 1 + num_starts]
        is_within = first == last
        return grams[is_within], first[is_within]

    @cached_property
    def _padded(self) -> Words:
        """The same words with two places behind each text, so that every text has trigrams."""
        ends = np.repeat(np.arange(self.num_texts), 2)
        texts = np.concatenate([self.text_of, ends])
        codes = np.concatenate([self.codes, np.full(len(ends), _NO_WORD)])
        order = np.argsort(texts, kind="stable")
        return Words(codes[order], texts[order], self.num_texts)

    def near_duplicates(self, jaccard: float = NEAR_DUPLICATE_JACCARD) -> int:
        """Number of texts whose trigrams nearly are those of another text, equal ones included.

        Every two texts are compared exactly; a text without words is like no other.

        Args:
            jaccard: least share of the trigrams of both texts that both have.
        """
        grams, texts = self._padded._ngrams(3)
        has_word = grams >> (2 * _BITS) != _NO_WORD
        columns, different = pd.factorize(grams[has_word])
        texts = texts[has_word]
        if not len(texts):
            return 0
        shape = (self.num_texts, len(different))
        has = sparse.csr_array((np.ones(len(texts), np.float32), (texts, columns)), shape)
        has.data[:] = 1  # a trigram that a text repeats counts once
        shared = (has @ has.T).tocoo()
        sizes = has.sum(axis=1)
        union = sizes[shared.row] + sizes[shared.col] - shared.data
        is_near = (shared.row != shared.col) & (shared.data >= jaccard * union)
        return len(np.unique(shared.row[is_near]))
