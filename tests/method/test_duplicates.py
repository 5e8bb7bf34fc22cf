"""Exact and near duplicates."""

import random

import pytest

from humpback_ray.method.duplicates import find_duplicates, signature
from humpback_ray.method.filters import segment_id
from humpback_ray.rows import SegmentOutcome

KEPT, EXACT, NEAR = (
    SegmentOutcome.KEPT,
    SegmentOutcome.EXACT_DUPLICATE,
    SegmentOutcome.NEAR_DUPLICATE,
)


def words(seed, count=300):
    generator = random.Random(seed)
    return [f"word{generator.randrange(2000)}" for _ in range(count)]


def outcomes(texts, threshold=0.8, num_permutations=128):
    rows = [
        (key, segment_id(text), signature(text, num_permutations, ngram=5))
        for key, text in enumerate(texts)
    ]
    found = find_duplicates(iter(rows), threshold, num_permutations)
    return [found[key] for key in range(len(texts))]


def test_duplicates_of_an_earlier_text_are_dropped():
    original = words(0)
    near = " ".join([*original[:-3], "another", "end"])
    original = " ".join(original)
    other = " ".join(words(1))
    assert outcomes([original, other, near, original.upper(), near]) == [
        KEPT, KEPT, NEAR, EXACT, EXACT,
    ]  # fmt: skip
    assert outcomes([near, original, other]) == [KEPT, NEAR, KEPT]


def test_many_near_duplicates_are_found_and_no_others():
    texts, expected = [], []
    for seed in range(100):
        original = words(seed)
        changed = [*original[:150], "changed", *original[151:]]  # Jaccard about 0.97
        half = [*original[:150], *words(seed + 1000, 150)]  # Jaccard about 0.33
        texts += [" ".join(text) for text in (original, changed, half)]
        expected += [KEPT, NEAR, KEPT]
    assert outcomes(texts) == expected


def test_near_duplicates_are_compared_with_kept_rows_only():
    # Each step is 0.9 from the one before, but far from the first.
    text = words(0)
    chain = []
    for step in range(8):
        chain.append(" ".join(text))
        text = [*text[:step * 12], *words(step + 50, 12), *text[step * 12 + 12:]]  # fmt: skip
    found = outcomes(chain)
    assert found[0] is KEPT
    assert found[1] is NEAR
    assert KEPT in found[2:]


@pytest.mark.parametrize("threshold", [0.05, 0.5, 0.9, 0.97, 1.0])
def test_exact_duplicates_are_found_at_every_threshold(threshold):
    texts = ["a few words", " ".join(words(0)), " ".join(words(1))]
    assert outcomes([*texts, *texts], threshold) == [KEPT] * 3 + [EXACT] * 3


def test_signature_ignores_case_and_keeps_its_bytes():
    text = " ".join(words(0))
    assert len(signature(text, 64, 5)) == 4 * 64
    assert signature(text, 64, 5) == signature(text.upper() + "\n", 64, 5)
    assert signature("two words", 16, 5) != signature("words two", 16, 5)
    assert len({signature(short, 16, 5) for short in ("", "one", "\ud800")}) == 3
    # Stored signatures stay comparable: the permutations and the byte order are fixed.
    assert signature("a b c", 2, 5).hex() == "5f58b9c1c751f0ba"


def test_repeated_key_fails_an_assertion():
    row = ("key", "id", signature("text", 16, 5))
    with pytest.raises(AssertionError):
        find_duplicates([row, row], 0.8, 16)
