"""The doctor's checks of capacity: engines, training workers, GPUs, and their memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from humpback_ray.cluster import capacity
from humpback_ray.cluster.findings import CheckVerdict, Finding
from humpback_ray.cluster.nodes import ClusterReport
from humpback_ray.cluster.preflight import within_reach
from humpback_ray.config.placement import Placement, TrainingPlacement
from humpback_ray.config.recipe import Recipe
from humpback_ray.sizing import hardware, memory
from humpback_ray.sizing.architecture import Architecture, known_architecture
from humpback_ray.sizing.hardware import GIB
from humpback_ray.sizing.memory import gib

WORKER_PROCESS = 1 * GIB  # a training worker without its model: libraries and buffers; ours


# --- engines, training workers, GPUs --------------------------------------------------------------


@dataclass(frozen=True)
class _Need:
    """Engines or training workers that a run asks for, each of them a number of bundles."""

    check: str
    bundle: capacity.Resources
    each: str  # the bundles of one, for people
    least: int
    most: int
    count: Callable[[Sequence[capacity.Resources]], int]  # of those that fit on nodes
    asks_for_nodes: bool  # of the autoscaler
    settings: str

    @property
    def wanted(self) -> str:
        number = f"{self.least} to {self.most}" if self.least < self.most else str(self.most)
        return f"{number} with {self.each} each"


def engines(recipe: Recipe, cluster: ClusterReport) -> list[Finding]:
    """Capacity for engines."""
    placement = recipe.placement.engine
    bundles, across = capacity.engine_bundles(placement), placement.across_nodes
    need = _Need(
        "engines",
        bundles[0],
        capacity.describe(bundles, across),
        placement.min_engines,
        placement.max_engines,
        lambda nodes: capacity.num_engines(bundles, nodes, across),
        recipe.placement.cluster.autoscaling,
        "placement.engine (device, tensor_parallel_size, accelerator_type)",
    )
    return [_judge_capacity(need, recipe, cluster)]


def workers(recipe: Recipe, cluster: ClusterReport) -> list[Finding]:
    """Capacity for training workers."""
    placement = recipe.placement.training
    bundle = capacity.worker_bundle(placement)
    need = _Need(
        "training workers",
        bundle,
        capacity.describe([bundle], across=True),
        _least_workers(placement),
        placement.num_workers,
        lambda nodes: sum(capacity.num_bundles(bundle, resources) for resources in nodes),
        True,
        "placement.training (device, num_workers, accelerator_type)",
    )
    return [_judge_capacity(need, recipe, cluster)]


def _judge_capacity(need: _Need, recipe: Recipe, cluster: ClusterReport) -> Finding:
    """Compare the capacity now, and with all that the autoscaler may add, with the need."""
    now, limits = need.count(cluster.resources), cluster.autoscaler_limits
    found = f"room for {min(now, need.most)}: {capacity.describe_nodes(cluster.resources)}"
    if now >= need.most:
        return Finding(need.check, found, need.wanted)
    if limits is not None:
        later = need.count(within_reach(cluster.nodes, limits, need.bundle))
        found += f"; with all that the autoscaler may add, room for {min(later, need.most)}"
        if later >= need.least and need.asks_for_nodes:
            return Finding(need.check, found, need.wanted)
        if later >= need.least > now:
            way_out = "set placement.cluster.autoscaling=true, so that engines ask for nodes"
            return Finding(need.check, found, need.wanted, CheckVerdict.WARNING, way_out)
    elif recipe.placement.cluster.autoscaling:
        way_out = "the autoscaler does not show its limits: see that they are enough"
        return Finding(need.check, found, need.wanted, CheckVerdict.WARNING, way_out)
    if now >= need.least:
        way_out = f"more nodes, or fewer in {need.settings}; the run works as it is"
        return Finding(need.check, found, need.wanted, CheckVerdict.WARNING, way_out)
    way_out = f"add nodes, or set {need.settings} to the present nodes"
    return Finding(need.check, found, need.wanted, CheckVerdict.MISSING, way_out)


def _least_workers(placement: TrainingPlacement) -> int:
    return placement.min_workers or placement.num_workers


def gpus(recipe: Recipe, cluster: ClusterReport) -> list[Finding]:
    """Compare the GPUs that Ray counts with those that NVIDIA's driver lists."""
    if "gpu" not in (recipe.placement.engine.device, recipe.placement.training.device):
        return []
    listed = sum(len(node.report.gpus) for node in cluster.answering if node.report)
    names = {gpu.name for node in cluster.answering if node.report for gpu in node.report.gpus}
    found = f"{listed} ({', '.join(sorted(names))})"
    wanted = "as many as Ray counts"
    for node in cluster.answering:
        assert node.report is not None
        counted, there = int(node.resources.get("GPU", 0)), len(node.report.gpus)
        if counted > there:
            found = f"{there} on {node.name}, where Ray counts {counted}"
            way_out = "start Ray there with the right --num-gpus; see that nvidia-smi runs"
            return [Finding("GPUs", found, wanted, CheckVerdict.MISSING, way_out)]
        if counted < there:
            found = f"{there} on {node.name}, where Ray counts {counted}"
            way_out = "start Ray there without --num-gpus and CUDA_VISIBLE_DEVICES to use all"
            return [Finding("GPUs", found, wanted, CheckVerdict.WARNING, way_out)]
    # `engines` and `workers` report that there is no GPU at all.
    return [Finding("GPUs", found, wanted)] if names else []


