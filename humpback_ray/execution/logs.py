"""The log of a run: one JSON object a line."""

from __future__ import annotations

import json
import logging
import re
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime

from pydantic import BaseModel

from humpback_ray import storage

logger = logging.getLogger("humpback_ray")
# Without a run's log file, log lines go nowhere: the terminal shows only what a person must know.
logger.addHandler(logging.NullHandler())
logger.propagate = False
RETRY_SECONDS = 120.0  # between two attempts to write to a store that fails


class BufferedLines:
    """Lines to append to a file, local or at a URL, written at most every `seconds`."""

    def __init__(self, url: str, seconds: float) -> None:
        self._url, self._seconds = url, seconds
        self._lines: list[str] = []
        self._written = time.monotonic()

    @property
    def is_written(self) -> bool:
        """True while the file has every line."""
        return not self._lines

    def add(self, line: str) -> None:
        """Keep a line, and write all kept lines if the last attempt is `seconds` ago."""
        self._lines.append(line)
        if time.monotonic() - self._written >= self._seconds:
            # A failing store must not block work. Keep the lines and back off, because every
            # attempt blocks for the client's full timeout.
            try:
                self.flush()
            except storage.errors():
                self._written = time.monotonic() + RETRY_SECONDS

    def flush(self) -> None:
        """Write all kept lines."""
        self._written = time.monotonic()
        if self._lines:
            storage.append_text(self._url, "".join(f"{line}\n" for line in self._lines))
        self._lines = []


class JsonLines(logging.Formatter):
    """One JSON object a line: time (UTC), level, run, stage, attempt, message, exception.

    Args:
        run: name of the run.
        attempt: counted from 1.
    """

    def __init__(self, run: str, attempt: int) -> None:
        super().__init__()
        self._run, self._attempt, self.stage = run, attempt, ""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record as one line."""
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


class _RunLog(logging.Handler):
    """The log file of a run, on any path or URL. Lines are few, so it writes each at once."""

    def __init__(self, url: str, run: str, attempt: int) -> None:
        super().__init__()
        self.url = url
        self.json_lines = JsonLines(run, attempt)
        self.setFormatter(self.json_lines)
        self.exception: BaseException | None = None  # the last one in the log
        self._lines = BufferedLines(url, 0.0)

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            self.exception = record.exc_info[1]
        self._lines.add(self.format(record))

    def holds(self, error: BaseException) -> bool:
        """True if the file has the traceback of this error."""
        return self.exception is error and self._lines.is_written


def _run_logs() -> list[_RunLog]:
    return [handler for handler in logger.handlers if isinstance(handler, _RunLog)]


def log_to(url: str, run: str, attempt: int) -> None:
    """Send the project's log to this file alone."""
    close_run_log()
    logger.addHandler(_RunLog(url, run, attempt))
    logger.setLevel(logging.INFO)


def close_run_log() -> None:
    """Stop sending the project's log to a file."""
    for log in _run_logs():
        logger.removeHandler(log)
        log.close()


def log_stage(path: str) -> None:
    """Mark the lines from now on as those of a stage; empty between stages."""
    for log in _run_logs():
        log.json_lines.stage = path


@contextmanager
def end_logged() -> Iterator[None]:
    """Log the exception that ends the block, so that `humpback status` can show it."""
    try:
        yield
    except BaseException:
        logger.exception("stopped")
        raise


def keep_traceback(error: BaseException) -> str:
    """Write the traceback of an unexpected error to a file; returns its path or URL.

    The file is the log of the run under way. Without a run, or if the store of its log fails, it is
    a new file in the temporary folder.
    """
    for log in _run_logs():
        if log.exception is not error:  # `end_logged` may have written it
            logger.error("unexpected error", exc_info=error)
        if log.holds(error):
            return log.url
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", errors="backslashreplace",
        prefix="humpback-error-", suffix=".txt", delete=False,
    ) as file:  # fmt: skip
        file.writelines(traceback.format_exception(error))
    return file.name


def last_error(log: str) -> str | None:
    """The last error in the lines of a run's log, with its time; None without an error.

    A line that is no record of a log is passed over, such as half a line of a killed writer.
    """
    for line in reversed(log.splitlines()):
        with suppress(ValueError):  # pydantic's too
            record = _LoggedLine.model_validate(storage.parse_json(line))
            if record.level in ("ERROR", "CRITICAL"):
                # The text after the last frame of a traceback, or all of it.
                text = re.split(r"\n(?:[ \t].*\n)+", record.exception or record.message)[-1]
                return f"{record.time} {' '.join(text.split())[:500]}"
    return None


class _LoggedLine(BaseModel):
    """A line of a log, as `JsonLines` writes it."""

    time: str
    level: str
    message: str
    exception: str | None = None
