"""The processes of `gpu_check.py`: one for each part, with a time limit, in one lane or in two.

A part that hangs or dies costs its share of the time and nothing else.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import connection
from pathlib import Path
from typing import Any

import harness

SMALLEST_LIMIT = 15  # seconds; with less left no part can say anything
MOST_SHARES = 3  # that one part may take of what the parts before it left over
INTERRUPTED = "interrupted"


@dataclass(frozen=True)
class Part:
    """One question."""

    run: Callable[[Any], dict[str, Any]]
    share: int  # seconds that no other part can take from it
    needs: tuple[str, ...]  # packages
    only_gpu: str = ""  # the reason why a CPU cannot run it
    over: str = ""  # the part that its value is divided by
    unit: str = "tokens/s"  # of its value

    def reason_against(self, device: str) -> str:
        """The reason why this machine cannot run it; empty if it can."""
        missing = [package for package in self.needs if not importlib.util.find_spec(package)]
        if missing:
            return f"{', '.join(missing)} not installed"
        return self.only_gpu if device == "cpu" else ""


@dataclass
class Outcome:
    """The end of a part: `ran`, `left out` or `failed`, with the reason."""

    state: str
    reason: str = ""
    seconds: float = 0.0
    figures: dict[str, Any] = field(default_factory=dict)


def time_limit(share: int, shares_after: int, remaining: float) -> float:
    """Seconds that a part may take; 0 if too few are left.

    Args:
        share: of this part, in seconds.
        shares_after: of all later parts together, which stay theirs.
        remaining: until the end of the check.
    """
    limit = min(MOST_SHARES * share, remaining - shares_after)
    return limit if limit >= SMALLEST_LIMIT else 0.0


class RunningPart:
    """A part in a separate process group."""

    def __init__(self, name: str, part: Part, inputs: Any, folder: Path, limit: float) -> None:
        self.name, self._limit, self._log = name, limit, folder / f"{name}.log"
        # On CPUs all parts are forked from one process that has imported the libraries. A process
        # that has asked for CUDA cannot be forked, so there each part imports them.
        start_method = "forkserver" if inputs.device == "cpu" else "spawn"
        context: Any = multiprocessing.get_context(start_method)
        self.answer, sender = context.Pipe(duplex=False)
        self._process = context.Process(target=_child, args=(part.run, inputs, self._log, sender))
        self._process.start()  # waits for the first imports, which are nobody's
        self._began = time.monotonic()
        sender.close()

    @property
    def seconds_left(self) -> float:
        return max(self._began + self._limit - time.monotonic(), 0.0)

    def finish(self, *, interrupted: bool = False) -> Outcome:
        """The outcome of a part that has answered, has ended, or has no time left.

        Kills its group, in which vLLM's processes and Ray's are too.
        """
        try:
            if interrupted:
                outcome = Outcome("failed", INTERRUPTED)
            elif self.answer.poll():
                outcome = Outcome("ran", figures=self.answer.recv())
            else:
                outcome = Outcome("failed", f"no answer within {self._limit:.0f} s")
        except EOFError:
            self._process.join()
            outcome = Outcome("failed", self._last_words())
        finally:
            with suppress(ProcessLookupError):  # it has ended, or has not yet made its group
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.kill()
            self._process.join(10)
            self.answer.close()
        outcome.seconds = time.monotonic() - self._began
        if outcome.state == "failed" and not interrupted:
            harness.console.print(self._text()[-3000:], markup=False)
        return outcome

    def _last_words(self) -> str:
        lines = [line.strip()[:200] for line in self._text().split("\n") if line.strip()]
        code = self._process.exitcode
        ended = f"exit code {code}" if code >= 0 else f"killed by signal {-code}"
        return lines[-1] if lines and code == 1 else ": ".join([ended, *lines[-1:]])

    def _text(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""


def _child(run: Callable[[Any], dict[str, Any]], inputs: Any, log_file: Path, answer: Any) -> None:
    os.setsid()
    with open(log_file, "w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    answer.send(run(inputs))


class Lane:
    """Parts that run one after the other."""

    def __init__(self, parts: Mapping[str, Part], inputs: Any, folder: Path, end: float) -> None:
        self._waiting = dict(parts)
        self._inputs, self._folder, self._end = inputs, folder, end
        self.running: RunningPart | None = None

    def advance(self, outcomes: dict[str, Outcome]) -> None:
        """Take the outcome of a part that is over, and start the next that can run."""
        if self.running and (self.running.answer.poll() or not self.running.seconds_left):
            self._note(self.running.name, self.running.finish(), outcomes)
            self.running = None
        while self._waiting and not self.running:
            name = next(iter(self._waiting))
            part = self._waiting.pop(name)
            after = sum(other.share for other in self._waiting.values())
            limit = time_limit(part.share, after, self._end - time.monotonic())
            if not limit:
                self._note(name, Outcome("left out", "no time left"), outcomes)
            else:
                self.running = RunningPart(name, part, self._inputs, self._folder, limit)

    def interrupt(self, outcomes: dict[str, Outcome]) -> None:
        """Kill the running part and leave the others out."""
        if self.running:
            self._note(self.running.name, self.running.finish(interrupted=True), outcomes)
        for name in self._waiting:
            outcomes[name] = Outcome("left out", INTERRUPTED)

    @staticmethod
    def _note(name: str, outcome: Outcome, outcomes: dict[str, Outcome]) -> None:
        outcomes[name] = outcome
        line = " ".join(filter(None, (f"{name}: {outcome.state}", outcome.reason)))
        harness.console.print(f"{line} ({outcome.seconds:.0f} s)", markup=False, soft_wrap=True)


def run_lanes(
    lanes: Sequence[Mapping[str, Part]], inputs: Any, folder: Path, seconds: float
) -> dict[str, Outcome]:
    """Run the parts of each lane in turn, the lanes side by side; outcomes in the order of end.

    An interrupt (SIGINT, or SIGTERM where the caller raises KeyboardInterrupt for it) stops the
    running parts and leaves the others out.

    Args:
        lanes: parts by name.
        inputs: what every part's `run` gets; its `device` is `cpu` or `gpu`.
        folder: for the parts' logs.
        seconds: for all parts.
    """
    outcomes: dict[str, Outcome] = {}
    end = time.monotonic() + seconds
    running = [Lane(parts, inputs, folder, end) for parts in lanes]
    try:
        while True:
            for lane in running:
                lane.advance(outcomes)
            busy = [lane.running for lane in running if lane.running]
            if not busy:
                return outcomes
            patience = min(part.seconds_left for part in busy)
            connection.wait([part.answer for part in busy], patience)
    except KeyboardInterrupt:
        for lane in running:
            lane.interrupt(outcomes)
    return outcomes
