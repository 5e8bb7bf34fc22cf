"""How fast a training is, and how much of its device it uses."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy
import torch

from humpback_ray.sizing.hardware import GPUS
from humpback_ray.training.deepspeed_engine import TrainingJob
from humpback_ray.training.lora import num_parameters

MATRIX_SIZE = 1024  # of the product that measures a CPU's peak


class Speed:
    """The clock of one rank's steps."""

    def __init__(self, engine: Any, job: TrainingJob) -> None:
        self._device = engine.device
        config = engine.module.config
        trained, total = num_parameters(engine.module)
        # A frozen weight has no gradient, a third of the products.
        self._flops_per_token = 4 * total + 2 * trained
        self._layer_width = config.num_hidden_layers * config.hidden_size
        dtype = torch.bfloat16 if job.settings.precision == "bf16" else torch.float32
        self._peak = peak_flops(self._device, dtype)
        self._phases: dict[str, float] = {}
        self._began = 0.0

    def begin(self) -> None:
        """A step begins."""
        self._phases = {}
        self._began = time.perf_counter()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """A part of the step; on a GPU, which works behind, only the time to start it."""
        began = time.perf_counter()
        yield
        self._phases[name] = self._phases.get(name, 0.0) + time.perf_counter() - began

    def end(
        self, lengths: numpy.ndarray, num_target_tokens: int, num_workers: int
    ) -> dict[str, Any]:
        """Figures of the step that has just been waited for.

        Args:
            lengths: tokens of the step's examples, of all ranks.
            num_target_tokens: those that carry loss.
            num_workers: ranks, one device each.

        Returns:
            `seconds` and those of each phase; tokens per second of all devices together, with and
            without prompts, and of one; `mfu`, the model's flops (6 for each parameter and token, 4
            where it is frozen, and attention's 12 for each layer, hidden unit and pair of tokens of
            an example, arXiv 2204.02311, appendix B) over `peak_tflops` of a device, which on CPUs
            is measured; `peak_memory_gib` of rank 0.
        """
        seconds = time.perf_counter() - self._began
        num_tokens = int(lengths.sum())
        flops = self._flops_per_token * num_tokens
        flops += 12 * self._layer_width * int((lengths.astype(numpy.int64) ** 2).sum())
        figures = {
            "seconds": seconds,
            **{f"{name}_seconds": value for name, value in self._phases.items()},
            "tokens_per_second": num_tokens / seconds,
            "output_tokens_per_second": num_target_tokens / seconds,
            "tokens_per_second_per_device": num_tokens / seconds / num_workers,
            "peak_memory_gib": peak_memory(self._device),
        }
        if self._peak:
            figures["mfu"] = flops / seconds / num_workers / self._peak
            figures["peak_tflops"] = self._peak / 1e12
        return figures


def peak_flops(device: torch.device, dtype: torch.dtype) -> float | None:
    """Peak of one device: the data sheet's in bf16, or what a CPU reaches in a matrix product."""
    if device.type != "cuda":
        return _measured_flops(dtype)
    # "A100-80" is one of the table's names, "NVIDIA A100-SXM4-80GB" one of the driver's.
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
    """Most memory that this process has had on its device so far, in GiB."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
