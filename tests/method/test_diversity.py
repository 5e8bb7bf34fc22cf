"""Distinct n-grams and near-duplicates, against counts by hand and by plain sets."""

from __future__ import annotations

import random

import pytest

from humpback_ray.method.diversity import NEAR_DUPLICATE_JACCARD, Words


def trigrams(text: str) -> set[tuple[str, ...]]:
    words = [*text.casefold().split(), "", ""]
    return {tuple(words[i : i + 3]) for i in range(len(words) - 2)}


def near(texts: list[str]) -> int:
    """Texts like another one, by every pair of sets."""
    sets = [trigrams(text) for text in texts]
    return sum(
        any(
            i != j and one and len(one & other) >= NEAR_DUPLICATE_JACCARD * len(one | other)
            for j, other in enumerate(sets)
        )
        for i, one in enumerate(sets)
    )


def test_distinct_counts_ngrams_within_texts_only():
    words = Words.of(["a b a b", "B a"])
    assert words.distinct(1) == pytest.approx(2 / 6)
    # ab ba ab | ba: "b b" across the border of two texts is none.
    assert words.distinct(2) == pytest.approx(2 / 4)
    assert words.distinct(3) == pytest.approx(2 / 2)


@pytest.mark.parametrize("texts", [[], [""], ["?!", "..."]])
def test_texts_without_words_have_no_share_and_no_duplicate(texts):
    words = Words.of(texts)
    assert (words.num_texts, words.distinct(1), words.distinct(3)) == (len(texts), None, None)
    assert words.near_duplicates() == 0


def test_short_equal_texts_are_near_duplicates_and_different_ones_are_not():
    assert Words.of(["Hello!", "hello", "Hi", "Hello there", "", ""]).near_duplicates() == 2


def test_near_duplicates_are_those_of_every_pair_of_sets():
    draw = random.Random(0)
    texts = [" ".join(draw.choices("abcdefgh", k=draw.randint(1, 30))) for _ in range(60)]
    for text in texts[:40]:
        words = text.split()
        words[draw.randrange(len(words))] = draw.choice("xyz")
        texts.append(" ".join(words))
    found = Words.of(texts).near_duplicates()
    assert 10 < near(texts) < 100
    assert found == near(texts)


def test_trigram_that_a_text_repeats_counts_once():
    # {aaa, aa-, a--} and {aaa, aa-, a--}: equal sets, though one text is longer.
    assert Words.of(["a a a a a a", "a a a"]).near_duplicates() == 2
