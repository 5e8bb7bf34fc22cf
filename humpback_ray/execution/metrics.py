"""Figures of a stage as files: metrics.jsonl and TensorBoard."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from humpback_ray import storage
from humpback_ray.execution.clock import utc_now
from humpback_ray.execution.logs import BufferedLines

TEXTS = ("time", "stage")  # of a line of metrics; all other values are numbers
GREATEST = 1e18  # no figure is as great, and every number below it fits a float
URL_SECONDS = 30.0  # interval of rewriting a growing file on a store that cannot append


class Metrics:
    """`metrics.jsonl` of a stage: one JSON object per line, each with the time in UTC."""

    def __init__(self, url: str) -> None:
        self._lines = BufferedLines(url, URL_SECONDS if "://" in url else 5.0)

    def add(self, **values: Any) -> None:
        """Add one line; lines reach the file after some seconds and at `flush`."""
        self._lines.add(json.dumps({"time": utc_now(), **values}))

    def flush(self) -> None:
        """Append the lines that the file does not have yet."""
        self._lines.flush()


@dataclass(frozen=True)
class ReadMetrics:
    """The lines of a `metrics.jsonl`, and what of it is left out.

    Every value of a line is a number, but for `time` and `stage`, which are texts.
    """

    lines: list[dict[str, Any]]
    num_lines: int  # with the left-out ones
    no_numbers: Counter[str]  # values by name that are no finite numbers: null, a word, NaN

    @property
    def problem(self) -> str:
        """The damage in one line; empty without any."""
        parts = []
        if lost := self.num_lines - len(self.lines):
            parts.append(f"{lost:,} of {self.num_lines:,} lines are cut or no JSON")
        if self.no_numbers:
            named = ", ".join(f"{n:,} of {name}" for name, n in self.no_numbers.most_common())
            parts.append(f"{self.no_numbers.total():,} values are no numbers ({named})")
        return f"{' and '.join(parts)}: left out" if parts else ""


def read_metrics(url: str) -> ReadMetrics:
    """The metrics in a file; none where there is no file."""
    if not storage.exists(url):
        return parse_metrics([])
    filesystem, path = storage.locate(url)
    with filesystem.open(path, "rt", encoding="utf-8", errors="replace") as file:
        return parse_metrics(file)


def parse_metrics(lines: Iterable[str]) -> ReadMetrics:
    """Metrics out of lines of text. A killed writer may have left half a line at the end."""
    read: list[dict[str, Any]] = []
    num_lines, no_numbers = 0, Counter[str]()
    for line in lines:
        num_lines += 1
        try:
            values = storage.parse_json(line)
        except ValueError:
            continue
        if isinstance(values, dict):
            wrong = [name for name, value in values.items() if not _is_right(name, value)]
            no_numbers.update(wrong)
            read.append({name: value for name, value in values.items() if name not in wrong})
    return ReadMetrics(read, num_lines, no_numbers)


def _is_right(name: str, value: object) -> bool:
    if name in TEXTS:
        return isinstance(value, str)
    return isinstance(value, int | float) and abs(value) < GREATEST


class TensorBoard:
    """Numbers of each step as TensorBoard's event files, in a folder of the run."""

    def __init__(self, folder: str) -> None:
        from tensorboardX import SummaryWriter

        self._url = folder if "://" in folder else ""
        # Event files grow line by line, which object stores do not allow.
        self._folder = tempfile.mkdtemp(prefix="humpback-tensorboard-") if self._url else folder
        self._writer = SummaryWriter(self._folder)
        self._uploaded = time.monotonic()

    def add(self, values: dict[str, Any]) -> None:
        """Add one point of each value, at `values["step"]`."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, values["step"])
        if self._url and time.monotonic() - self._uploaded > URL_SECONDS:
            self._writer.flush()
            with suppress(*storage.errors()):
                self._upload()

    def close(self) -> None:
        """Write the remaining points."""
        self._writer.close()
        if self._url:
            try:
                self._upload()
            finally:
                shutil.rmtree(self._folder)

    def _upload(self) -> None:
        self._uploaded = time.monotonic()
        for entry in os.scandir(self._folder):
            with open(entry.path, "rb") as file:
                storage.write_bytes(storage.join(self._url, entry.name), file.read())
