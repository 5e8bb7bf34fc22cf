"""Near-duplicates: MinHash signatures propose pairs, the pairs' word n-grams decide.

A signature is cut into bands. Rows that agree in all values of one band share a *bucket*, which
makes them candidates. A row is dropped only because of a kept row whose n-grams have a high enough
Jaccard index with its own, counted exactly. Rows are numbered in the order of the hashes of their
texts, and of two near-duplicates the first one stays, so no result depends on where a text lies.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np
from rensa import RMinHash

from humpback_ray.errors import UserError
from humpback_ray.method.filters import normalise

if TYPE_CHECKING:
    from humpback_ray.config.duplicates import NearDuplicateSettings

_SEED = 1  # of the hash functions; fixed, so that signatures of different runs are comparable
_ALGORITHM = 2  # rensa's version of R-MinHash, which `NearDuplicateSettings.signature` names
# rensa starts a thread for each core from 256 texts on, and tasks share the cores already.
_TEXTS_PER_CALL = 200

# The estimate from the sketch of 126 values has a standard error of 0.053 at a Jaccard index of
# 0.8. A pair that is estimated this far below the threshold is not compared.
_SLACK = 0.15
_SMALL_BUCKET = 8  # rows; every pair is a candidate
# Bounds the candidates of a bucket of n rows by 32 n: pages that share most of their text with
# a template also share buckets.
_MAX_REPRESENTATIVES = 32


def shingles(text: str, ngram: int) -> list[str]:
    """The word n-grams of the normalised text; a text of fewer words is one n-gram."""
    words = normalise(text).split()
    if len(words) < ngram:
        return [" ".join(words)]
    return [*map(" ".join, zip(*(words[first:] for first in range(ngram)), strict=False))]


def jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    """The exact Jaccard index of two sets of n-grams."""
    num_shared = len(one & other)
    return num_shared / (len(one) + len(other) - num_shared)


# --- signatures -----------------------------------------------------------------------------------


def signatures(texts: Sequence[str], settings: NearDuplicateSettings) -> np.ndarray:
    """The R-MinHash of each text's n-grams: uint32 (texts, bands x values of a band).

    Raises:
        UserError: the installed rensa has another algorithm.
    """
    if RMinHash.ALGORITHM_VERSION != _ALGORITHM:
        raise UserError(
            f"the installed rensa has version {RMinHash.ALGORITHM_VERSION} of R-MinHash, and "
            f"near_duplicates.signature is {settings.signature}: install rensa 0.5"
        )
    num_values = settings.num_bands * settings.values_per_band
    parts = [np.empty((0, num_values), np.uint32)]
    for first in range(0, len(texts), _TEXTS_PER_CALL):
        grams = [shingles(text, settings.ngram) for text in texts[first : first + _TEXTS_PER_CALL]]
        matrix = RMinHash.digest_matrix_from_token_sets(grams, num_values, _SEED)
        parts.append(np.array(matrix.to_rows(), np.uint32))
    return np.concatenate(parts)


def band_keys(signed: np.ndarray, num_bands: int) -> np.ndarray:
    """The key of each band of each signature: uint64 (texts, bands), different between bands."""
    shape = (len(signed), num_bands, signed.shape[1] // num_bands)  # texts, bands, values
    values = signed.reshape(shape).astype(np.uint64)
    keys = np.broadcast_to(np.arange(num_bands, dtype=np.uint64), values.shape[:2])
    for place in range(values.shape[2]):
        keys = _mixed(keys ^ values[:, :, place])
    return keys


def sketches(signed: np.ndarray) -> np.ndarray:
    """One bit of each value of the signatures: uint64 (texts, words of 64 bits).

    Two texts agree in a bit with the probability (1 + Jaccard index) / 2.
    """
    bits = (_mixed(signed.astype(np.uint64)) >> np.uint64(63)).astype(np.uint8)
    num_words = -(-bits.shape[1] // 64)
    padded = np.zeros((len(bits), num_words * 64), np.uint8)
    padded[:, : bits.shape[1]] = bits
    return np.packbits(padded, axis=1).view("<u8")


def _mixed(values: np.ndarray) -> np.ndarray:
    """The finalizer of SplitMix64 (Steele et al., 2014): every bit depends on every other one."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


