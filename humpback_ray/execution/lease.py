"""One driver for each stage: a driver writes heartbeats, and another looks before it begins."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass

import psutil
from rich.console import Console

from humpback_ray import storage
from humpback_ray.execution.clock import duration

STATE_SECONDS = 10.0  # interval at which a driver writes its stage's state
PATIENCE_SECONDS = 3 * STATE_SECONDS  # a driver that writes no state for this long counts as dead


@dataclass(frozen=True)
class Driver:
    """The identity of a process; its start time is part of it, because process ids repeat."""

    host: str
    pid: int
    started: float


@dataclass(frozen=True)
class Heartbeat:
    """The state of a running stage, as its driver writes it for other processes."""

    time: str  # UTC
    done: int | None
    total: int | None  # None in a phase without units
    detail: str
    seconds_left: float | None  # of the stage or phase; None while unknown
    driver: Driver | None = None


def this_driver() -> Driver:
    """The identity of this process."""
    return Driver(socket.gethostname(), os.getpid(), psutil.Process().create_time())


def read_heartbeat(url: str) -> Heartbeat | None:
    """The last heartbeat in a file; None if there is no such file.

    Raises:
        UserError: the file is damaged, or another version of the program wrote it.
    """
    return storage.read_as(url, Heartbeat)


def other_driver(url: str, console: Console) -> Driver | None:
    """The identity of another live process that writes heartbeats to this file, or None.

    A process of this machine is looked up by its id. For a process of another machine this waits
    for the file to change, because the clocks of two machines cannot be compared.

    Raises:
        UserError: as in `read_heartbeat`.
    """
    heartbeat = read_heartbeat(url)
    driver = heartbeat.driver if heartbeat else None
    if driver is None or driver == this_driver():
        return None
    if driver.host == socket.gethostname():
        try:
            started = psutil.Process(driver.pid).create_time()
        except psutil.NoSuchProcess:
            return None
        return driver if abs(started - driver.started) < 1 else None
    console.print(
        f"  a driver on {driver.host} has worked on this stage: waiting "
        f"{duration(PATIENCE_SECONDS)} for its heartbeat",
        highlight=False,
        soft_wrap=True,
    )
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        time.sleep(1.0)
        if read_heartbeat(url) != heartbeat:
            return driver
    return None