# --- memory ---------------------------------------------------------------------------------------


def engine_memory(recipe: Recipe, cluster: ClusterReport) -> list[Finding]:
    """Memory for the engines: weights, workspace, and the KV cache of one sequence."""
    architecture, settings = known_architecture(recipe), recipe.settings
    if architecture is None:
        found = "the base model's architecture is not known"
        way_out = "memory and disk are not judged; `humpback probe` measures"
        return [Finding("memory", found, "a known one", CheckVerdict.WARNING, way_out)]
    engine = recipe.placement.engine
    tensor, pipeline = engine.tensor_parallel_size, engine.pipeline_parallel_size
    needed = memory.ENGINE_WORKSPACE + sum(
        memory.engine_bytes(architecture, settings.dtype, settings.context_length, tensor, pipeline)
    )
    way_out = "a larger tensor_parallel_size of placement.engine, or larger GPUs"
    if engine.device == "gpu":
        needed /= engine.gpu_memory_utilization
        bundle = capacity.engine_bundles(engine)[0]
        there = _gpu_memory(cluster, bundle, engine.accelerator_type)
        return _memory("GPU memory, engines", needed, there, way_out)
    per_node = -(-engine.max_engines // max(len(cluster.nodes), 1))
    there = int(_smallest_memory(recipe.placement, cluster) / per_node)
    way_out = "fewer placement.engine.max_engines, or nodes with more memory"
    return _memory("memory, an engine", needed, there, way_out)


def training_memory(recipe: Recipe, cluster: ClusterReport) -> list[Finding]:
    """Memory for the training workers: states and activations."""
    architecture, placement = known_architecture(recipe), recipe.placement.training
    if architecture is None:
        return []
    settings = recipe.settings
    lengths = [settings.backward_training.max_length, settings.forward_training.max_length]
    tokens = placement.micro_batch_tokens or max(lengths)
    stages = (placement.zero_stage,) if placement.zero_stage else (1, 2, 3)
    states = min(
        memory.state_bytes(architecture, stage, _least_workers(placement)) for stage in stages
    )
    activations = memory.activation_bytes(
        architecture, tokens, gradient_checkpointing=placement.gradient_checkpointing
    )
    way_out = (
        "zero_stage=3, gradient_checkpointing=true or offload_optimizer=cpu of "
        "placement.training, more workers, or a smaller max_length of the training"
    )
    if placement.device == "gpu":
        if placement.offload_optimizer or placement.offload_parameters:
            check = "GPU memory, training"
            return [Finding(check, "-", "not estimated where states are offloaded")]
        there = _gpu_memory(cluster, capacity.worker_bundle(placement), placement.accelerator_type)
        needed = states + activations + memory.TRAINING_WORKSPACE
        return _memory("GPU memory, training", needed, there, way_out)
    needed = workers_of_a_node(placement, cluster) * (states + activations + WORKER_PROCESS)
    return _memory(
        "memory, training", needed, int(_smallest_memory(recipe.placement, cluster)), way_out
    )


def host_memory(recipe: Recipe, cluster: ClusterReport) -> list[Finding]:
    """Memory of a node with GPUs: offloaded states, and the weights that all workers read."""
    architecture, placement = known_architecture(recipe), recipe.placement.training
    users = cluster.holding(capacity.worker_bundle(placement))
    users += cluster.holding(capacity.engine_bundles(recipe.placement.engine)[0])
    uses_gpus = "gpu" in (recipe.placement.engine.device, placement.device)
    if architecture is None or not uses_gpus or not users:
        return []
    offloaded = "cpu" in (placement.offload_optimizer, placement.offload_parameters)
    share = workers_of_a_node(placement, cluster) / placement.num_workers
    weights = stored_bytes(architecture)
    offloaded_bytes = share * memory.OFFLOADED_BYTES * architecture.num_parameters
    needed = offloaded_bytes if offloaded else 0.0
    there = _smallest_memory(recipe.placement, cluster)
    wanted = f"{gib(needed + weights)} on each node with GPUs"
    if there >= needed + weights:
        return [Finding("host memory", gib(there), wanted)]
    verdict = CheckVerdict.MISSING if there < needed else CheckVerdict.WARNING
    way_out = "nodes with more memory" + (", or no offload to cpu" if offloaded else "")
    return [Finding("host memory", gib(there), wanted, verdict, way_out)]


def _memory(check: str, needed: float, there: int | None, way_out: str) -> list[Finding]:
    wanted = f"{gib(needed)} at least"
    if there is None:
        why = "no such GPU is there to be asked"
        return [Finding(check, why, wanted, CheckVerdict.WARNING, "ask again when nodes are there")]
    verdict = CheckVerdict.OK if needed <= there else CheckVerdict.MISSING
    way_out = way_out if verdict == CheckVerdict.MISSING else ""
    return [Finding(check, gib(there), wanted, verdict, way_out)]


def _gpu_memory(
    cluster: ClusterReport, bundle: capacity.Resources, accelerator_type: str | None
) -> int | None:
    """Bytes of the smallest GPU that a bundle may get; by its name if no node has one."""
    found = [
        gpu.memory for node in cluster.holding(bundle) if node.report for gpu in node.report.gpus
    ]
    if found:
        return min(found)
    known = hardware.GPUS.get((accelerator_type or "").removesuffix("G"))
    return known.memory if known else None


def _smallest_memory(placement: Placement, cluster: ClusterReport) -> float:
    """Bytes that Ray offers on the smallest node that engines or workers may use."""
    bundles = [
        capacity.engine_bundles(placement.engine)[0],
        capacity.worker_bundle(placement.training),
    ]
    used = [
        resources for resources in cluster.resources
        if any(capacity.num_bundles(bundle, resources) for bundle in bundles)
    ]  # fmt: skip
    return min((resources.get("memory", 0.0) for resources in used or cluster.resources), default=0)


def workers_of_a_node(placement: TrainingPlacement, cluster: ClusterReport) -> int:
    """Largest number of training workers on one node."""
    bundle = capacity.worker_bundle(placement)
    fitting = [capacity.num_bundles(bundle, resources) for resources in cluster.resources]
    return min(max(fitting, default=0) or placement.num_workers, placement.num_workers)


def stored_bytes(architecture: Architecture) -> float:
    """Bytes of one model's stored weights."""
    return 2.0 * architecture.num_parameters
