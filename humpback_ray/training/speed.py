"""Times and rates of training steps, and their share of the device's peak."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy
import torch

from humpback_ray.sizing.hardware import GIB, GPUS
from humpback_ray.training.lora import num_parameters
from humpback_ray.training.records import StepSpeed
from humpback_ray.training.task import TrainingJob

MATRIX_SIZE = 1024  # of the product that measures a CPU's peak


class Speed:
    """The clock of one rank's steps."""

    def __init__(self, engine: Any, job: TrainingJob) -> None:
        self._device = engine.device
        config = engine.module.config
        trained, total = num_parameters(engine.module)
        # A third of the products are for gradients of weights, and a frozen weight has none.
        self._flops_per_token = 4 * total + 2 * trained
        self._layer_width = config.num_hidden_layers * config.hidden_size
        dtype = torch.bfloat16 if job.settings.precision == "bf16" else torch.float32
        self._peak = peak_flops(self._device, dtype)
        self._phases: dict[str, float] = {}
        self._began = 0.0

    def begin(self) -> None:
        """Start the clock of a step."""
        self._phases = {}
        self._began = time.perf_counter()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time one phase of a step: forward, backward or optimizer.

        GPUs run asynchronously, so there it is the launch time only.
        """
        began = time.perf_counter()
        yield
        self._phases[name] = self._phases.get(name, 0.0) + time.perf_counter() - began

    def end(self, lengths: numpy.ndarray, num_target_tokens: int, num_workers: int) -> StepSpeed:
        """The figures of a step whose results have just arrived on the host.

        The model's flops in `mfu` are 6 for each parameter and token (4 if it is frozen), and 12
        for each layer, hidden unit and pair of tokens of an example (arXiv 2204.02311, appendix B).
        The peak of a CPU is measured.

        Args:
            lengths: tokens of the step's examples, of all ranks.
            num_target_tokens: those that carry loss.
            num_workers: ranks, one device each.
        """
        seconds = time.perf_counter() - self._began
        num_tokens = int(lengths.sum())
        flops = self._flops_per_token * num_tokens
        flops += 12 * self._layer_width * int((lengths.astype(numpy.int64) ** 2).sum())
        return StepSpeed(
            seconds=seconds,
            forward_seconds=self._phases["forward"],
            backward_seconds=self._phases["backward"],
            optimizer_seconds=self._phases["optimizer"],
            tokens_per_second=num_tokens / seconds,
            output_tokens_per_second=num_target_tokens / seconds,
            tokens_per_second_per_device=num_tokens / seconds / num_workers,
            peak_memory_gib=peak_memory(self._device),
            mfu=flops / seconds / num_workers / self._peak if self._peak else None,
            peak_tflops=self._peak / 1e12 if self._peak else None,
        )


def peak_flops(device: torch.device, dtype: torch.dtype) -> float | None:
    """Peak of one device: a GPU's in bf16 by its data sheet, a CPU's measured by a product."""
    if device.type != "cuda":
        return _measured_flops(dtype)
    # The table says "A100-80", the driver says "NVIDIA A100-SXM4-80GB".
    words = torch.cuda.get_device_name(device).replace("-", " ").split()
    return next(
        (1e12 * gpu.bf16_tflops for n, gpu in GPUS.items() if n.split("-")[0] in words), None
    )


def _measured_flops(dtype: torch.dtype) -> float:
    matrix = torch.ones(MATRIX_SIZE, MATRIX_SIZE, dtype=dtype)
    times = []
    for _ in range(5):
        began = time.perf_counter()
        torch.mm(matrix, matrix)
        times.append(time.perf_counter() - began)
    return 2 * MATRIX_SIZE**3 / min(times)


def peak_memory(device: torch.device) -> float:
    """The most memory that this process has held on its device so far, in GiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
