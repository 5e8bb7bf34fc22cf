"""One engine in a Ray Data actor: batches come in, one thread steps the engine, answers go out."""

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
# A batch inside a dying engine may not be the cause. After this many deaths the engine answers the
# batch alone, and after one more in parts, until it has isolated the row that kills engines.
KILLS_BEFORE_ALONE = 2
NUM_PARTS = 8

logger = logging.getLogger("humpback_ray.engine")


class EngineActor:
    """One engine in a Ray Data actor; Ray Data calls it from several threads, one batch each."""

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
        threading.Thread(target=self._send_heartbeats, name="heartbeat", daemon=True).start()
        self._failure = self._start(make_engine)

    def _start(self, make_engine: Callable[..., Any]) -> str:
        """Start the engine in the thread that steps it; returns the reason if it cannot start."""
        ready: Future[None] = Future()
        # PyTorch ties its thread pool to the thread that first used it. So the same thread builds
        # and steps the engine; with two threads it is 7% slower on CPUs (benchmarks/LOG.md, "The
        # thread that builds an engine must step it").
        threading.Thread(
            target=self._build_and_step, args=(make_engine, ready), name="engine", daemon=True
        ).start()
        try:
            ready.result()
        except Exception as error:  # the user sees the cause of any failed start
            logger.exception("the engine cannot start")
            message = f"the engine cannot start on {socket.gethostname()}: {_one_line(error)}"
            ray.get(self._registry.not_started.remote(self._id, message))
            # A good node takes longer to start an engine than a bad node takes to fail.
            while (can_start := ray.get(self._registry.can_start.remote())) is None:
                time.sleep(HEARTBEAT_SECONDS)
            if can_start:
                # Only this node fails, so Ray restarts the engine.
                os._exit(1)
            return message
        ray.get(self._registry.started.remote(self._id, time.monotonic() - self._began))
        return ""

    # --- batches: called by Ray Data, in several threads --------------------------------------

    def __call__(self, batch: pa.Table) -> pa.Table:
        if self._failure:
            raise EngineFailed(self._failure)
        rows = batch.to_pylist()
        num_kills = ray.get(self._registry.num_kills_with.remote(self._key(rows)))
        if num_kills < KILLS_BEFORE_ALONE:
            with self._turns.together():
                answered = self._answer_inside(rows)
        else:
            with self._turns.alone():
                answered = self._answer_in_parts(rows, num_kills - KILLS_BEFORE_ALONE)
        answers = tables.to_table(answered, self._task.row_type)
        return self._save(batch, answers) if self._save else answers

    def _key(self, rows: Sequence[dict[str, Any]]) -> str:
        ids = "\n".join(row[self._task.id_column] for row in rows)
        return hashlib.sha256(ids.encode()).hexdigest()

    def _answer_inside(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Answer rows, and mark their batch in the registry as inside the engine."""
        key = self._key(rows)
        ray.get(self._registry.begin.remote(self._id, key))
        answers = self._answer(rows)
        ray.get(self._registry.end.remote(self._id, key, replace(self._counters)))
        return answers

    def _answer_in_parts(self, rows: list[dict[str, Any]], num_kills: int) -> list[dict[str, Any]]:
        """Answer rows that have killed engines: all at once, then in parts, down to one row."""
        if not num_kills:
            return self._answer_inside(rows)
        if len(rows) == 1:
            return self._refuse(rows[0])
        answers = []
        size = -(-len(rows) // NUM_PARTS)
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            num_kills_of_part = ray.get(self._registry.num_kills_with.remote(self._key(part)))
            answers += self._answer_in_parts(part, num_kills_of_part)
        return answers

    def _refuse(self, row: dict[str, Any]) -> list[dict[str, Any]]:
        """The ENGINE_ERROR of a row that has killed engines, without another request."""
        with self._tokenizing:
            prepared = prepare_request(row, self._task, self._tokenizer)
        generation = Generation("", Finish.ENGINE_ERROR, len(prepared.request.prompt_ids))
        return [self._task.to_row(row | {"was_cut": prepared.was_cut}, generation)]

    def _answer(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        task = self._task
        waiting: list[tuple[dict[str, Any], Future[Generation]]] = []
        for row in rows:
            # One thread at a time, because tokenizers are not thread-safe.
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
        """Build, feed and step the engine for ever; if it breaks, exit so that Ray restarts it."""
        try:
            self._tokenizer = load_tokenizer(self._task.model)
            self._engine = make_engine(self._task.model, self._placement)
        except Exception as error:  # noqa: BLE001 - the waiting thread raises it
            ready.set_exception(error)
            return
        ready.set_result(None)
        try:
            self._loop()
        except Exception as error:  # an engine cannot answer after it has raised
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

    # --- the heartbeat ------------------------------------------------------------------------

    def _send_heartbeats(self) -> None:
        """Report the engine's progress every second to watchdog, registry and metrics."""
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
    """A lock that many batches share, or one holds alone."""

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
    """An engine's counters for Ray's Prometheus endpoint, with run and stage as tags.

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
            if (increase := getattr(now, name) - getattr(before, name)) > 0:
                counter.inc(increase)
        self._requests.set(num_requests)


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
