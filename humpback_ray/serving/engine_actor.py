"""One engine in an actor of Ray Data: batches in, one thread steps the engine, answers out."""

from __future__ import annotations

import hashlib
import logging
import os
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import pyarrow as pa
import ray
import ray.data
from ray.util import (
    get_current_placement_group,
    metrics,
)

from humpback_ray import tables
from humpback_ray.config.placement import EnginePlacement
from humpback_ray.rows import Finish
from humpback_ray.serving.engine_registry import EngineCounters
from humpback_ray.serving.failures import EngineFailed, RequestRefused
from humpback_ray.serving.requests import (
    Generation,
    Request,
    RowTask,
    load_tokenizer,
    prepare_request,
)
from humpback_ray.serving.watchdog import Watchdog

HEARTBEAT_SECONDS = 1.0
# A batch that was inside when an engine died may have had nothing to do with it. After as many
# deaths it is asked alone, and after one more in parts, until the row that ends engines is found.
KILLS_BEFORE_ALONE = 2
NUM_PARTS = 8

logger = logging.getLogger("humpback_ray.engine")


class EngineActor:
    """One engine in an actor of Ray Data, which calls it from several threads, a batch each."""

    def __init__(
        self,
        task: RowTask,
        placement: EnginePlacement,
        tags: dict[str, str],
        make_engine: Callable[..., Any],
        registry: Any,
        save: Callable[[pa.Table, pa.Table], pa.Table] | None,
    ) -> None:
        self._save = save
        self._task, self._placement, self._registry = task, placement, registry
        self._id = ray.get_runtime_context().get_actor_id()
        self._counters, self._num_steps = EngineCounters(), 0
        self._exported, self._metrics = EngineCounters(), _Metrics(tags)
        self._inbox: queue.SimpleQueue[tuple[Request, Future[Generation]]] = queue.SimpleQueue()
        self._tokenizing = threading.Lock()
        self._turns = SharedOrExclusive()
        self._began = time.monotonic()
        self._engine: Any = None
        self._failure = ray.get(
            registry.starting.remote(
                self._id,
                socket.gethostname(),
                os.getpid(),
                ray.get_runtime_context().current_actor,
                get_current_placement_group().id.hex(),
            )
        )
        if self._failure:
            return
        self._watchdog = Watchdog(placement.stall_seconds)
        threading.Thread(target=self._send_heartbeats, name="beat", daemon=True).start()
        self._failure = self._start(make_engine)

    def _start(self, make_engine: Callable[..., Any]) -> str:
        """Start the engine in the thread that will step it; returns why it cannot start, if so."""
        ready: Future[None] = Future()
        # Threads of PyTorch's pool belong to the thread that first used them: an engine stepped by
        # another one than has built it is 7% slower on CPUs (benchmarks/LOG.md, "The thread that
        # builds an engine must step it").
        threading.Thread(
            target=self._build_and_step, args=(make_engine, ready), name="engine", daemon=True
        ).start()
        try:
            ready.result()
        except Exception as error:  # whatever an engine dies of at its start is said
            logger.exception("the engine cannot start")
            message = f"the engine cannot start on {socket.gethostname()}: {_one_line(error)}"
            ray.get(self._registry.not_started.remote(self._id, message))
            # An engine on a good node takes longer to start than one on a bad node to fail.
            while (can_start := ray.get(self._registry.can_start.remote())) is None:
                time.sleep(HEARTBEAT_SECONDS)
            if can_start:
                # This is a matter of this node, and Ray starts the engine again.
                os._exit(1)
            return message
        ray.get(self._registry.started.remote(self._id, time.monotonic() - self._began))
        return ""

    # --- batches: called by Ray Data, in several threads --------------------------------------

    def __call__(self, batch: pa.Table) -> pa.Table:
        if self._failure:
            raise EngineFailed(self._failure)
        rows = batch.to_pylist()
        num_restarts = ray.get(self._registry.num_kills_with.remote(self._key(rows)))
        if num_restarts < KILLS_BEFORE_ALONE:
            with self._turns.together():
                made = self._answer_inside(rows)
        else:
            with self._turns.alone():
                made = self._answer_in_parts(rows, num_restarts - KILLS_BEFORE_ALONE)
        answers = tables.to_table(made, self._task.row_type)
        return self._save(batch, answers) if self._save else answers

    def _key(self, rows: Sequence[dict[str, Any]]) -> str:
        ids = "\n".join(row[self._task.id_column] for row in rows)
        return hashlib.sha256(ids.encode()).hexdigest()

    def _answer_inside(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Answer rows; the ledger knows that they, and no batch that waits, are in the engine."""
        key = self._key(rows)
        ray.get(self._registry.begin.remote(self._id, key))
        made = self._answer(rows)
        ray.get(self._registry.end.remote(self._id, key, replace(self._counters)))
        return made

    def _answer_in_parts(
        self, rows: list[dict[str, Any]], num_restarts: int
    ) -> list[dict[str, Any]]:
        """Answer rows with which engines have died: all at once, then in parts, to single rows."""
        if not num_restarts:
            return self._answer_inside(rows)
        if len(rows) == 1:
            return self._refuse(rows[0])
        made = []
        size = -(-len(rows) // NUM_PARTS)
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            deaths_of_part = ray.get(self._registry.num_kills_with.remote(self._key(part)))
            made += self._answer_in_parts(part, deaths_of_part)
        return made

    def _refuse(self, row: dict[str, Any]) -> list[dict[str, Any]]:
        """A row that has ended engines is not asked again."""
        with self._tokenizing:
            prepared = prepare_request(row, self._task, self._tokenizer)
        generation = Generation("", Finish.ENGINE_ERROR, len(prepared.request.prompt_ids))
        return [self._task.to_row(row | {"was_cut": prepared.was_cut}, generation)]

    def _answer(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        task = self._task
        waiting: list[tuple[dict[str, Any], Future[Generation]]] = []
        for row in rows:
            # One at a time: a tokenizer is not made for several threads.
            with self._tokenizing:
                prepared = prepare_request(row, task, self._tokenizer)
            if prepared.refusal is Finish.PROMPT_TOO_LONG and task.leave_long:
                continue
            answer: Future[Generation] = Future()
            if prepared.refusal:
                num_prompt = len(prepared.request.prompt_ids)
                answer.set_result(Generation("", prepared.refusal, num_prompt))
            else:
                self._inbox.put((prepared.request, answer))
            waiting.append((row | {"was_cut": prepared.was_cut}, answer))
        return [task.to_row(row, answer.result()) for row, answer in waiting]

    # --- the engine's own thread --------------------------------------------------------------

    def _build_and_step(self, make_engine: Callable[..., Any], ready: Future[None]) -> None:
        """Build, feed and step the engine for ever; if it breaks, Ray restarts the process."""
        try:
            self._tokenizer = load_tokenizer(self._task.model)
            self._engine = make_engine(self._task.model, self._placement)
        except Exception as error:  # noqa: BLE001 - it is raised in the thread that waits
            ready.set_exception(error)
            return
        ready.set_result(None)
        try:
            self._loop()
        except Exception as error:  # an engine that has raised can answer no more
            logger.exception("the engine has died")
            ray.get(self._registry.failed.remote(_one_line(error)))
            os._exit(1)

    def _loop(self) -> None:
        answers: dict[str, Future[Generation]] = {}
        for number in range(2**63):
            began = time.monotonic()
            if answers and self._inbox.empty():
                self._step(answers)
            else:
                request, answer = self._inbox.get()
                if not answers:
                    self._counters.idle_seconds += time.monotonic() - began
                    began = time.monotonic()
                try:
                    self._engine.add(str(number), request)
                    answers[str(number)] = answer
                except RequestRefused as error:
                    logger.warning("the engine refuses a request: %s", error)
                    num_prompt = len(request.prompt_ids)
                    answer.set_result(Generation("", Finish.ENGINE_ERROR, num_prompt))
            self._counters.busy_seconds += time.monotonic() - began

    def _step(self, answers: dict[str, Future[Generation]]) -> None:
        for key, generation in self._engine.step():
            counters = self._counters
            counters.num_rows += 1
            counters.num_prompt_tokens += generation.num_prompt_tokens
            counters.num_generated_tokens += generation.num_generated_tokens
            counters.num_cached_tokens += generation.num_cached_tokens
            answers.pop(key).set_result(generation)
        self._num_steps += 1

    # --- the beat -----------------------------------------------------------------------------

    def _send_heartbeats(self) -> None:
        """Tell the watchdog, the ledger and the metrics every second how far the engine is."""
        while True:
            num_requests = self._engine.num_unfinished if self._engine is not None else 0
            starting = self._engine is None
            if not starting:
                self._watchdog.tell(self._num_steps, num_requests)
            elif time.monotonic() - self._began < self._placement.start_seconds:
                self._watchdog.tell(0, 0)
            now = replace(self._counters)
            self._registry.heartbeat.remote(self._id, now, num_requests)
            self._metrics.export(self._exported, now, num_requests)
            self._exported = now
            time.sleep(HEARTBEAT_SECONDS)


class SharedOrExclusive:
    """Many batches share the engine, or one has it alone."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._num_together = 0
        self._is_taken = False

    @contextmanager
    def together(self) -> Iterator[None]:
        with self._condition:
            self._condition.wait_for(lambda: not self._is_taken)
            self._num_together += 1
        try:
            yield
        finally:
            with self._condition:
                self._num_together -= 1
                self._condition.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        with self._condition:
            self._condition.wait_for(lambda: not self._is_taken)
            self._is_taken = True
            self._condition.wait_for(lambda: not self._num_together)
        try:
            yield
        finally:
            with self._condition:
                self._is_taken = False
                self._condition.notify_all()


class _Metrics:
    """What an engine does, for Ray's Prometheus endpoint, with run and stage as tags.

    (https://docs.ray.io/en/latest/ray-observability/user-guides/add-app-metrics.html)
    """

    def __init__(self, tags: dict[str, str]) -> None:
        counter = partial(metrics.Counter, tag_keys=tuple(tags))
        self._counters = {
            "num_rows": counter("humpback_rows", "Rows answered"),
            "num_prompt_tokens": counter("humpback_prompt_tokens", "Tokens of prompts"),
            "num_cached_tokens": counter(
                "humpback_cached_prompt_tokens", "Tokens of prompts found in the prefix cache"
            ),
            "num_generated_tokens": counter("humpback_generated_tokens", "Tokens generated"),
            "busy_seconds": counter("humpback_engine_busy_seconds", "Seconds with requests inside"),
            "idle_seconds": counter("humpback_engine_idle_seconds", "Seconds without requests"),
        }
        self._requests = metrics.Gauge(
            "humpback_requests", "Requests inside an engine", tag_keys=tuple(tags)
        )
        for metric in [*self._counters.values(), self._requests]:
            metric.set_default_tags(tags)

    def export(self, before: EngineCounters, now: EngineCounters, num_requests: int) -> None:
        for name, counter in self._counters.items():
            if (more := getattr(now, name) - getattr(before, name)) > 0:
                counter.inc(more)
        self._requests.set(num_requests)


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
