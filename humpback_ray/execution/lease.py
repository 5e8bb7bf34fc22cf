"""One driver for each stage: a driver writes heartbeats, and another looks before it begins."""

from __future__ import annotations

import os
import socket
import time
from typing import Any

import psutil
from rich.console import Console

from humpback_ray import storage
from humpback_ray.execution.clock import duration

STATE_SECONDS = 10.0  # interval at which a driver writes its stage's state
PATIENCE_SECONDS = 3 * STATE_SECONDS  # a driver that writes no state for this long counts as dead


def this_driver() -> dict[str, Any]:
    """The identity of this process; its start time is part of it, because process ids repeat."""
    started = psutil.Process().create_time()
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": started}


def other_driver(url: str, console: Console) -> dict[str, Any] | None:
    """The identity of another live process that writes a stage's state to this file, or None.

    A process of this machine is looked up by its id. For a process of another machine this waits
    for the file to change, because the clocks of two machines cannot be compared.
    """
    state = storage.read_json(url)
    driver = (state or {}).get("driver")
    if driver is None or driver == this_driver():
        return None
    if driver["host"] == socket.gethostname():
        try:
            started = psutil.Process(driver["pid"]).create_time()
        except psutil.NoSuchProcess:
            return None
        return driver if abs(started - driver["started"]) < 1 else None
    console.print(
        f"  a driver on {driver['host']} has worked on this stage: waiting "
        f"{duration(PATIENCE_SECONDS)} for its heartbeat",
        highlight=False,
        soft_wrap=True,
    )
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        time.sleep(1.0)
        if storage.read_json(url) != state:
            return driver
    return None
