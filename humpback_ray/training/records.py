"""The figures of one optimizer step, as rank 0 posts them and the driver shows them.

Standard library only: the mailbox's process imports nothing heavy to hold them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class StepSpeed:
    """The times and rates of one step; None stands for a device whose peak is unknown."""

    seconds: float
    forward_seconds: float  # on a GPU the launch time only, as for the next two
    backward_seconds: float
    optimizer_seconds: float
    tokens_per_second: float  # of all devices together, prompts included
    output_tokens_per_second: float  # of all devices together, only tokens that carry loss
    tokens_per_second_per_device: float
    peak_memory_gib: float  # of rank 0
    mfu: float | None  # the model's flops over `peak_tflops`
    peak_tflops: float | None  # of one device


@dataclass(frozen=True, slots=True)
class StepRecord:
    """The figures of one step; a step that a restart repeats has the same ones but for times."""

    step: int  # from 1
    num_steps: int
    loss: float  # nats per target token of the global batch
    learning_rate: float
    gradient_norm: float  # before clipping
    epoch: float  # passes over the examples so far
    num_workers: int
    num_micro_batches: int  # of each worker
    checkpoint_seconds: float  # of the checkpoint before this step, mostly 0
    speed: StepSpeed

    def as_dict(self) -> dict[str, float]:
        """All known figures under their own names, those of `speed` beside the others."""
        figures = asdict(self)
        figures |= figures.pop("speed")
        return {name: value for name, value in figures.items() if value is not None}
