"""Exact and near duplicates among segments, by MinHash signatures of word n-grams."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from functools import lru_cache
from typing import TypeVar

import numpy as np
from datasketch import LeanMinHash, MinHash, MinHashLSH

from humpback_ray.method.filters import normalise
from humpback_ray.rows import SegmentOutcome

Key = TypeVar("Key", bound=Hashable)

_SEED = 1  # of the permutations; fixed, so that signatures of different runs are comparable
_SCHEME = "affine32"  # datasketch's permutation scheme, 4 bytes per permutation


def signature(text: str, num_permutations: int, ngram: int) -> bytes:
    """The MinHash of the word n-grams of the normalised text: 4 bytes per permutation.

    A text of fewer than `ngram` words is one n-gram.
    """
    words = normalise(text).split()
    num_ngrams = max(1, len(words) - ngram + 1)
    ngrams = {" ".join(words[i : i + ngram]) for i in range(num_ngrams)}
    minhash = _empty_minhash(num_permutations).copy()
    minhash.update_batch([gram.encode("utf-8", "surrogatepass") for gram in sorted(ngrams)])
    return minhash.hashvalues.astype("<u4").tobytes()


def find_duplicates(
    rows: Iterable[tuple[Key, str, bytes]], threshold: float, num_permutations: int
) -> dict[Key, SegmentOutcome]:
    """The outcome of every row, in the order given: KEPT, EXACT_DUPLICATE or NEAR_DUPLICATE.

    Args:
        rows: (key, segment_id, signature); the first of several duplicates is kept.
        threshold: least estimated Jaccard index of a near-duplicate and a kept row.
        num_permutations: of the signatures.

    A row that repeats an earlier segment_id is an exact duplicate, even if the earlier row is a
    near-duplicate. Only kept rows have near-duplicates, so a chain of small changes does not drop
    all its rows. Keys are unique.

    Raises:
        ValueError: fewer than 2 permutations, or a signature of another number of them.
    """
    index = MinHashLSH(
        threshold=min(threshold, _HIGHEST_INDEX_THRESHOLD),
        num_perm=num_permutations,
        weights=_INDEX_WEIGHTS,
    )
    kept: list[LeanMinHash] = []
    seen: set[str] = set()
    outcomes: dict[Key, SegmentOutcome] = {}
    for key, identity, signature_bytes in rows:
        assert key not in outcomes, f"key {key!r} appears twice"
        minhash = _minhash_of(signature_bytes)
        if identity in seen:
            outcomes[key] = SegmentOutcome.EXACT_DUPLICATE
        elif any(kept[i].jaccard(minhash) >= threshold for i in index.query(minhash)):
            outcomes[key] = SegmentOutcome.NEAR_DUPLICATE
        else:
            outcomes[key] = SegmentOutcome.KEPT
            index.insert(len(kept), minhash, check_duplication=False)
            kept.append(minhash)
        seen.add(identity)
    return outcomes


# The index only proposes candidates, so a missed candidate costs more than a superfluous one. At a
# threshold of 0.8 and 128 permutations, it finds pairs with Jaccard 0.8 with probability 0.87, and
# pairs with 0.9 with probability 0.999. datasketch has no such index for thresholds near 1.
_INDEX_WEIGHTS = (0.1, 0.9)
_HIGHEST_INDEX_THRESHOLD = 0.9


@lru_cache(maxsize=1)
def _empty_minhash(num_permutations: int) -> MinHash:
    return MinHash(num_perm=num_permutations, seed=_SEED, scheme=_SCHEME)


def _minhash_of(signature_bytes: bytes) -> LeanMinHash:
    values = np.frombuffer(signature_bytes, dtype="<u4")
    return LeanMinHash(seed=_SEED, hashvalues=values, scheme=_SCHEME)
