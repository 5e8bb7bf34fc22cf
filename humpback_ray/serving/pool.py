"""Rows through a pool of engines: Ray Data streams the batches, each actor keeps one engine full.

    blocks of rows ──► actor: rows to requests ─► one thread steps the engine ─► answers to rows
                       (several batches at once)    (continuous batching over all)   ─► saved

One block is one batch is one task, so a task that Ray runs again gives the same one block again.
The task that asks a batch saves it too: what is answered is never lost because it waited for that.
Not `ray.data.llm`, which is no faster (benchmarks/LOG.md, "The remaining overhead is Ray's
presence, and ray.data.llm pays it too"): neither its finish reasons nor its placement groups reach
us, nor which rows were inside of an engine that died.
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
        task: what the rows ask and become.
        placement: how many engines, and where.
        make_engine: builds the engine: `vllm_engine.VLLMEngine`, or a class with its members.
        autoscaling: nodes come when engines ask for them; otherwise the pool asks for no more
            engines than the cluster has capacity for.
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
        self.num_wanted = placement.max_engines  # engines that are asked for
        self._groups: list[Any] = []
        self._num_placed = 0
        self._stranded: dict[str, float] = {}  # placement groups by when they lost their node

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
        # Ray Data removes no placement group: without this the next stage finds the devices taken.
        for group in self._groups:
            remove_placement_group(group)
        ray.kill(self._registry)

    def through(
        self, rows: ray.data.Dataset, save: Callable[[pa.Table, pa.Table], pa.Table] | None = None
    ) -> ray.data.Dataset:
        """The rows' answers, lazily; each block of rows is one batch.

        Args:
            rows: what to ask about.
            save: called in the engine's actor with each batch and its answers, columns of the row
                type; the dataset holds what it returns. Without it the dataset holds the answers.
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
        bundles = capacity.engine_bundles(self._placement)
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
        return capacity.check_engines(self._placement, nodes)

    @property
    def need(self) -> str:
        """What one engine needs of the cluster, for people."""
        return capacity.describe(
            capacity.engine_bundles(self._placement), self._placement.across_nodes
        )

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
        return ray.get(self._registry.engines.remote())

    def num_restarts(self) -> int:
        """Engines that died and were started again."""
        return ray.get(self._registry.num_restarts.remote())
