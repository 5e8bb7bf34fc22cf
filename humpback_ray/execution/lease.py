"""One driver for each stage: a driver shows that it lives, another one looks before it begins."""

from __future__ import annotations

import os
import socket
import time
from typing import Any

import psutil
from rich.console import Console

from humpback_ray import storage
from humpback_ray.execution.clock import duration

STATE_SECONDS = 10.0  # how often it is written for those who look from elsewhere
PATIENCE_SECONDS = 3 * STATE_SECONDS  # without another sign of life, until a driver counts as gone


def this_driver() -> dict[str, Any]:
    """This process, by what tells it from all others: process numbers come again."""
    started = psutil.Process().create_time()
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": started}


def other_driver(url: str, console: Console) -> dict[str, Any] | None:
    """Another process that lives and keeps a stage's state in this file, as `this_driver` has it.

    One of this machine is looked up. Of any other machine the file is watched, whether it changes:
    so no two clocks are compared.
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
        f"  a driver on {driver['host']} was at work here: waiting "
        f"{duration(PATIENCE_SECONDS)} for a sign of life",
        highlight=False,
        soft_wrap=True,
    )
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        time.sleep(1.0)
        if storage.read_json(url) != state:
            return driver
    return None
