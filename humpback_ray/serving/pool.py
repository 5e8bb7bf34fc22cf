"""Rows through a pool of engines: Ray Data streams batches, and each actor keeps one engine full.

    blocks of rows ──► actor: rows to requests ─► one thread steps the engine ─► answers to rows
                       (several batches at once)    (continuous batching over all)   ─► saved

Block, batch and task are one unit, so a retried task yields the same block. The task that answers a
batch also saves it, so no answer is lost while it waits to be saved.

`ray.data.llm` is no faster (benchmarks/LOG.md, "The remaining overhead is Ray's presence, and
ray.data.llm pays it too"), and it hides finish reasons, placement groups, and the rows inside an
engine that died.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

import pyarrow as pa
import ray
import ray.data
from ray.util import (
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from ray.util.scheduling_strategies import (
    NodeAffinitySchedulingStrategy,
    PlacementGroupSchedulingStrategy,
)

from humpback_ray.cluster import capacity
from humpback_ray.config.placement import EnginePlacement
from humpback_ray.serving import vllm_engine
from humpback_ray.serving.engine_actor import EngineActor
from humpback_ray.serving.engine_registry import Engine, EngineRegistry
from humpback_ray.serving.requests import RowTask


class EnginePool:
    """The engines of one pass, from the first to the last row. A context manager.

    Args:
        task: turns rows into requests, and answers into rows.
        placement: number of engines and their devices.
        make_engine: builds an engine: `vllm_engine.VLLMEngine`, or a class with its members.
        autoscaling: the cluster adds nodes for engines; otherwise the pool requests no more engines
            than the cluster has capacity for.
        tags: of the metrics.
    """

    def __init__(
        self,
        task: RowTask,
        placement: EnginePlacement,
        make_engine: Callable[..., Any] = vllm_engine.VLLMEngine,
        *,
        autoscaling: bool = False,
        tags: dict[str, str] | None = None,
    ) -> None:
        self._task, self._placement, self._make_engine = task, placement, make_engine
        self._tags = tags or {"run": "", "stage": ""}
        self._autoscaling = autoscaling
        self.num_wanted = placement.max_engines  # engines that the pool requests
        self._groups: list[Any] = []
        self._num_placed = 0
        self._stranded: dict[str, float] = {}  # placement group to the time it lost its node

    def __enter__(self) -> EnginePool:
        if not self._autoscaling:
            self.num_wanted = min(self.num_wanted, self._num_engines_that_fit())
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._registry = (
            ray.remote(EngineRegistry)
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
        # Ray Data removes no placement group, so the devices would stay taken in the next stage.
        for group in self._groups:
            remove_placement_group(group)
        ray.kill(self._registry)

    def through(
        self, rows: ray.data.Dataset, save: Callable[[pa.Table, pa.Table], pa.Table] | None = None
    ) -> ray.data.Dataset:
        """The answers of rows, computed lazily; each block of rows is one batch.

        Args:
            rows: source rows.
            save: called in the engine's actor with each batch and its answers (columns of the row
                type); the dataset holds its results. Without it the dataset holds the answers.
        """
        placement = self._placement
        batches = placement.max_concurrent_batches
        return rows.map_batches(
            EngineActor,
            fn_constructor_kwargs={
                "task": self._task,
                "placement": placement,
                "tags": self._tags,
                "make_engine": self._make_engine,
                "registry": self._registry,
                "save": save,
            },
            batch_size=None,
            batch_format="pyarrow",
            zero_copy_batch=True,
            compute=ray.data.ActorPoolStrategy(
                # The pool requests all engines at once and keeps them to the end. Ray Data would
                # add an engine only when the cluster has its devices, and an autoscaling cluster
                # adds devices only when an engine requests them (ray#59144). An engine that Ray
                # Data removed would also leave its devices in its placement group.
                size=self.num_wanted,
                max_concurrent_calls_per_actor=batches,
                max_tasks_in_flight_per_actor=batches + 1,
                enable_true_multi_threading=True,
            ),
            # The placement group has the engine's CPUs and devices; see `_place`.
            num_cpus=0,
            max_restarts=-1,
            max_task_retries=-1,
            ray_remote_args_fn=self._place,
            runtime_env={"env_vars": vllm_engine.environment(placement)},
        )

    def _place(self) -> dict[str, Any]:
        """The Ray options of one more engine's actor, with a placement group.

        Ray Data calls this on the driver for each actor, and once more to inspect the options. So
        this makes no more groups than engines, because an autoscaling cluster would add a node for
        one more. Ray Data counts these resources as used, but they do not limit its actors.
        """
        bundles = capacity.engine_bundles(self._placement)
        if len(self._groups) < self.num_wanted:
            # A model on several devices communicates at every layer, so they share a node unless
            # the placement allows otherwise.
            strategy = "PACK" if self._placement.across_nodes else "STRICT_PACK"
            self._groups.append(placement_group(bundles, strategy=strategy))
        group = self._groups[self._num_placed % self.num_wanted]
        self._num_placed += 1
        # With several devices, vLLM's Ray workers take those of the bundles.
        num_gpus = bundles[0].get("GPU", 0) if len(bundles) == 1 else 0
        return {
            "num_gpus": num_gpus,
            "scheduling_strategy": PlacementGroupSchedulingStrategy(
                group, placement_group_capture_child_tasks=True
            ),
        }

    def _num_engines_that_fit(self) -> int:
        # An engine without capacity would wait, and on a CPU cluster take the last CPU from the
        # tasks that read and write.
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        return capacity.check_engines(self._placement, nodes)

    @property
    def need(self) -> str:
        """Resources that one engine needs, for people."""
        return capacity.describe(
            capacity.engine_bundles(self._placement), self._placement.across_nodes
        )

    def give_up_stranded(self) -> None:
        """Kill engines that lost their node and have found no other for `stall_seconds`.

        Their rows would wait for a node for ever. The kill fails the pass, and its next try gives
        the rows to the other engines.
        """
        groups, now = placement_group_table(), time.monotonic()
        waiting = {name for name, group in groups.items() if group["state"] == "RESCHEDULING"}
        self._stranded = {name: self._stranded.get(name, now) for name in waiting}
        for engine in self.engines():
            if now - self._stranded.get(engine.group, now) > self._placement.stall_seconds:
                # Removing the group instead would leave the actor restarting for ever.
                ray.kill(engine.actor)

    def engines(self) -> list[Engine]:
        """Every engine of the pass with its counters."""
        return ray.get(self._registry.engines.remote())

    def num_restarts(self) -> int:
        """Number of restarts of all engines."""
        return ray.get(self._registry.num_restarts.remote())
