"""Figures of a stage as files: metrics.jsonl and TensorBoard."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from contextlib import suppress
from typing import Any

from humpback_ray import storage
from humpback_ray.execution.clock import utc_now
from humpback_ray.execution.logs import BufferedLines

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
