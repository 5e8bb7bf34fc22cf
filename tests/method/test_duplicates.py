"""Signatures, candidates and decisions about near-duplicates, without files."""

import random

import numpy as np
import pytest

from humpback_ray.config.duplicates import InstructionDuplicateSettings, NearDuplicateSettings
from humpback_ray.method.duplicates import (
    Decision,
    band_keys,
    candidates,
    decide,
    jaccard,
    shingles,
    signatures,
    sketches,
)

SETTINGS = NearDuplicateSettings()


def words(seed, count=300):
    generator = random.Random(seed)
    return [f"word{generator.randrange(2000)}" for _ in range(count)]


def with_changes(text, number, seed):
    """The words with so many of them replaced, evenly spread."""
    text = list(text)
    for change in range(number):
        text[change * len(text) // number] = f"new{seed}-{change}"
    return text


def grams(text, ngram=5):
    return frozenset(shingles(text, ngram))


def pairs_of(texts, settings=SETTINGS):
    """Candidates among texts, numbered in their order."""
    signed = signatures(texts, settings)
    keys = band_keys(signed, settings.num_bands)
    rows = np.repeat(np.arange(len(texts), dtype=np.uint64), settings.num_bands)
    sketched = np.repeat(sketches(signed), settings.num_bands, axis=0)
    return [tuple(pair) for pair in candidates(keys.ravel(), rows, sketched, settings).tolist()]


def test_signature_ignores_case_and_space_and_the_other_texts_of_a_call():
    texts = [" ".join(words(seed)) for seed in range(250)]
    signed = signatures(texts, SETTINGS)
    assert signed.shape == (250, 126)
    assert signed.dtype == np.uint32
    assert (signatures([texts[249].upper() + "\n"], SETTINGS) == signed[249]).all()
    assert signatures([], SETTINGS).shape == (0, 126)
    assert band_keys(signatures([], SETTINGS), 18).shape == (0, 18)


def test_signature_of_another_algorithm_would_have_other_values():
    # Stored identities stay true: rensa's algorithm, the seed and the n-grams are fixed.
    assert signatures(["a b c d e f"], SETTINGS)[0, :3].tolist() == [
        3376583085, 4069946781, 3539749984,
    ]  # fmt: skip


def test_short_texts_are_one_ngram_each():
    assert shingles("Two  words", 5) == ["two words"]
    assert shingles("", 5) == [""]
    assert shingles("a b c d e f", 5) == ["a b c d e", "b c d e f"]
    assert len({signatures([text], SETTINGS).tobytes() for text in ("", "one", "one two")}) == 3


def test_jaccard_is_exact():
    one, other = grams("a b c d e f g"), grams("a b c d e f h")
    assert jaccard(one, other) == 2 / 4
    assert jaccard(one, one) == 1.0


def test_bands_and_sketch_follow_the_jaccard_index():
    found, estimates, indices = 0, [], []
    for seed in range(200):
        text = words(seed)
        changed = with_changes(text, 6, seed)  # Jaccard about 0.82
        texts = [" ".join(text), " ".join(changed)]
        indices.append(jaccard(*map(grams, texts)))
        found += pairs_of(texts) == [(0, 1)]
        one, other = sketches(signatures(texts, SETTINGS))
        estimates.append(1 - 2 * np.bitwise_count(one ^ other).sum() / 126)
    assert 0.80 < np.mean(indices) < 0.84
    assert found >= 194  # 99% are expected
    assert abs(np.mean(estimates) - np.mean(indices)) < 0.02
    assert np.std(estimates) < 0.08


def test_different_texts_are_no_candidates():
    assert pairs_of([" ".join(words(seed)) for seed in range(300)]) == []


def test_a_pair_of_many_buckets_is_one_candidate():
    text = words(0)
    changed = with_changes(text, 1, 0)
    assert pairs_of([" ".join(text), " ".join(changed), " ".join(words(1))]) == [(0, 1)]


def bucket(seeds, copies):
    """A bucket that mixes copies of different texts; numbers, and sketches of the rows."""
    texts = [" ".join(words(seed)) for seed in seeds]
    sketched = np.tile(sketches(signatures(texts, SETTINGS)), (copies, 1))
    rows = np.arange(len(sketched), dtype=np.uint64)
    return np.zeros(len(sketched), np.uint64), rows, sketched


def test_large_bucket_has_a_representative_for_each_kind_of_text():
    pairs = candidates(*bucket(range(5), 40), SETTINGS)
    assert len(pairs) == 195  # every row but the first of its kind, once
    assert {(earlier % 5, later % 5) for earlier, later in pairs.tolist()} == {
        (kind, kind) for kind in range(5)
    }
    assert set(pairs[:, 0].tolist()) == set(range(5))


def test_large_bucket_of_different_texts_has_bounded_candidates():
    keys, rows, sketched = bucket([0], 500)
    sketched = np.random.default_rng(0).integers(0, 2**62, sketched.shape, np.uint64)
    loose = NearDuplicateSettings(jaccard=0.15, values_per_band=1)  # everything may be near
    assert len(candidates(keys, rows, sketched, loose)) <= 32 * 500


def test_candidates_do_not_depend_on_the_order_of_rows():
    keys, rows, sketched = bucket(range(3), 9)
    keys[::4] = 7
    order = np.random.default_rng(1).permutation(len(rows))
    one = candidates(keys, rows, sketched, SETTINGS)
    other = candidates(keys[order], rows[order], sketched[order], SETTINGS)
    assert (one == other).all()
    assert len(one)


def test_chain_of_small_changes_loses_only_rows_near_a_kept_one():
    chain = [(row, [row - 1]) for row in range(1, 6)]
    decided = decide(chain, {0: Decision.KEPT})
    kept = [row for row, decision in decided.items() if decision is Decision.KEPT]
    assert kept == [2, 4]


def test_row_waits_for_an_earlier_row_that_is_not_decided():
    decided = decide([(5, [1]), (6, [1, 2]), (7, [5])], {2: Decision.KEPT})
    assert decided == {5: Decision.UNDECIDED, 6: Decision.DROPPED, 7: Decision.UNDECIDED}
    assert decide([(5, [1])], {1: Decision.DROPPED}) == {5: Decision.KEPT}


@pytest.mark.parametrize("settings", [SETTINGS, InstructionDuplicateSettings()])
def test_default_bands_find_nearly_all_pairs_at_the_threshold(settings):
    found = 1 - (1 - settings.jaccard**settings.values_per_band) ** settings.num_bands
    assert found > 0.98


def test_bands_that_miss_pairs_at_the_threshold_are_refused():
    with pytest.raises(ValueError, match=r"18 bands of 7 values find 13% of the pairs"):
        NearDuplicateSettings(jaccard=0.5)


def test_short_instructions_with_a_changed_word_are_candidates():
    settings = InstructionDuplicateSettings()
    one = "Explain to a child in simple words why the sky is blue on a clear day in summer."
    other = one.replace("summer", "winter")
    assert jaccard(grams(one, 2), grams(other, 2)) > settings.jaccard
    assert pairs_of([one, other, "How do I boil an egg?"], settings) == [(0, 1)]
