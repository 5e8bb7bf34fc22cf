"""Rows through a pool of engines: Ray Data streams the batches, each actor keeps one engine full.

    blocks of rows ──► actor: rows to requests ─► one thread steps the engine ─► answers to rows
                       (several batches at once)    (continuous batching over all)   ─► saved

One block is one batch is one task, so a task that Ray runs again gives the same one block again.
The task that asks a batch saves it too: what is answered is never lost because it waited for that.
Not `ray.data.llm`, which is no faster (benchmarks/LOG.md): neither its finish reasons nor its
placement groups reach us, nor which rows were inside of an engine that died.
"""

from __future__ import annotations

import hashlib
import logging
import os
import queue
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any

import pyarrow as pa
import ray
import ray.data
from ray.util import (
    get_current_placement_group,
    metrics,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from ray.util.scheduling_strategies import (
    NodeAffinitySchedulingStrategy,
    PlacementGroupSchedulingStrategy,
)

from humpback_ray import tables
from humpback_ray.config import EnginePlacement
from humpback_ray.engines import room, vllm_engine
from humpback_ray.engines.ledger import Engine, Ledger, Tally
from humpback_ray.engines.request import Exchange, Generation, Request, ask, load_tokenizer
from humpback_ray.engines.watchdog import Watchdog
from humpback_ray.records import Finish

BEAT_SECONDS = 1.0
# A batch that was inside when an engine died may have had nothing to do with it. After as many
# deaths it is asked alone, and after one more in parts, until the row that ends engines is found.
DEATHS_BEFORE_ALONE = 2
NUM_PARTS = 8

logger = logging.getLogger("humpback_ray.engine")


class EngineFailed(Exception):
    """The engines cannot go on; the message is one line for the user."""


class Pool:
    """The engines of one pass, from the first to the last row. A context manager.

    Args:
        exchange: what the rows ask and become.
        placement: how many engines, and where.
        name: of the stage, for metrics.
        serve: makes the engine: `vllm_engine.VLLMEngine`, or something with its four members.
        autoscaling: nodes come when engines ask for them; otherwise only as many are asked for as
            the cluster has room for.
        num_pools: that share the cluster's room.
        run: name of the run, for metrics.
    """

    def __init__(
        self,
        exchange: Exchange,
        placement: EnginePlacement,
        name: str,
        serve: Callable[..., Any] = vllm_engine.VLLMEngine,
        *,
        autoscaling: bool = False,
        num_pools: int = 1,
        run: str = "",
    ) -> None:
        self._exchange, self._placement, self._serve = exchange, placement, serve
        self._tags = {"run": run, "stage": name}
        self._autoscaling, self._num_pools = autoscaling, num_pools
        self.num_wanted = placement.max_engines  # engines that are asked for
        self._groups: list[Any] = []
        self._num_placed = 0
        self._stranded: dict[str, float] = {}  # placement groups by when they lost their node

    def __enter__(self) -> Pool:
        if not self._autoscaling:
            self.num_wanted = min(self.num_wanted, self._num_engines_that_fit())
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._ledger = (
            ray.remote(Ledger)
            .options(num_cpus=0, scheduling_strategy=here)
            .remote(self._placement.max_restarts)
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Ray Data removes no placement group: without this the next stage finds the devices taken.
        for group in self._groups:
            remove_placement_group(group)
        ray.kill(self._ledger)

    def through(
        self, rows: ray.data.Dataset, save: Callable[[pa.Table], pa.Table] | None = None
    ) -> ray.data.Dataset:
        """The rows' answers, lazily; each block of rows is one batch.

        Args:
            rows: what to ask about.
            save: called with the answers of each batch, columns of the row type, where the engine
                is; what it returns goes on. Without it the answers do.
        """
        placement = self._placement
        batches = placement.max_concurrent_batches
        return rows.map_batches(
            EngineActor,
            fn_constructor_kwargs={
                "exchange": self._exchange,
                "placement": placement,
                "tags": self._tags,
                "serve": self._serve,
                "ledger": self._ledger,
                "save": save,
            },
            batch_size=None,
            batch_format="pyarrow",
            zero_copy_batch=True,
            compute=ray.data.ActorPoolStrategy(
                # All are asked for at once and kept to the end. Ray Data's own scaling adds an
                # engine only when the cluster has its devices already, and an autoscaling cluster
                # adds devices only when an engine asks for them (ray#59144); and the devices of an
                # engine that it lets go stay taken by its placement group.
                size=self.num_wanted,
                max_concurrent_calls_per_actor=batches,
                max_tasks_in_flight_per_actor=batches + 1,
                enable_true_multi_threading=True,
            ),
            # What the engine takes is in its placement group; see `_place`.
            num_cpus=0,
            max_restarts=-1,
            max_task_retries=-1,
            ray_remote_args_fn=self._place,
            runtime_env={"env_vars": vllm_engine.environment(placement)},
        )

    def _place(self) -> dict[str, Any]:
        """A placement group for one more engine, and the actor's part of it.

        Ray Data calls this on the driver for each actor, and once more only to look at it: never
        more groups than engines, or a cluster would grow by one for nothing. It counts what is
        given here as used, but not as a limit to how many actors there may be.
        """
        bundles = room.engine_bundles(self._placement)
        if len(self._groups) < self.num_wanted:
            # A model cut over devices talks between them at every layer: one node, unless told.
            strategy = "PACK" if self._placement.across_nodes else "STRICT_PACK"
            self._groups.append(placement_group(bundles, strategy=strategy))
        group = self._groups[self._num_placed % self.num_wanted]
        self._num_placed += 1
        # Over several devices vLLM's own Ray workers take the bundles' devices.
        num_gpus = bundles[0].get("GPU", 0) if len(bundles) == 1 else 0
        return {
            "num_gpus": num_gpus,
            "scheduling_strategy": PlacementGroupSchedulingStrategy(
                group, placement_group_capture_child_tasks=True
            ),
        }

    def _num_engines_that_fit(self) -> int:
        # An engine asked for without room for it would wait, and on CPUs keep the tasks that read
        # and write from the last CPU.
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        return room.check_engines(self._placement, nodes, self._num_pools)

    @property
    def need(self) -> str:
        """What one engine needs of the cluster, for people."""
        return room.describe(room.engine_bundles(self._placement), self._placement.across_nodes)

    def give_up_stranded(self) -> None:
        """End engines that have lost their node and found no other for `stall_seconds`.

        Their rows would wait for a node for ever; so the pass fails and goes on with the others.
        """
        groups, now = placement_group_table(), time.monotonic()
        waiting = {name for name, group in groups.items() if group["state"] == "RESCHEDULING"}
        self._stranded = {name: self._stranded.get(name, now) for name in waiting}
        for engine in self.engines():
            if now - self._stranded.get(engine.group, now) > self._placement.stall_seconds:
                # To remove the group would leave the actor restarting for ever.
                ray.kill(engine.actor)

    def engines(self) -> list[Engine]:
        """Every engine that has begun, with what it has done."""
        return ray.get(self._ledger.engines.remote())

    def num_deaths(self) -> int:
        """Engines that died and were started again."""
        return ray.get(self._ledger.num_deaths.remote())


def explain(error: BaseException) -> str | None:
    """The line of an `EngineFailed` that has ended a pass, or None."""
    # Ray Data raises an error of its own in its place, and on the way to the driver the causes are
    # lost: what is left is the text.
    found = re.search(rf"{EngineFailed.__module__}\.{EngineFailed.__name__}: (.+)", str(error))
    return found[1].strip() if found else None


class EngineActor:
    """One engine in an actor of Ray Data, which calls it from several threads, a batch each."""

    def __init__(
        self,
        exchange: Exchange,
        placement: EnginePlacement,
        tags: dict[str, str],
        serve: Callable[..., Any],
        ledger: Any,
        save: Callable[[pa.Table], pa.Table] | None,
    ) -> None:
        self._save = save
        self._exchange, self._placement, self._ledger = exchange, placement, ledger
        self._id = ray.get_runtime_context().get_actor_id()
        self._tally, self._num_steps = Tally(), 0
        self._exported, self._metrics = Tally(), _Metrics(tags)
        self._inbox: queue.SimpleQueue[tuple[Request, Future[Generation]]] = queue.SimpleQueue()
        self._tokenizing = threading.Lock()
        self._turns = _Turns()
        self._began = time.monotonic()
        self._engine: Any = None
        self._failure = ray.get(
            ledger.starting.remote(
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
        threading.Thread(target=self._beat, name="beat", daemon=True).start()
        self._failure = self._start(serve)

    def _start(self, serve: Callable[..., Any]) -> str:
        """Start the engine in the thread that will step it; returns why it cannot start, if so."""
        ready: Future[None] = Future()
        # Threads of PyTorch's pool belong to the thread that first used them: an engine stepped by
        # another one than has built it is 7% slower on CPUs (benchmarks/LOG.md).
        threading.Thread(
            target=self._serve, args=(serve, ready), name="engine", daemon=True
        ).start()
        try:
            ready.result()
        except Exception as error:  # whatever an engine dies of at its start is said
            logger.exception("the engine cannot start")
            message = f"the engine cannot start on {socket.gethostname()}: {_one_line(error)}"
            ray.get(self._ledger.not_started.remote(self._id, message))
            # An engine on a good node takes longer to start than one on a bad node to fail.
            while (can_start := ray.get(self._ledger.can_start.remote())) is None:
                time.sleep(BEAT_SECONDS)
            if can_start:
                # This is a matter of this node, and Ray starts the engine again.
                os._exit(1)
            return message
        ray.get(self._ledger.started.remote(self._id, time.monotonic() - self._began))
        return ""

    # --- batches: called by Ray Data, in several threads --------------------------------------

    def __call__(self, batch: pa.Table) -> pa.Table:
        if self._failure:
            raise EngineFailed(self._failure)
        rows = batch.to_pylist()
        num_deaths = ray.get(self._ledger.deaths.remote(self._key(rows)))
        if num_deaths < DEATHS_BEFORE_ALONE:
            with self._turns.together():
                made = self._answer_inside(rows)
        else:
            with self._turns.alone():
                made = self._answer_in_parts(rows, num_deaths - DEATHS_BEFORE_ALONE)
        answers = tables.to_table(made, self._exchange.row_type)
        return self._save(answers) if self._save else answers

    def _key(self, rows: Sequence[dict[str, Any]]) -> str:
        ids = "\n".join(row[self._exchange.id_column] for row in rows)
        return hashlib.sha256(ids.encode()).hexdigest()

    def _answer_inside(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Answer rows; the ledger knows that they, and no batch that waits, are in the engine."""
        key = self._key(rows)
        ray.get(self._ledger.begin.remote(self._id, key))
        made = self._answer(rows)
        ray.get(self._ledger.end.remote(self._id, key, replace(self._tally)))
        return made

    def _answer_in_parts(self, rows: list[dict[str, Any]], num_deaths: int) -> list[dict[str, Any]]:
        """Answer rows with which engines have died: all at once, then in parts, to single rows."""
        if not num_deaths:
            return self._answer_inside(rows)
        if len(rows) == 1:
            return self._refuse(rows[0])
        made = []
        size = -(-len(rows) // NUM_PARTS)
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            deaths_of_part = ray.get(self._ledger.deaths.remote(self._key(part)))
            made += self._answer_in_parts(part, deaths_of_part)
        return made

    def _refuse(self, row: dict[str, Any]) -> list[dict[str, Any]]:
        """A row that has ended engines is not asked again."""
        with self._tokenizing:
            asked = ask(row, self._exchange, self._tokenizer)
        generation = Generation("", Finish.ENGINE_ERROR, len(asked.request.prompt_ids))
        return [self._exchange.to_row(row | {"was_cut": asked.was_cut}, generation)]

    def _answer(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        exchange = self._exchange
        waiting: list[tuple[dict[str, Any], Future[Generation]]] = []
        for row in rows:
            # One at a time: a tokenizer is not made for several threads.
            with self._tokenizing:
                asked = ask(row, exchange, self._tokenizer)
            if asked.refusal is Finish.PROMPT_TOO_LONG and exchange.leave_long:
                continue
            answer: Future[Generation] = Future()
            if asked.refusal:
                num_prompt = len(asked.request.prompt_ids)
                answer.set_result(Generation("", asked.refusal, num_prompt))
            else:
                self._inbox.put((asked.request, answer))
            waiting.append((row | {"was_cut": asked.was_cut}, answer))
        return [exchange.to_row(row, answer.result()) for row, answer in waiting]

    # --- the engine's own thread --------------------------------------------------------------

    def _serve(self, serve: Callable[..., Any], ready: Future[None]) -> None:
        """Build, feed and step the engine for ever; if it breaks, Ray restarts the process."""
        try:
            self._tokenizer = load_tokenizer(self._exchange.model)
            self._engine = serve(self._exchange.model, self._placement)
        except Exception as error:  # noqa: BLE001 - it is raised in the thread that waits
            ready.set_exception(error)
            return
        ready.set_result(None)
        try:
            self._loop()
        except Exception as error:  # an engine that has raised can answer no more
            logger.exception("the engine has died")
            ray.get(self._ledger.failed.remote(_one_line(error)))
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
                    self._tally.idle_seconds += time.monotonic() - began
                    began = time.monotonic()
                try:
                    self._engine.add(str(number), request)
                    answers[str(number)] = answer
                except ValueError as error:
                    logger.warning("the engine refuses a request: %s", error)
                    num_prompt = len(request.prompt_ids)
                    answer.set_result(Generation("", Finish.ENGINE_ERROR, num_prompt))
            self._tally.busy_seconds += time.monotonic() - began

    def _step(self, answers: dict[str, Future[Generation]]) -> None:
        for key, generation in self._engine.step():
            tally = self._tally
            tally.num_rows += 1
            tally.num_prompt_tokens += generation.num_prompt_tokens
            tally.num_generated_tokens += generation.num_generated_tokens
            tally.num_cached_tokens += generation.num_cached_tokens
            answers.pop(key).set_result(generation)
        self._num_steps += 1

    # --- the beat -----------------------------------------------------------------------------

    def _beat(self) -> None:
        """Tell the watchdog, the ledger and the metrics every second how far the engine is."""
        while True:
            num_requests = self._engine.num_unfinished if self._engine is not None else 0
            starting = self._engine is None
            if not starting:
                self._watchdog.tell(self._num_steps, num_requests)
            elif time.monotonic() - self._began < self._placement.start_seconds:
                self._watchdog.tell(0, 0)
            now = replace(self._tally)
            self._ledger.beat.remote(self._id, now, num_requests)
            self._metrics.export(self._exported, now, num_requests)
            self._exported = now
            time.sleep(BEAT_SECONDS)


class _Turns:
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

    def export(self, before: Tally, now: Tally, num_requests: int) -> None:
        for name, counter in self._counters.items():
            if (more := getattr(now, name) - getattr(before, name)) > 0:
                counter.inc(more)
        self._requests.set(num_requests)


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
