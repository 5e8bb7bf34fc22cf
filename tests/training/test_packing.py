"""Which worker computes which examples: all of them, once, within the capacity."""

from __future__ import annotations

import random

import pytest

from humpback_ray.training.packing import plan_step


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("num_workers", [1, 2, 3, 8])
@pytest.mark.parametrize("capacity", [100, 250, 10_000])
def test_plan_step_places_every_example_once(packed: bool, num_workers: int, capacity: int) -> None:
    lengths = random.Random(num_workers).choices(range(2, 101), k=32)
    plan = plan_step(lengths, num_workers, capacity, packed=packed)
    assert len(plan) == num_workers
    assert len({len(micro_batches) for micro_batches in plan}) == 1, "ZeRO needs equal numbers"
    parts = [part for micro_batches in plan for part in micro_batches]
    assert sorted(place for part in parts for place in part) == list(range(32))
    for part in parts:
        own = [lengths[place] for place in part]
        assert (sum(own) if packed else len(own) * max(own, default=0)) <= capacity
    assert len(plan[0]) == 1 or capacity < 10_000
    if len(parts) <= 32 and 32 % num_workers == 0:
        assert all(parts), "nobody waits"


def test_plan_step_balances_packed_work() -> None:
    lengths = random.Random(0).choices(range(50, 2000), k=32)
    plan = plan_step(lengths, 4, 4096, packed=True)
    loads = [sum(lengths[place] for part in parts for place in part) for parts in plan]
    assert max(loads) < 1.1 * min(loads)
    assert len(plan[0]) == -(-sum(lengths) // (4 * 4096))


def test_plan_step_with_padding_groups_like_lengths() -> None:
    plan = plan_step([9, 1, 8, 2, 9, 1, 8, 2], 2, 18, packed=False)
    assert sorted(sorted(part) for parts in plan for part in parts) == [
        [0, 4], [1, 5], [2, 6], [3, 7],
    ]  # fmt: skip


def test_plan_step_with_fewer_examples_than_workers_leaves_empty_batches() -> None:
    plan = plan_step([5, 4, 3], 4, 10, packed=True)
    assert sorted(plan) == [[[]], [[0]], [[1]], [[2]]]


def test_plan_step_puts_an_example_above_capacity_alone() -> None:
    assert plan_step([20, 3], 1, 10, packed=True) == [[[0], [1]]]
