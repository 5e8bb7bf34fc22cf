"""Prints the page faults of four rounds of tensors, each freed before the next.

`python -m tests.support.tensor_faults`. As in Ray Train, a second thread computes. As in a
training, a younger tensor lives on: glibc gives back what is free at the end of its heap.
"""

from __future__ import annotations

import resource
import threading

import torch

NUM_ROUNDS = 4
MEBIBYTES = (16, 32, 4, 48, 8)  # of the tensors of a round
NUM_PAGES = NUM_ROUNDS * sum(MEBIBYTES) * 2**20 // 4096


def faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def allocate() -> list[torch.Tensor]:
    return [torch.ones(size * 2**18) for size in MEBIBYTES]


def compute() -> None:
    first = allocate()
    younger = torch.ones(2**20)
    del first
    before = faults()
    for _ in range(NUM_ROUNDS):
        allocate()
    print(faults() - before)
    assert younger.sum() == len(younger)


if __name__ == "__main__":
    thread = threading.Thread(target=compute)
    thread.start()
    thread.join()
