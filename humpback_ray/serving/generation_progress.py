"""Progress and report of a generating stage: terminal, metrics.jsonl, Prometheus, record."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from humpback_ray.execution.clock import duration
from humpback_ray.execution.gauges import OF_GENERATION, Gauges
from humpback_ray.execution.stage import Context
from humpback_ray.serving.endpoint import EndpointPool
from humpback_ray.serving.engine_registry import Engine, EngineCounters
from humpback_ray.serving.missing_rows import PassState
from humpback_ray.serving.pool import EnginePool

CPU_ENGINE_START_SECONDS = 30.0  # of a small model on two cores, up to the first rows
METRICS_SECONDS = 10.0
STRAGGLER_SECONDS = 300.0
TAIL_SHARE = 0.02  # of the rows, left out because engines run empty at the end of any pass
WHY_NOT_DETERMINISTIC = (
    "each row has its seed, but time decides which rows share a step of the engine, and the last "
    "bits of floating-point sums depend on which rows share it"
)


class GenerationProgress:
    """Saved rows and working engines of one try of a pass.

    Args:
        context: of the stage.
        pool: engines or endpoint of the try.
        state: rows wanted and saved at the start of the try.
    """

    def __init__(self, context: Context, pool: EnginePool | EndpointPool, state: PassState) -> None:
        self._context, self._pool = context, pool
        self._num_wanted, self.num_saved = state.num_wanted, state.num_saved
        self._num_to_do = state.num_missing
        self._last = (time.monotonic(), state.num_saved, EngineCounters())
        self._gauges = Gauges(OF_GENERATION, context.run, context.stage)
        self.before_tail = EngineCounters()

    def end(self) -> None:
        """Set the engines' gauges to 0, because a gauge keeps its last value for ever."""
        self._gauges.set({"engines_running": 0, "engines_wanted": 0})

    def poll(self) -> None:
        """Show the present state, and kill engines that wait for a node in vain."""
        self._pool.give_up_stranded()
        engines, num_engines = self._pool.engines(), self._pool.num_wanted
        counters, num_running = total(engines), sum(engine.is_running for engine in engines)
        self._gauges.set(
            {
                "rows_saved": self.num_saved,
                "rows_wanted": self._num_wanted,
                "engines_running": num_running,
                "engines_wanted": num_engines,
            }
        )
        if self._num_wanted - self.num_saved > TAIL_SHARE * self._num_to_do:
            self.before_tail = counters
        if num_engines and not counters.num_rows:
            on_cpu = self._context.placement.engine.device == "cpu"
            waiting = "" if engines else f"; waiting for a node with {self._pool.need}"
            self._context.progress.say(
                f"{num_running} of {num_engines} engines started for {self._num_to_do} rows"
                + waiting,
                CPU_ENGINE_START_SECONDS if on_cpu and engines else None,
            )
            return
        rates = self._rates(counters)
        self._context.progress.update(
            self.num_saved,
            self._num_wanted,
            f"rows, {rates['prompt_tokens_per_second']:,.0f} tokens/s in, "
            f"{rates['generated_tokens_per_second']:,.0f} out, "
            f"{num_running} of {num_engines} engines{straggler(engines, time.time())}",
        )
        if time.monotonic() - self._last[0] >= METRICS_SECONDS:
            self._last = (time.monotonic(), self.num_saved, counters)
            self._context.metrics.add(
                stage=self._context.stage,
                rows=self.num_saved,
                of=self._num_wanted,
                engines_running=num_running,
                engines_wanted=num_engines,
                **rates,
            )

    def _rates(self, counters: EngineCounters) -> dict[str, float]:
        """Rows and tokens per second since the last line of metrics."""
        then, num_saved, last = self._last
        seconds = max(time.monotonic() - then, 1e-3)
        num_generated = counters.num_generated_tokens - last.num_generated_tokens
        counts = {
            "rows_per_second": self.num_saved - num_saved,
            "prompt_tokens_per_second": counters.num_prompt_tokens - last.num_prompt_tokens,
            "generated_tokens_per_second": num_generated,
        }
        return {name: round(count / seconds, 2) for name, count in counts.items()}


class GenerationReport:
    """Work of a pass's engines in this attempt of the run, for the record."""

    def __init__(self) -> None:
        self._engines: list[Engine] = []
        self._num_restarts = 0
        self._before_tail = EngineCounters()

    @contextmanager
    def of(self, pool: EnginePool | EndpointPool, progress: GenerationProgress) -> Iterator[None]:
        """Add the engines of one try of the pass; a failed try adds nothing."""
        try:
            yield
        finally:
            progress.end()
        self._engines += pool.engines()
        self._num_restarts += pool.num_restarts()
        self._before_tail += progress.before_tail

    def figures(self) -> dict[str, Any]:
        """Entries of the stage's record."""
        determinism = {"is_deterministic": False, "because": WHY_NOT_DETERMINISTIC}
        if not self._engines:
            return determinism
        counters = total(self._engines)
        start = max(engine.start_seconds for engine in self._engines)
        busy_seconds = counters.busy_seconds
        speed = counters.num_generated_tokens / busy_seconds if busy_seconds else 0.0
        return {
            **determinism,
            "engines": {
                "num_engines": len(self._engines),
                "num_restarts": self._num_restarts,
                "longest_start_seconds": round(start, 1),
                "idle_share_before_tail": round(self._before_tail.idle_share, 4),
                "busy_seconds": round(busy_seconds, 2),
                "generated_tokens_per_busy_second": round(speed, 1),
            },
        }


def straggler(engines: list[Engine], now: float) -> str:
    """A note on the engine with the oldest batch; empty while that is younger than the limit."""
    batches = [
        (begun, engine.host, engine.pid)
        for engine in engines
        for begun in engine.in_flight.values()
    ]
    if not batches or now - min(batches)[0] < STRAGGLER_SECONDS:
        return ""
    begun, host, pid = min(batches)
    return f", a batch since {duration(now - begun)} on {host} (process {pid})"


def total(engines: list[Engine]) -> EngineCounters:
    """The sum over engines and their restarts."""
    return sum((engine.counters for engine in engines), EngineCounters())
