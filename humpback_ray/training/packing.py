"""Division of a step's examples among training workers and their forward passes.

Pure arithmetic over lengths. The step's examples are given, and the loss is the mean over all their
completion tokens, so the division moves work and never changes a result.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from itertools import count, pairwise


def plan_step(
    lengths: Sequence[int], num_workers: int, capacity: int, *, packed: bool
) -> list[list[list[int]]]:
    """The micro-batches of each worker, as places in the step's batch: `plan[worker][micro_step]`.

    All workers get the same number of micro-batches, because ZeRO needs that, and about the same
    number of tokens in each micro-step. The number of micro-steps is the smallest that `capacity`
    allows. A micro-batch is empty only if the batch has fewer examples than micro-batches.

    Args:
        lengths: tokens of each example of the batch.
        num_workers: workers that share the batch.
        capacity: tokens of one forward pass, padding included; a single example may exceed it.
        packed: examples of a micro-batch stand one after the other in one row; otherwise each
            takes one row, padded to the longest.
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
        # Snake order, so that no worker always gets the largest part.
        for worker, part in zip(plan if micro_step % 2 == 0 else reversed(plan), row, strict=True):
            worker.append(part)
    return plan


def _size(part: Sequence[int], lengths: Sequence[int], packed: bool) -> int:
    """Tokens of a forward pass over these examples."""
    part_lengths = [lengths[place] for place in part]
    return sum(part_lengths) if packed else len(part_lengths) * max(part_lengths, default=0)


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
