"""Ends an engine's process when it has stopped making progress; Ray then starts it again.

`python -m humpback_ray.engines.watchdog PID SECONDS` is a process of its own beside the engine,
because a process that hangs, or was stopped by a signal, cannot watch itself. It reads lines of
`STEPS REQUESTS` from the engine: how often the model has run, and how many requests are inside.
When requests are inside and no step has been made for SECONDS, it has the engine write where each
of its threads stands, and kills it with everything that it has started.
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

STACKS = signal.SIGUSR1  # the engine's process answers it with the stacks of all its threads
SECONDS_FOR_STACKS = 2.0


class Watchdog:
    """The engine's end: starts the watching process and tells it how far the engine is."""

    def __init__(self, seconds: float) -> None:
        faulthandler.register(STACKS, all_threads=True)
        self._seconds = seconds
        self._process = self._started()

    def _started(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", __name__, str(os.getpid()), str(self._seconds)],
            stdin=subprocess.PIPE,
            bufsize=0,
            # Out of reach of what is sent to the engine's process group.
            start_new_session=True,
        )

    def tell(self, num_steps: int, num_requests: int) -> None:
        """The engine has made so many steps and holds so many requests."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{num_steps} {num_requests}\n".encode())
        except BrokenPipeError:  # somebody has killed it
            self._process.wait()
            self._process = self._started()


def watch(pid: int, seconds: float) -> None:
    """Return when the engine's end of the pipe is closed, or end the engine."""
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
    print(f"watchdog: engine {pid} is ended: {reason}; its stacks follow", file=sys.stderr)
    sys.stderr.flush()
    try:
        engine = psutil.Process(pid)
        family = [engine, *engine.children(recursive=True)]
        os.kill(pid, STACKS)
        # A stopped process takes a signal only when it goes on.
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
