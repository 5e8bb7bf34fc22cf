"""Common parts of the benchmarks: sides in turns, medians, a table, one last line, a JSON file.

A side may run in a separate process (`Side`), because vLLM and Ray read environment variables at
import, and a fresh process leaves nothing behind for the other side.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from humpback_ray.execution.provenance import provenance

QUIET = {
    "HF_HUB_OFFLINE": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "VLLM_NO_USAGE_STATS": "1",
}
console = Console(highlight=False)


@dataclass
class Comparison:
    """Two or more sides with their runs, and the ratio of two sides that has a goal."""

    name: str
    unit: str
    over: str  # the side whose median is the numerator
    under: str  # the side whose median is the denominator
    goal: float
    at_most: bool = False  # the goal is an upper bound
    runs: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def add(self, side: str, **figures: Any) -> None:
        """Add one run of a side; the comparison is of `figures["value"]`."""
        self.runs.setdefault(side, []).append(figures)
        shown = ", ".join(f"{key} {_short(value)}" for key, value in figures.items())
        console.print(f"  {self.name} · {side}: {shown}", soft_wrap=True)

    def median(self, side: str) -> float:
        return statistics.median(run["value"] for run in self.runs[side])

    @property
    def ratio(self) -> float | None:
        """The ratio of the medians; None if a side has no run."""
        if not self.runs.keys() >= {self.over, self.under}:
            return None
        return self.median(self.over) / self.median(self.under)

    @property
    def line(self) -> str:
        """`ratio: X (goal Y)`."""
        bound = "at most " if self.at_most else ""
        ratio = "none yet" if self.ratio is None else f"{self.ratio:.3f}"
        return f"ratio: {ratio} (goal {bound}{self.goal:g})"

    def table(self) -> Table:
        table = Table("side", self.unit, "lowest", "highest", "runs", title=self.name)
        for side, runs in self.runs.items():
            values = [run["value"] for run in runs]
            figures = (self.median(side), min(values), max(values))
            table.add_row(side, *(f"{value:,.4g}" for value in figures), str(len(runs)))
        return table


def arguments(description: str) -> argparse.ArgumentParser:
    """A parser with `--json`."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--json", metavar="FILE", help="write every figure to this file")
    return parser


def finish(comparisons: list[Comparison], json_file: str | None, **more: Any) -> None:
    """Print the tables and, last, the ratio of the last comparison; write the JSON file."""
    for comparison in comparisons:
        console.print(comparison.table())
    for comparison in comparisons:
        console.print(f"{comparison.name}: {comparison.line}")
    if json_file:
        ran = provenance()
        content = {
            "name": Path(sys.argv[0]).stem,
            "command": " ".join(["python", *sys.orig_argv[1:]]),
            "machine": ran["machine"],
            "versions": ran["versions"],
            "commit": ran["commit"],
            "finished_at": ran["finished_at"],
            "comparisons": [
                asdict(comparison)
                | {"median": {side: comparison.median(side) for side in comparison.runs}}
                | {"ratio": None if comparison.ratio is None else round(comparison.ratio, 4)}
                for comparison in comparisons
            ],
            **more,
        }
        Path(json_file).parent.mkdir(parents=True, exist_ok=True)
        Path(json_file).write_text(json.dumps(content, indent=1) + "\n")
    console.print(comparisons[-1].line)


class Side:
    """A generator in a separate process, which gives one value per request.

    Its first value says that it is ready, after start and warm-up. A later request may carry a
    message, which the generator's `yield` returns.
    """

    def __init__(
        self,
        function: Callable[..., Generator[Any, Any, None]],
        *arguments: Any,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, child = context.Pipe()
        self._process = context.Process(target=_answer, args=(child, function, arguments))
        with variables(QUIET | dict(environment or {})):
            self._process.start()
        child.close()
        self.pid = self._process.pid

    def next(self, message: Any = None) -> Any:
        """The generator's next value.

        Raises:
            EOFError: its process has ended.
        """
        self.ask(message)
        return self.answer()

    def ask(self, message: Any = None) -> None:
        """Request the next value without waiting for it."""
        self._pipe.send(message)

    def answer(self) -> Any:
        """The requested value; errors as in `next`."""
        return self._pipe.recv()

    def close(self) -> None:
        self._pipe.close()
        self._process.join(60)
        if self._process.is_alive():
            self._process.kill()


def _answer(pipe: Any, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    values = function(*arguments)
    try:
        while True:
            pipe.send(values.send(pipe.recv()))
    except EOFError:
        values.close()


@contextmanager
def variables(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for the processes that the block starts."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder for models and rows, deleted at the end."""
    with tempfile.TemporaryDirectory(prefix="humpback-benchmark-") as folder:
        yield Path(folder)


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """The seconds of a call, and its result."""
    began = time.perf_counter()
    value = function()
    return time.perf_counter() - began, value


def peak_memory(pid: int | str = "self") -> float:
    """Highest resident memory of a process so far, in MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) / 1024


def _short(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else str(value)
