"""Kills an engine's process that makes no progress; Ray then restarts it.

`python -m humpback_ray.serving.watchdog PID SECONDS` runs beside the engine as a separate process,
because a process that hangs, or that a signal has stopped, cannot watch itself. It reads lines
`STEPS REQUESTS` from the engine: the number of model steps so far and of requests inside. If the
engine holds requests and makes no step for SECONDS, the watchdog has it write the stacks of its
threads and kills it with all its descendants.
"""

from __future__ import annotations

import faulthandler
import os
import select
import signal
import subprocess
import sys
import time

import psutil

STACKS = signal.SIGUSR1  # makes the engine's process write the stacks of all its threads
SECONDS_FOR_STACKS = 2.0


class Watchdog:
    """The engine's side: starts the watching process and reports the engine's progress to it."""

    def __init__(self, seconds: float) -> None:
        faulthandler.register(STACKS, all_threads=True)
        self._seconds = seconds
        self._process = self._started()

    def _started(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", __name__, str(os.getpid()), str(self._seconds)],
            stdin=subprocess.PIPE,
            bufsize=0,
            # Signals to the engine's process group must not reach the watchdog.
            start_new_session=True,
        )

    def tell(self, num_steps: int, num_requests: int) -> None:
        """Report the engine's steps so far and the requests inside; restarts a dead watchdog."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{num_steps} {num_requests}\n".encode())
        except BrokenPipeError:  # the watchdog was killed
            self._process.wait()
            self._process = self._started()


def watch(pid: int, seconds: float) -> None:
    """Watch an engine until it closes its end of the pipe, or kill it if it stalls."""
    last_steps, since = -1, time.monotonic()
    pending = b""
    while True:
        readable, _, _ = select.select([sys.stdin], [], [], min(seconds / 4, 5.0))
        if readable:
            received = os.read(sys.stdin.fileno(), 65536)
            if not received:
                return
            *lines, pending = (pending + received).split(b"\n")
            for line in lines:
                num_steps, num_requests = map(int, line.split())
                if num_steps != last_steps or not num_requests:
                    last_steps, since = num_steps, time.monotonic()
        if time.monotonic() - since > seconds:
            end(pid, f"no step for {time.monotonic() - since:.0f} s")
            return


def end(pid: int, reason: str) -> None:
    """Have a process write its stacks, then kill it and all its descendants."""
    print(f"watchdog: killing engine {pid}: {reason}; its stacks follow", file=sys.stderr)
    sys.stderr.flush()
    try:
        engine = psutil.Process(pid)
        family = [engine, *engine.children(recursive=True)]
        os.kill(pid, STACKS)
        # A stopped process handles the signal only after SIGCONT.
        os.kill(pid, signal.SIGCONT)
        time.sleep(SECONDS_FOR_STACKS)
    except (psutil.NoSuchProcess, ProcessLookupError):
        return
    for process in family:
        try:
            if process.pid != os.getpid():
                process.kill()
        except psutil.NoSuchProcess:
            continue


if __name__ == "__main__":
    watch(int(sys.argv[1]), float(sys.argv[2]))
