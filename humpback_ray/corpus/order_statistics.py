"""The n-th smallest of any number of keys, in memory that does not grow with their number.

A key is a row of unsigned 64-bit words, compared word by word. Each pass over the keys counts the
next 16 bits of those that may still be the one, until few are left to sort.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

MAX_SORTED = 2**20  # words that are sorted in memory, 8 MiB
_DIGIT_BITS = 16
_DIGITS_PER_WORD = 64 // _DIGIT_BITS
_SIGN = np.uint64(2**63)


def nth_smallest(keys: Callable[[], Iterable[np.ndarray]], n: int) -> np.ndarray:
    """The key that has `n` keys before it in their order: uint64 (words,).

    Args:
        keys: gives all keys anew on each call, as arrays uint64 (keys, words).
        n: below the number of keys.
    """
    prefix: list[int] = []  # digits of the key that are known
    while True:
        left: list[np.ndarray] = []
        num_left, counts = 0, np.zeros(2**_DIGIT_BITS, np.int64)
        for part in keys():
            part = part[_begins_with(part, prefix)]
            num_left += part.size
            if num_left <= MAX_SORTED:
                left.append(part)
            else:
                left.clear()
            counts += np.bincount(_digit(part, len(prefix)), minlength=len(counts))
        num_words = part.shape[1]
        is_whole = len(prefix) + 1 == num_words * _DIGITS_PER_WORD
        if num_left <= MAX_SORTED:
            found = np.concatenate(left)
            assert n < len(found), f"{n} keys before the wanted one, of {len(found)}"
            return np.asarray(found[np.lexsort(found.T[::-1])[n]])
        upto = np.cumsum(counts)
        digit = int(np.searchsorted(upto, n, side="right"))
        n -= int(upto[digit - 1]) if digit else 0
        prefix.append(digit)
        if is_whole:
            return _words(prefix)


def _digit(keys: np.ndarray, number: int) -> np.ndarray:
    word, place = divmod(number, _DIGITS_PER_WORD)
    shift = np.uint64(64 - _DIGIT_BITS * (place + 1))
    return ((keys[:, word] >> shift) & np.uint64(2**_DIGIT_BITS - 1)).astype(np.int64)


def _begins_with(keys: np.ndarray, prefix: Sequence[int]) -> np.ndarray:
    begins = np.ones(len(keys), bool)
    for number, digit in enumerate(prefix):
        begins &= _digit(keys, number) == digit
    return begins


def _words(digits: Sequence[int]) -> np.ndarray:
    """All digits of a key as its words."""
    parts = np.array(digits, np.uint64).reshape(-1, _DIGITS_PER_WORD)
    shifts = np.arange(_DIGITS_PER_WORD - 1, -1, -1, dtype=np.uint64) * np.uint64(_DIGIT_BITS)
    return np.asarray((parts << shifts).sum(axis=1, dtype=np.uint64))


# --- keys -----------------------------------------------------------------------------------------


def of_floats(values: np.ndarray) -> np.ndarray:
    """uint64 keys in the order of float64 values without NaN, by the bits of IEEE 754."""
    bits = (values.astype(np.float64) + 0.0).view(np.uint64)  # -0 becomes 0
    return np.where(bits & _SIGN, ~bits, bits | _SIGN)


def to_floats(keys: np.ndarray) -> np.ndarray:
    """The float64 values behind keys of `of_floats`."""
    return np.where(keys & _SIGN, keys ^ _SIGN, ~keys).view(np.float64)


def of_texts(texts: Sequence[str], num_words: int) -> np.ndarray:
    """uint64 (texts, num_words) in the order of texts without NULs of at most 8 bytes a word."""
    encoded = np.array([text.encode() for text in texts], dtype=f"S{8 * num_words}")
    return encoded.view(">u8").reshape(len(texts), num_words).astype(np.uint64)


def to_text(key: np.ndarray) -> str:
    """The text behind one key of `of_texts`."""
    return key.astype(">u8").tobytes().rstrip(b"\0").decode()


def quantile(keys: Callable[[], Iterable[np.ndarray]], num_keys: int, share: float) -> float:
    """A quantile of `num_keys` floats, interpolated between its two neighbours.

    Args:
        keys: those of the floats, as `nth_smallest` takes them.
    """
    place = share * (num_keys - 1)
    below = int(place)
    low, high = (
        float(to_floats(nth_smallest(keys, n))[0]) for n in (below, min(below + 1, num_keys - 1))
    )
    part = place - below
    return low if part == 0 else part * high + (1 - part) * low
