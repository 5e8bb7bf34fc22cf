"""Mailbox between a training's driver and its workers.

Rank 0 posts step records; the driver posts the micro-batch size and the wish to stop. This module
is separate, so that the actor's process imports nothing heavy.
"""

from __future__ import annotations

from humpback_ray.training.records import StepRecord


class TrainingMailbox:
    """The actor that carries messages between the driver and the workers of a training.

    Args:
        capacity: tokens of a micro-batch.
        min_capacity: tokens below which a micro-batch is not halved.
    """

    def __init__(self, capacity: int, min_capacity: int) -> None:
        self._capacity, self._min_capacity = capacity, min_capacity
        self._records: list[StepRecord] = []
        self._notices: list[str] = []
        self._must_stop = self._is_out_of_memory = False
        self._refusal = ""

    # --- for the workers ---

    def begin(self, rank: int) -> tuple[int, str]:
        """Begin an attempt; returns the tokens of a micro-batch, or the reason against it."""
        if rank == 0 and self._is_out_of_memory:
            self._is_out_of_memory = False
        return self._capacity, self._refusal

    def out_of_memory(self) -> None:
        """Halve the micro-batches of the next attempt, or refuse it if they are the smallest."""
        if self._is_out_of_memory:  # another rank of this attempt was first
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
        """Refuse all further attempts, for this reason."""
        self._refusal = message

    def post_step(self, record: StepRecord) -> bool:
        """Store a step's record; returns True if the driver wants the training to stop."""
        self._records.append(record)
        return self._must_stop

    # --- for the driver ---

    def stop(self) -> None:
        """Ask the workers to save a checkpoint and return."""
        self._must_stop = True

    def collect(self) -> tuple[list[StepRecord], list[str]]:
        """Records and notices since the last call, in order."""
        collected = self._records, self._notices
        self._records, self._notices = [], []
        return collected
