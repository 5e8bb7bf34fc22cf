"""What the engines of one pass have begun, finished and died of, kept outside of them.

One small Ray actor on the driver's node. It outlives every engine, so a restarted engine learns
from it which batches it was holding when it died, and the driver reads from it what goes on.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field, fields
from typing import Any


@dataclass
class EngineCounters:
    """What one engine, or all of them, have done. Sums, so tallies can be added up."""

    num_rows: int = 0
    num_prompt_tokens: int = 0
    num_generated_tokens: int = 0
    num_cached_tokens: int = 0
    busy_seconds: float = 0.0  # with at least one request in the engine
    idle_seconds: float = 0.0  # started, with none

    def __add__(self, other: EngineCounters) -> EngineCounters:
        return EngineCounters(
            *(getattr(self, f.name) + getattr(other, f.name) for f in fields(self))
        )

    @property
    def idle_share(self) -> float:
        """Share of the engines' time in which they had nothing to do."""
        total = self.busy_seconds + self.idle_seconds
        return self.idle_seconds / total if total else 0.0


@dataclass
class Engine:
    """One engine as the ledger knows it, over all its lives."""

    engine_id: str  # of its Ray actor: the same after a restart
    host: str = ""
    pid: int = 0
    actor: Any = None  # its handle
    group: str = ""  # id of its placement group
    is_starting: bool = False
    is_running: bool = False
    num_starts: int = 0
    start_seconds: float = 0.0  # of its last life
    before: EngineCounters = field(default_factory=EngineCounters)  # of earlier lives
    now: EngineCounters = field(default_factory=EngineCounters)
    num_requests: int = 0  # in the engine at the last beat
    in_flight: dict[str, float] = field(default_factory=dict)  # batch to the time it was begun

    @property
    def counters(self) -> EngineCounters:
        """What it has done in all its lives."""
        return self.before + self.now


class EngineRegistry:
    """The ledger; `pool.py` runs it as an actor, tests call it as it is."""

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
        """An engine's process begins; a second time for the same engine means that it died.

        Returns:
            Why it must not go on, or nothing.
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
        """An engine takes rows from now on."""
        self._has_started = True
        engine = self._engines[engine_id]
        engine.is_starting, engine.is_running = False, True
        engine.start_seconds = seconds

    def not_started(self, engine_id: str, error: str) -> None:
        """An engine cannot start, because of this."""
        self._engines[engine_id].is_starting = False
        self._last_error = error

    def can_start(self) -> bool | None:
        """Whether a failed start is that engine's own matter and not everybody's.

        Returns:
            True when an engine of this pass has ever come up, False when all that have begun have
            failed, None as long as others are still starting.
        """
        if self._has_started:
            return True
        return None if any(engine.is_starting for engine in self._engines.values()) else False

    def failed(self, error: str) -> None:
        """An engine is about to die, of this."""
        self._last_error = error

    def num_kills_with(self, batch: str) -> int:
        """How often an engine has died with a batch inside."""
        return self._kills_with[batch]

    def begin(self, engine_id: str, batch: str) -> None:
        """A batch goes into an engine."""
        self._engines[engine_id].in_flight[batch] = time.time()

    def end(self, engine_id: str, batch: str, now: EngineCounters) -> None:
        """A batch has come out of an engine, which has done this much in this life."""
        engine = self._engines[engine_id]
        engine.in_flight.pop(batch, None)
        engine.now = now
        self._restarts_in_a_row = 0

    def heartbeat(self, engine_id: str, now: EngineCounters, num_requests: int) -> None:
        """An engine is alive and has done this much in this life."""
        engine = self._engines[engine_id]
        engine.now, engine.num_requests = now, num_requests

    def engines(self) -> list[Engine]:
        """Every engine that has ever begun."""
        return list(self._engines.values())

    def num_restarts(self) -> int:
        """Engines that died and were started again."""
        return self._num_restarts
