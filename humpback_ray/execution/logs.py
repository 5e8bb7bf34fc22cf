"""The log of a run: one JSON object a line."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from humpback_ray import storage

logger = logging.getLogger("humpback_ray")
# Until a run has a log file, nothing is logged: the terminal is for what a person must know.
logger.addHandler(logging.NullHandler())
logger.propagate = False
REST_SECONDS = 120.0  # until lines are tried again at a store that has failed


class BufferedLines:
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
        self._lines = BufferedLines(url, 0.0)

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.add(self.format(record))
