"""Registry of a pass's engines: their starts, batches in flight, counters and failures.

One small Ray actor on the driver's node. It outlives every engine, so it knows which batches an
engine held when it died, and the driver reads the pass's progress from it.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field, fields
from typing import Any


@dataclass
class EngineCounters:
    """Work of one engine or of several. All fields are sums, so counters can be added."""

    num_rows: int = 0
    num_prompt_tokens: int = 0
    num_generated_tokens: int = 0
    num_cached_tokens: int = 0
    busy_seconds: float = 0.0  # with at least one request in the engine
    idle_seconds: float = 0.0  # without a request, after the start

    def __add__(self, other: EngineCounters) -> EngineCounters:
        return EngineCounters(
            *(getattr(self, f.name) + getattr(other, f.name) for f in fields(self))
        )

    @property
    def idle_share(self) -> float:
        """Share of the engines' time without a request."""
        total = self.busy_seconds + self.idle_seconds
        return self.idle_seconds / total if total else 0.0


@dataclass
class Engine:
    """One engine's entry in the registry, over all its restarts."""

    engine_id: str  # of its Ray actor: the same after a restart
    host: str = ""
    pid: int = 0
    actor: Any = None  # its handle
    group: str = ""  # id of its placement group
    is_starting: bool = False
    is_running: bool = False
    num_starts: int = 0
    start_seconds: float = 0.0  # of its last start
    before: EngineCounters = field(default_factory=EngineCounters)  # up to its last restart
    now: EngineCounters = field(default_factory=EngineCounters)  # since then
    num_requests: int = 0  # in the engine at the last heartbeat
    in_flight: dict[str, float] = field(default_factory=dict)  # batch to the time of its begin

    @property
    def counters(self) -> EngineCounters:
        """Work over all restarts."""
        return self.before + self.now


class EngineRegistry:
    """The registry; `pool.py` runs it as an actor, tests call it directly."""

    def __init__(self, max_restarts: int) -> None:
        self._max_restarts = max_restarts
        self._engines: dict[str, Engine] = {}
        self._kills_with: Counter[str] = Counter()  # of an engine while it held a batch
        self._restarts_in_a_row = 0
        self._num_restarts = 0
        self._has_started = False
        self._last_error = ""

    def starting(
        self, engine_id: str, host: str, pid: int, actor: Any = None, group: str = ""
    ) -> str:
        """Register an engine's process; a second process of an engine means that the first died.

        Returns:
            The reason why the engine must not start; empty if it may.
        """
        engine = self._engines.setdefault(engine_id, Engine(engine_id))
        if engine.num_starts:
            self._kills_with.update(engine.in_flight.keys())
            self._restarts_in_a_row += 1
            self._num_restarts += 1
            engine.before, engine.now = engine.counters, EngineCounters()
        engine.in_flight.clear()
        engine.is_starting, engine.is_running = True, False
        engine.num_starts += 1
        engine.host, engine.pid, engine.actor, engine.group = host, pid, actor, group
        if self._restarts_in_a_row > self._max_restarts:
            return (
                f"engines have died {self._restarts_in_a_row} times without finishing a batch in "
                f"between; the last error: {self._last_error or 'none was reported (killed?)'}"
            )
        return ""

    def started(self, engine_id: str, seconds: float) -> None:
        """Note that an engine takes rows from now on."""
        self._has_started = True
        engine = self._engines[engine_id]
        engine.is_starting, engine.is_running = False, True
        engine.start_seconds = seconds

    def not_started(self, engine_id: str, error: str) -> None:
        """Note that an engine cannot start, and its error."""
        self._engines[engine_id].is_starting = False
        self._last_error = error

    def can_start(self) -> bool | None:
        """True if any engine of the pass has started, so a failed start concerns one node alone.

        Returns:
            True if an engine has started, False if every start has failed, None while engines are
            still starting.
        """
        if self._has_started:
            return True
        return None if any(engine.is_starting for engine in self._engines.values()) else False

    def failed(self, error: str) -> None:
        """Note the error that is about to end an engine's process."""
        self._last_error = error

    def num_kills_with(self, batch: str) -> int:
        """Number of times that an engine has died with this batch inside."""
        return self._kills_with[batch]

    def begin(self, engine_id: str, batch: str) -> None:
        """Note that a batch has entered an engine."""
        self._engines[engine_id].in_flight[batch] = time.time()

    def end(self, engine_id: str, batch: str, now: EngineCounters) -> None:
        """Note that a batch has left an engine, and the engine's counters since its last start."""
        engine = self._engines[engine_id]
        engine.in_flight.pop(batch, None)
        engine.now = now
        self._restarts_in_a_row = 0

    def heartbeat(self, engine_id: str, now: EngineCounters, num_requests: int) -> None:
        """Store an engine's counters since its last start, and its number of requests."""
        engine = self._engines[engine_id]
        engine.now, engine.num_requests = now, num_requests

    def engines(self) -> list[Engine]:
        """Every registered engine, running or not."""
        return list(self._engines.values())

    def num_restarts(self) -> int:
        """Number of restarts of all engines."""
        return self._num_restarts
