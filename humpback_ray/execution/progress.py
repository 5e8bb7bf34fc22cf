"""Progress of a stage, on the terminal and in a file that `humpback status` reads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
)

from humpback_ray import storage
from humpback_ray.execution.clock import duration, utc_now
from humpback_ray.execution.lease import STATE_SECONDS, Heartbeat, this_driver
from humpback_ray.execution.logs import logger

PLAIN_LINE_SECONDS = 10.0  # interval of progress lines without a terminal


class StageProgress:
    """Progress of one stage: a bar on a terminal, a line every ten seconds elsewhere."""

    def __init__(self, console: Console, name: str) -> None:
        self._console = console
        self._name = name
        self._phase_started = time.monotonic()
        self._expected_seconds: float | None = None
        self._detail = "preparing"  # until the stage says more
        self._done, self._total = 0, 0
        self._first: tuple[float, int] | None = None
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[detail]}", markup=False),
            console=console,
            transient=True,
        )
        self._task = self._bar.add_task(name, total=None, detail="")

    @contextmanager
    def shown(self) -> Iterator[StageProgress]:
        """Show the latest state from `say` and `update` repeatedly until the block ends."""
        if self._console.is_terminal:
            with self._bar, polling(self._refresh, 0.5):
                yield self
        else:
            with polling(self._print, PLAIN_LINE_SECONDS, last=False):
                yield self

    def say(self, detail: str, expected_seconds: float | None = None) -> None:
        """Set a phase without units to count, and its usual duration."""
        if detail != self._detail:
            self._phase_started = time.monotonic()
        self._detail, self._expected_seconds, self._total = detail, expected_seconds, 0

    def update(self, done: int, total: int, detail: str = "") -> None:
        """Set the number of finished units."""
        if self._first is None and done:
            # Time to the first unit is start-up and would spoil the estimate.
            self._first = (time.monotonic(), done)
        self._detail, self._done, self._total = detail, done, total

    def note(self, text: str) -> None:
        """Print a line that stays."""
        self._print_line(f"  {self._name}: {text}")

    def heartbeat(self) -> Heartbeat:
        """The state now, for other processes."""
        return Heartbeat(
            time=utc_now(),
            done=self._done if self._total else None,
            total=self._total or None,
            detail=self._detail,
            seconds_left=self._seconds_left(),
            driver=this_driver(),
        )

    def _seconds_left(self) -> float | None:
        """Estimated seconds to the end of the stage or phase; None while unknown."""
        now = time.monotonic()
        if not self._total:
            if self._expected_seconds is None:
                return None
            left = self._expected_seconds - (now - self._phase_started)
            return left if left > 0 else None
        if self._first is None or self._done <= self._first[1]:
            return None
        per_unit = (now - self._first[0]) / (self._done - self._first[1])
        return per_unit * (self._total - self._done)

    def _left(self) -> str:
        seconds = self._seconds_left()
        if self._total:
            return "time left not known yet" if seconds is None else f"{duration(seconds)} left"
        if seconds is not None:
            return f"about {duration(seconds)} left"
        return f"{duration(time.monotonic() - self._phase_started)} so far"

    def _refresh(self) -> None:
        self._bar.update(
            self._task,
            completed=self._done,
            total=self._total or None,
            detail=f"{self._detail}, {self._left()}",
        )

    def _print(self) -> None:
        counted = f"{self._done}/{self._total} " if self._total else ""
        self._print_line(f"  {self._name}: {counted}{self._detail}, {self._left()}")

    def _print_line(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def polling(poll: Callable[[], None], seconds: float = 1.0, *, last: bool = True) -> Iterator[None]:
    """Call `poll` repeatedly in a thread while the block runs, and once after it if `last`."""
    done = threading.Event()

    def loop() -> None:
        while not done.wait(seconds):
            # A brief failure of a store must not end the polling.
            with suppress(*storage.errors()):
                poll()

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    if last:
        poll()


@contextmanager
def state_written(progress: StageProgress, url: str) -> Iterator[None]:
    """Write the stage's state to a file while the block runs, as its driver's heartbeat."""

    def write() -> None:
        try:
            storage.write_json(url, asdict(progress.heartbeat()))
        except storage.errors() as error:  # a failing store must not end the heartbeat
            logger.warning("the stage's state is not written: %s", error)

    write()
    with polling(write, STATE_SECONDS, last=False):
        yield