# --- candidates -----------------------------------------------------------------------------------


def candidates(
    keys: np.ndarray, rows: np.ndarray, sketched: np.ndarray, settings: NearDuplicateSettings
) -> np.ndarray:
    """Pairs to compare: uint64 (pairs, 2), each (earlier row, later row) once, sorted.

    Args:
        keys: uint64 (n,), the keys of bands; equal ones make a bucket.
        rows: uint64 (n,), the rows' numbers.
        sketched: uint64 (n, words), the rows' sketches.
    """
    order = np.lexsort((rows, keys))
    keys, rows, sketched = keys[order], rows[order], sketched[order]
    num_values = settings.num_bands * settings.values_per_band
    least = settings.jaccard - _SLACK
    starts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]]) if len(keys) else np.empty(0, int)
    sizes = np.diff(np.r_[starts, len(keys)])
    pairs = [np.empty((0, 2), np.uint64)]
    size_of = np.repeat(sizes, sizes)
    place_of = np.arange(len(keys)) - np.repeat(starts, sizes)
    for distance in range(1, _SMALL_BUCKET):
        is_pair = (size_of <= _SMALL_BUCKET) & (place_of + distance < size_of)
        first = np.flatnonzero(is_pair)
        first = first[_estimated(sketched[first], sketched[first + distance], num_values) >= least]
        pairs.append(np.stack([rows[first], rows[first + distance]], axis=1))
    for start, size in zip(*(a[sizes > _SMALL_BUCKET] for a in (starts, sizes)), strict=True):
        bucket = slice(start, start + size)
        pairs += _of_large_bucket(rows[bucket], sketched[bucket], num_values, settings.jaccard)
    return np.unique(np.concatenate(pairs), axis=0)


def _of_large_bucket(
    rows: np.ndarray, sketched: np.ndarray, num_values: int, threshold: float
) -> Iterator[np.ndarray]:
    """Pairs of a representative and each row that may be near it.

    The first row represents the bucket. The first of the rows that are not near it is one more
    representative, and so on.
    """
    for _ in range(_MAX_REPRESENTATIVES):
        estimated = _estimated(sketched[:1], sketched[1:], num_values)
        near = rows[1:][estimated >= threshold - _SLACK]
        yield np.stack([np.broadcast_to(rows[:1], near.shape), near], axis=1)
        others = estimated < threshold
        rows, sketched = rows[1:][others], sketched[1:][others]
        if len(rows) < 2:
            return


def _estimated(one: np.ndarray, other: np.ndarray, num_values: int) -> np.ndarray:
    """Estimated Jaccard indices of the rows of two arrays of sketches."""
    num_different = np.bitwise_count(one ^ other).sum(axis=1, dtype=np.int64)
    return 1 - 2 * num_different / num_values


# --- decisions ------------------------------------------------------------------------------------


class Decision(IntEnum):
    """The state of a row while duplicates are decided."""

    UNDECIDED = 0
    KEPT = 1
    DROPPED = 2


def decide(
    near: Iterable[tuple[int, Sequence[int]]], known: Mapping[int, Decision]
) -> dict[int, Decision]:
    """Decisions on rows that are near earlier rows, as far as `known` allows.

    A row is kept if every earlier row near it is dropped, and dropped if one of them is kept. So
    no row is dropped because of a dropped one, however long a chain of small changes is.

    Args:
        near: rows in ascending order, each with the earlier rows that it is near.
        known: decisions on other rows; a row without one is undecided.
    """
    decided: dict[int, Decision] = {}
    for row, earlier in near:
        states = {decided.get(other, known.get(other, Decision.UNDECIDED)) for other in earlier}
        if Decision.KEPT in states:
            decided[row] = Decision.DROPPED
        else:
            is_open = Decision.UNDECIDED in states
            decided[row] = Decision.UNDECIDED if is_open else Decision.KEPT
    return decided
