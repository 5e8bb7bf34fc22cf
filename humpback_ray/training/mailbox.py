"""Where the driver and the workers of a training meet.

A module of its own: the actor's process imports nothing heavy to serve it.
"""

from __future__ import annotations

from typing import Any


class TrainingMailbox:
    """The actor through which the driver and the workers of a training talk."""

    def __init__(self, capacity: int, min_capacity: int) -> None:
        self._capacity, self._min_capacity = capacity, min_capacity
        self._records: list[dict[str, Any]] = []
        self._notices: list[str] = []
        self._must_stop = self._is_out_of_memory = False
        self._refusal = ""

    # --- for the workers ---

    def begin(self, rank: int) -> tuple[int, str]:
        """An attempt begins: tokens of its micro-batches, or why there must be none."""
        if rank == 0 and self._is_out_of_memory:
            self._is_out_of_memory = False
        return self._capacity, self._refusal

    def out_of_memory(self) -> None:
        """This attempt's micro-batches are too large, or its model is."""
        if self._is_out_of_memory:  # another rank has said so
            return
        self._is_out_of_memory = True
        if self._capacity <= self._min_capacity:
            self._refusal = (
                f"a micro-batch of one example of {self._min_capacity} tokens does not fit into "
                "memory: set zero_stage=3, gradient_checkpointing=true or offload_optimizer=cpu of "
                "placement.training, more workers, or a smaller max_length of the training"
            )
            return
        before, self._capacity = self._capacity, max(self._capacity // 2, self._min_capacity)
        self._notices.append(
            f"memory ran out with micro-batches of {before} tokens: they are {self._capacity} from "
            "now on (the result stays the same)"
        )

    def refuse(self, message: str) -> None:
        """No further attempt would do better, and why."""
        self._refusal = message

    def post_step(self, record: dict[str, Any]) -> bool:
        """A step's record; returns whether the driver wants to stop."""
        self._records.append(record)
        return self._must_stop

    # --- for the driver ---

    def stop(self) -> None:
        """Let the workers save a checkpoint and end."""
        self._must_stop = True

    def collect(self) -> tuple[list[dict[str, Any]], list[str]]:
        """Records and notices since the last call, in order."""
        found = self._records, self._notices
        self._records, self._notices = [], []
        return found
