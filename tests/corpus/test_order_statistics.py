"""The n-th smallest key, against sorting."""

from __future__ import annotations

import random

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from humpback_ray.corpus import order_statistics
from humpback_ray.corpus.order_statistics import (
    nth_smallest,
    of_floats,
    of_texts,
    quantile,
    to_floats,
    to_text,
)

# Few of them differ, many share their first digits, and some differ in the last bit alone.
CLUSTERED = [0, 1, 2**16, 2**16 + 1, 2**48, 2**63, 2**64 - 2, 2**64 - 1]


@pytest.fixture(autouse=True)
def _little_memory(monkeypatch):
    monkeypatch.setattr(order_statistics, "MAX_SORTED", 40)


def parts_of(keys: np.ndarray, size: int = 37):
    return lambda: (keys[first : first + size] for first in range(0, len(keys), size))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("num_words", [1, 3])
def test_nth_smallest_is_that_of_the_sorted_keys_with_ties(seed, num_words):
    generator = random.Random(seed)
    pool = CLUSTERED if seed % 2 else [generator.getrandbits(64) for _ in range(200)]
    rows = [tuple(generator.choice(pool) for _ in range(num_words)) for _ in range(500)]
    keys = np.array(rows, np.uint64).reshape(500, num_words)
    for n in (0, 1, 249, 498, 499):
        assert tuple(nth_smallest(parts_of(keys), n).tolist()) == sorted(rows)[n]


def test_equal_keys_of_more_than_is_sorted_are_found():
    keys = np.full((1000, 2), 2**64 - 1, np.uint64)
    assert nth_smallest(parts_of(keys), 999).tolist() == [2**64 - 1] * 2


def test_keys_of_floats_have_their_order_and_lead_back():
    values = np.array([-np.inf, -2.5, -1e-300, 0.0, 5e-324, 1.0, 4.5, 4.5000001, np.inf])
    keys = of_floats(values)
    assert (keys[1:] > keys[:-1]).all()
    assert (to_floats(keys) == values).all()
    assert of_floats(np.array([-0.0])) == of_floats(np.array([0.0]))


def test_keys_of_texts_have_their_order_and_lead_back():
    texts = sorted(["a", "a-1", "a-10", "a-2", "é", "segment-00000001", "z" * 24, ""])
    keys = of_texts(texts, 3)
    assert [tuple(key) for key in keys.tolist()] == sorted(tuple(key) for key in keys.tolist())
    assert [to_text(key) for key in keys] == texts


@pytest.mark.parametrize("share", [0, 0.05, 0.5, 0.9, 1])
@pytest.mark.parametrize("number", [1, 2, 99, 1000])
def test_quantiles_are_arrows(share, number):
    values = np.random.default_rng(number).random(number) ** 9
    keys = of_floats(values).reshape(-1, 1)
    expected = pc.quantile(pa.array(values), share)[0].as_py()
    assert quantile(parts_of(keys), number, share) == pytest.approx(expected, rel=1e-12)
