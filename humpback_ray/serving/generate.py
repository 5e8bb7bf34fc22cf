"""One pass of rows through engines, resumable row by row: read, ask, save.

The rows on disk are the checkpoint. A pass reads which ids are there, asks for the others, and
looks again: rows that came twice (a killed run's worker wrote its last file after the next run had
looked) are dropped, rows that are missing are asked for again. Every file is written beside and
renamed, under a name made of its ids. benchmarks/LOG.md says why Ray Data's own checkpointing,
which this replaces, was not enough.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data
from ray.exceptions import RayError

from humpback_ray import storage, tables
from humpback_ray.config.placement import Placement
from humpback_ray.config.settings import LongPromptSettings
from humpback_ray.errors import UserError
from humpback_ray.execution import clock, logs
from humpback_ray.execution.gauges import OF_GENERATION, Gauges
from humpback_ray.execution.progress import polling
from humpback_ray.execution.stage import Context
from humpback_ray.serving.endpoint import Endpoint
from humpback_ray.serving.engine_registry import Engine, EngineCounters
from humpback_ray.serving.failures import explain
from humpback_ray.serving.pool import EnginePool
from humpback_ray.serving.requests import RowTask
from humpback_ray.serving.vllm_engine import VLLMEngine

CPU_ENGINE_START_SECONDS = 30.0  # of a small model on two cores, up to the first rows
METRICS_SECONDS = 10.0
STRAGGLER_SECONDS = 300.0
WHY_NOT_DETERMINISTIC = (
    "each row has a seed of its own, but which rows share a step of the engine depends on time, "
    "and the last bits of floating-point sums on which rows share it"
)
MAX_FAILURES = 5  # of the cluster, one after the other, that leave no new row behind
TAIL_SHARE = 0.02  # of the rows: engines run empty at the end, which says nothing about feeding


@dataclass(frozen=True)
class GenerationPass:
    """Rows of one folder through engines into another, one row in, one row out."""

    name: str  # of the stage, for people and metrics
    source: str
    target: str
    task: RowTask
    long_prompts: LongPromptSettings
    expand: Callable[[pa.Table], pa.Table] | None = None  # of source rows, before they are asked
    make_engine: Callable[..., Any] = VLLMEngine
    endpoint: Callable[[Placement], Endpoint] | None = None  # answers in place of our engines

    def pool(
        self, placement: Placement, num_pools: int = 1, run: str = ""
    ) -> EnginePool | Endpoint:
        """What answers the rows of a run, by its name; `num_pools` share the cluster."""
        if self.endpoint is not None:
            return self.endpoint(placement)
        return EnginePool(
            self.task,
            placement.engine,
            self.name,
            self.make_engine,
            autoscaling=placement.cluster.autoscaling,
            num_pools=num_pools,
            run=run,
        )

    def tasks(self) -> list[RowTask]:
        """What to ask first, and what for the rows that this leaves out."""
        task, long_prompts = self.task, self.long_prompts
        if long_prompts.policy == "truncate_response":
            return [replace(task, cut_long=True)]
        if long_prompts.policy == "drop":
            return [task]
        assert long_prompts.context_length is not None
        model = replace(task.model, context_length=long_prompts.context_length)
        return [replace(task, leave_long=True), replace(task, model=model)]


@dataclass(frozen=True)
class PassState:
    """How far a pass is, from the rows on disk."""

    num_wanted: int
    num_saved: int  # different ids
    num_repeated: int
    num_unknown: int

    @property
    def num_missing(self) -> int:
        return self.num_wanted - self.num_saved


def run_pass(context: Context, work: GenerationPass) -> dict[str, Any]:
    """Bring every row of `work.source` into `work.target` once; returns figures for the record.

    Raises:
        UserError: the engines cannot start, the cluster has no room for them, or the rows cannot
            be written: one line.
    """
    report = _Report()
    for task in work.tasks():
        _stream_until_saved(context, [replace(work, task=task)], report)
    return report.figures()


def run_passes_at_once(
    context: Context, first: GenerationPass, second: GenerationPass
) -> dict[str, Any]:
    """Two passes as one stream: what the first has answered, the second asks about at once."""
    assert second.source == first.target, "the second pass starts from what the first one saves"
    report = _Report()
    _stream_until_saved(context, [first, second], report)
    return report.figures()


def _stream_until_saved(context: Context, works: list[GenerationPass], report: _Report) -> None:
    num_failures = 0
    found = [standing(work, repair=True) for work in works]
    while any(each.num_missing for each in found):
        before = sum(each.num_saved for each in found)
        try:
            _stream(context, works, found, report)
            if works[-1].task.leave_long:
                return
        except RayError as error:
            if line := explain(error):
                raise UserError(line) from error
            # Where nothing can be written, the next try would only start the engines once more.
            storage.check_writable(context.folder)
            # A node or an object was lost in a way that Ray Data does not mend. What is saved stays
            # saved; only when nothing new comes is the pass given up.
            logs.logger.exception("the pass has failed and is tried again")
            if num_failures == MAX_FAILURES:
                raise
        found = [standing(work, repair=True) for work in works]
        num_failures = 0 if sum(each.num_saved for each in found) > before else num_failures + 1
        assert num_failures <= MAX_FAILURES, f"rows stay missing: {found}"


def _stream(
    context: Context, works: list[GenerationPass], found: list[PassState], report: _Report
) -> None:
    """Send the rows that are not saved yet through the engines of each pass."""
    placement = context.placement.engine
    with ExitStack() as stack:
        pools: list[EnginePool | Endpoint] = [
            work.pool(context.placement, len(works), context.run) for work in works
        ]
        for pool in pools:
            stack.enter_context(pool)
        answered: ray.data.Dataset | None = None
        for work, pool in zip(works, pools, strict=True):
            sources = [_rows_to_do(work, placement.rows_per_batch), answered]
            first, *others = [rows for rows in sources if rows is not None]
            answered = pool.through(
                first.union(*others) if others else first,
                partial(_save, work=work, keep=work is not works[-1]),
            )
        assert answered is not None
        # Of two passes at once, the second has as many rows to save as the first.
        progress = _Progress(context, works[-1], found[0].num_wanted, found[-1].num_saved, pools)
        try:
            with polling(progress.poll):
                for bundle in answered.iter_internal_ref_bundles():
                    progress.num_saved += bundle.num_rows() or 0
        finally:
            progress.end()
        report.add(pools, progress)


def _rows_to_do(work: GenerationPass, rows_per_batch: int) -> ray.data.Dataset | None:
    """The rows of the source that are not in the target, in blocks of one batch."""
    filesystem, path = storage.arrow_filesystem(work.source)
    files = tables.parquet_files(filesystem, path)
    if not files:
        return None
    rows = ray.data.read_parquet(files, filesystem=filesystem)
    if work.expand is not None:
        rows = rows.map_batches(work.expand, batch_format="pyarrow")
    saved = tables.id_column(work.target, work.task.id_column)
    if len(saved):
        rows = rows.map_batches(
            _not_saved,
            batch_format="pyarrow",
            fn_kwargs={"saved": saved, "id_column": work.task.id_column},
        )
    # A batch is the unit of resume; the reader alone would make one block of a small file.
    return rows.repartition(target_num_rows_per_block=rows_per_batch)


def _not_saved(table: pa.Table, saved: pa.Array, id_column: str) -> pa.Table:
    return table.filter(pc.invert(pc.is_in(table[id_column], value_set=saved)))


def _save(table: pa.Table, work: GenerationPass, keep: bool) -> pa.Table:
    """Write a batch as one file named by its ids: written again, it is the same file."""
    id_column = work.task.id_column
    table = tables.conform(table, work.task.row_type)
    if table.num_rows:
        ids = "\n".join(sorted(table[id_column].to_pylist()))
        name = f"part-{hashlib.sha256(ids.encode()).hexdigest()[:16]}"
        tables.write_table(work.target, table, name)
    return table if keep else table.select([id_column])


# --- looking at what is saved: in a task, so that the driver holds no ids -------------------------


def standing(work: GenerationPass, *, repair: bool = False) -> PassState:
    """Compare the target's ids with the source's; `repair` first drops rows that came twice."""
    return ray.get(_standing.remote(work, repair))


@ray.remote
def _standing(work: GenerationPass, repair: bool) -> PassState:
    id_column = work.task.id_column
    wanted = _wanted_ids(work)
    saved = tables.id_column(work.target, id_column)
    distinct = pc.unique(saved)
    if repair and len(distinct) < len(saved):
        _drop_repeated(work.target, id_column)
    unknown = pc.sum(pc.invert(pc.is_in(distinct, value_set=wanted))).as_py() or 0
    assert not unknown, f"{unknown} rows of {work.target} are not of {work.source}"
    return PassState(len(wanted), len(distinct), len(saved) - len(distinct), unknown)


def _wanted_ids(work: GenerationPass) -> pa.Array:
    if work.expand is None:
        return tables.id_column(work.source, work.task.id_column)
    batches = [
        work.expand(pa.Table.from_batches([batch]))[work.task.id_column].combine_chunks()
        for batch in tables.scan(work.source)
    ]
    return pa.concat_arrays(batches) if batches else pa.array([], pa.string())


def _drop_repeated(folder: str, id_column: str) -> None:
    """Keep the first of the rows with one id, by file name; rewrite the files with the others."""
    filesystem, path = storage.arrow_filesystem(folder)
    seen = pa.array([], pa.string())
    for file in tables.parquet_files(filesystem, path):
        table = tables.read_file(filesystem, file)
        fresh = _not_saved(table, seen, id_column)
        if fresh.num_rows < table.num_rows:
            filesystem.delete_file(file)
            if fresh.num_rows:
                name = file.rsplit("/", 1)[-1].removesuffix(".parquet")
                tables.write_table(folder, fresh, f"{name}-rest")
        seen = pa.concat_arrays([seen, fresh[id_column].combine_chunks()])


# --- what goes on ---------------------------------------------------------------------------------


class _Progress:
    """What a pass has saved and what its engines do: for the terminal and metrics.jsonl."""

    def __init__(
        self,
        context: Context,
        work: GenerationPass,
        num_wanted: int,
        num_saved: int,
        pools: list[EnginePool | Endpoint],
    ) -> None:
        self._context, self._name, self._pools = context, work.name, pools
        self._num_wanted, self.num_saved = num_wanted, num_saved
        self._num_to_do = num_wanted - num_saved
        self._num_engines = sum(pool.num_wanted for pool in pools)
        self._then = (time.monotonic(), num_saved, EngineCounters())
        self._gauges = Gauges(OF_GENERATION, context.run, work.name)
        self.before_tail = EngineCounters()

    def end(self) -> None:
        """Show that no engine is left; a gauge would keep its last value for ever."""
        self._gauges.set({"engines_running": 0, "engines_wanted": 0})

    def poll(self) -> None:
        for pool in self._pools:
            if isinstance(pool, EnginePool):
                pool.give_up_stranded()
        engines = [engine for pool in self._pools for engine in pool.engines()]
        counters, num_running = total(engines), sum(engine.is_running for engine in engines)
        self._gauges.set(
            {
                "rows_saved": self.num_saved,
                "rows_wanted": self._num_wanted,
                "engines_running": num_running,
                "engines_wanted": self._num_engines,
            }
        )
        if self._num_wanted - self.num_saved > TAIL_SHARE * self._num_to_do:
            self.before_tail = counters
        if not counters.num_rows and self._num_engines:
            on_cpu = self._context.placement.engine.device == "cpu"
            waiting = "" if engines else self._waiting()
            self._context.progress.say(
                f"{num_running} of {self._num_engines} engines started for {self._num_to_do} rows"
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
            f"{num_running} of {self._num_engines} engines{straggler(engines, time.time())}",
        )
        if time.monotonic() - self._then[0] >= METRICS_SECONDS:
            self._then = (time.monotonic(), self.num_saved, counters)
            self._context.metrics.add(
                stage=self._name,
                rows=self.num_saved,
                of=self._num_wanted,
                engines_running=num_running,
                engines_wanted=self._num_engines,
                **rates,
            )

    def _waiting(self) -> str:
        """What the cluster must have room for before an engine can begin."""
        needs = {pool.need for pool in self._pools if isinstance(pool, EnginePool)}
        return f"; waiting for a place with {' and '.join(sorted(needs))}"

    def _rates(self, counters: EngineCounters) -> dict[str, float]:
        """Per second since the last line of metrics."""
        then, num_saved, last = self._then
        seconds = max(time.monotonic() - then, 1e-3)
        counts = {
            "rows_per_second": self.num_saved - num_saved,
            "prompt_tokens_per_second": counters.num_prompt_tokens - last.num_prompt_tokens,
            "generated_tokens_per_second": counters.num_generated_tokens
            - last.num_generated_tokens,
        }
        return {name: round(count / seconds, 2) for name, count in counts.items()}


def straggler(engines: list[Engine], now: float) -> str:
    """The engine with the oldest batch, named when that is older than a batch should become."""
    batches = [
        (begun, each.host, each.pid) for each in engines for begun in each.in_flight.values()
    ]
    if not batches or now - min(batches)[0] < STRAGGLER_SECONDS:
        return ""
    begun, host, pid = min(batches)
    return f", a batch since {clock.duration(now - begun)} on {host} (process {pid})"


def total(engines: list[Engine]) -> EngineCounters:
    """What engines have done together, in all their lives."""
    return sum((engine.counters for engine in engines), EngineCounters())


class _Report:
    """What the engines of a pass have done in this attempt of the run, for the record."""

    def __init__(self) -> None:
        self._engines: list[Engine] = []
        self._num_restarts = 0
        self._before_tail = EngineCounters()

    def add(self, pools: list[EnginePool | Endpoint], progress: _Progress) -> None:
        for pool in pools:
            self._engines += pool.engines()
            self._num_restarts += pool.num_restarts()
        self._before_tail += progress.before_tail

    def figures(self) -> dict[str, Any]:
        determinism = {"is_deterministic": False, "because": WHY_NOT_DETERMINISTIC}
        if not self._engines:
            return determinism
        done = total(self._engines)
        start = max(engine.start_seconds for engine in self._engines)
        return {
            **determinism,
            "engines": {
                "num_engines": len(self._engines),
                "num_restarts": self._num_restarts,
                "longest_start_seconds": round(start, 1),
                "idle_share_before_tail": round(self._before_tail.idle_share, 4),
                "busy_seconds": round(done.busy_seconds, 2),
                "generated_tokens_per_busy_second": round(
                    done.num_generated_tokens / done.busy_seconds, 1
                )
                if done.busy_seconds
                else 0.0,
            },
        }
