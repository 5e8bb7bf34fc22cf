"""Peak memory of a driver and of its tasks, for the benchmarks that compare ten times the rows."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

import harness
import psutil

OBJECT_STORE_BYTES = 500 * 2**20
POLL_SECONDS = 0.2
GOAL = 1.1  # of ten times the rows over the rows, at most


def start_ray() -> None:
    """Start a cluster of two CPUs for a driver."""
    import ray

    ray.init(
        address="local", num_cpus=2, include_dashboard=False, log_to_driver=False,
        logging_level="ERROR", object_store_memory=OBJECT_STORE_BYTES,
    )  # fmt: skip


def figures_of(drive: Callable[..., Generator[Any, Any, None]], *arguments: Any) -> dict[str, Any]:
    """The figures of a driver in a separate process, which first yields that it is ready."""
    with closing(harness.Side(drive, *arguments)) as side:
        side.next()
        return dict(side.next())


def of_driver(over: str, under: str) -> harness.Comparison:
    """The comparison of two drivers' peaks."""
    return harness.Comparison("driver's peak memory", "MiB", over, under, GOAL, at_most=True)


def of_largest_task(over: str, under: str) -> harness.Comparison:
    """The comparison of the peaks of two drivers' largest tasks."""
    name = "peak memory of the largest task process"
    return harness.Comparison(name, "MiB", over, under, GOAL, at_most=True)


@dataclass
class TaskMemory:
    """Peak memory of the largest process that Ray has started for tasks, and what all have read."""

    peak: float = 0.0  # MiB
    read: dict[int, int] = field(default_factory=dict)  # bytes, by process

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Sample the memory until the end of the block."""
        over = threading.Event()

        def look() -> None:
            while not over.wait(POLL_SECONDS):
                self._look()

        thread = threading.Thread(target=look)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def num_read(self) -> int:
        """Bytes that this process and those for tasks have read through system calls so far."""
        return psutil.Process().io_counters().read_chars + sum(self.read.values())

    def _look(self) -> None:
        for process in psutil.Process().children(recursive=True):
            try:
                if process.cmdline()[0].startswith("ray::"):
                    self.peak = max(self.peak, harness.peak_memory(process.pid))
                    self.read[process.pid] = process.io_counters().read_chars
            except (psutil.Error, OSError, IndexError):  # the process has just ended
                continue
