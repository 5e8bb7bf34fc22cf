"""Which of a step's examples each training worker computes, and in which forward passes.

Pure arithmetic over lengths. The step's examples are given: whatever is decided here, the loss is
the mean over all their completion tokens, so placement moves work and never changes a result.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from itertools import count, pairwise


def plan_step(
    lengths: Sequence[int], num_workers: int, capacity: int, *, packed: bool
) -> list[list[list[int]]]:
    """The micro-batches of each worker, as places in the step's batch: `plan[worker][micro_step]`.

    All workers get the same number of micro-batches, which ZeRO needs, and in one micro-step about
    the same number of tokens. There are as few micro-steps as `capacity` allows. A micro-batch is
    empty only where there are fewer examples than micro-batches.

    Args:
        lengths: tokens of each example of the batch.
        num_workers: among whom the batch is divided.
        capacity: tokens of one forward pass, padding included; a single example may exceed it.
        packed: examples of a micro-batch stand one after the other in one row; otherwise each has
            a row of its own, padded to the longest.
    """
    divide = _packed_parts if packed else _padded_parts
    for num_micro_steps in count(1):
        parts = divide(lengths, num_workers * num_micro_steps)
        if all(len(part) <= 1 or _size(part, lengths, packed) <= capacity for part in parts):
            break
    parts.sort(key=lambda part: -_size(part, lengths, packed))
    plan: list[list[list[int]]] = [[] for _ in range(num_workers)]
    for micro_step in range(num_micro_steps):
        row = parts[micro_step * num_workers : (micro_step + 1) * num_workers]
        # There and back, so that nobody gets the largest part of every micro-step.
        for worker, part in zip(plan if micro_step % 2 == 0 else reversed(plan), row, strict=True):
            worker.append(part)
    return plan


def _size(part: Sequence[int], lengths: Sequence[int], packed: bool) -> int:
    """Tokens of a forward pass over these examples."""
    own = [lengths[place] for place in part]
    return sum(own) if packed else len(own) * max(own, default=0)


def _longest_first(lengths: Sequence[int]) -> Iterator[int]:
    return iter(sorted(range(len(lengths)), key=lambda place: (-lengths[place], place)))


def _packed_parts(lengths: Sequence[int], num_parts: int) -> list[list[int]]:
    """Longest first, each into the part that has the fewest tokens so far."""
    parts: list[list[int]] = [[] for _ in range(num_parts)]
    loads = [(0, number) for number in range(num_parts)]
    for place in _longest_first(lengths):
        load, number = heapq.heappop(loads)
        parts[number].append(place)
        heapq.heappush(loads, (load + lengths[place], number))
    return parts


def _padded_parts(lengths: Sequence[int], num_parts: int) -> list[list[int]]:
    """Examples of similar length together, in equal numbers."""
    order = list(_longest_first(lengths))
    bounds = [len(order) * number // num_parts for number in range(num_parts + 1)]
    return [order[start:end] for start, end in pairwise(bounds)]
