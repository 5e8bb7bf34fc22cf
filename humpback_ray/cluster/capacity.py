"""Capacity of a cluster for engines and training workers. Needs neither Ray nor vLLM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from humpback_ray.config.placement import EnginePlacement, TrainingPlacement
from humpback_ray.errors import UserError

Resources = Mapping[str, float]  # as Ray names them: CPU, GPU, accelerator_type:H100, ...
NUM_CPUS_FOR_ROWS = 2  # one task that reads and one that makes batches, beside the engines
SHOWN = ("CPU", "GPU", "accelerator_type")


def engine_bundles(placement: EnginePlacement) -> list[dict[str, float]]:
    """Ray bundles of one engine: one for each device that holds a part of the model."""
    bundle = _bundle(1, placement)
    return [bundle] * (placement.tensor_parallel_size * placement.pipeline_parallel_size)


def worker_bundle(placement: TrainingPlacement) -> dict[str, float]:
    """Ray bundle of one training worker."""
    return _bundle(placement.cpus_per_worker, placement)


def _bundle(num_cpus: int, placement: EnginePlacement | TrainingPlacement) -> dict[str, float]:
    bundle: dict[str, float] = {"CPU": num_cpus}
    if placement.device == "gpu":
        bundle["GPU"] = 1
    if placement.accelerator_type:
        bundle[f"accelerator_type:{placement.accelerator_type}"] = 0.001
    return bundle


def num_bundles(bundle: Resources, node: Resources) -> int:
    """Number of such bundles that fit on a node."""
    return int(min(node.get(name, 0) / bundle[name] for name in bundle))


def num_engines(bundles: Sequence[Resources], nodes: Sequence[Resources], across: bool) -> int:
    """Number of engines that fit, with CPUs left for the tasks that read rows.

    Args:
        bundles: of one engine, all alike.
        nodes: resources of each node.
        across: one engine may use bundles of several nodes.
    """
    on_nodes = [num_bundles(bundles[0], node) for node in nodes]
    size = len(bundles)
    by_devices = sum(on_nodes) // size if across else sum(on // size for on in on_nodes)
    num_cpus = sum(node.get("CPU", 0) for node in nodes)
    cpus_of_engine = sum(bundle.get("CPU", 0) for bundle in bundles)
    if num_cpus < cpus_of_engine + 1:
        return 0
    return min(by_devices, max(int((num_cpus - NUM_CPUS_FOR_ROWS) // cpus_of_engine), 1))


def check_engines(
    placement: EnginePlacement, nodes: Sequence[Resources], *, grown: bool = False
) -> int:
    """Number of engines that fit.

    Args:
        placement: of the engines.
        nodes: resources of each node.
        grown: the nodes include all that the autoscaler may add.

    Raises:
        UserError: fewer than `min_engines`; the needed and present resources, and the ways out.
    """
    bundles, across = engine_bundles(placement), placement.across_nodes
    fitting = num_engines(bundles, nodes, across)
    if fitting >= placement.min_engines:
        return fitting
    raise UserError(
        f"the cluster has no room for {placement.min_engines} "
        "engine(s) (placement.engine.min_engines): each needs "
        f"{describe(bundles, across)} and a CPU must be left for reading and writing; "
        f"{_there_is(nodes, grown)}: add nodes, or set "
        "placement.engine (device, tensor_parallel_size, accelerator_type, across_nodes) "
        f"to the present nodes{_or_wait(grown)}"
    )


def check_workers(
    placement: TrainingPlacement, nodes: Sequence[Resources], *, grown: bool = False
) -> int:
    """Number of training workers that fit, `num_workers` at most.

    Args:
        placement: of the training.
        nodes: resources of each node.
        grown: the nodes include all that the autoscaler may add.

    Raises:
        UserError: fewer than the training needs; Ray Train would wait for them forever.
    """
    bundle = worker_bundle(placement)
    fitting = sum(num_bundles(bundle, node) for node in nodes)
    wanted = placement.min_workers or placement.num_workers
    if fitting >= wanted:
        return min(fitting, placement.num_workers)
    least = "min_workers" if placement.min_workers else "num_workers"
    raise UserError(
        f"the cluster has no room for {wanted} training workers (placement.training.{least}): "
        f"each needs ({_listed(bundle)}); {_there_is(nodes, grown)}, room for {fitting}: add "
        "nodes, or set placement.training (device, num_workers, accelerator_type, "
        f"cpus_per_worker) to the present nodes{_or_wait(grown)}"
    )


def _there_is(nodes: Sequence[Resources], grown: bool) -> str:
    owner = "the cluster with all that its autoscaler may add" if grown else "the cluster"
    return f"{owner} has {describe_nodes(nodes)}"


def _or_wait(grown: bool) -> str:
    if grown:
        return ""
    return ", or placement.cluster.autoscaling=true where an autoscaler adds nodes on demand"


def describe(bundles: Sequence[Resources], across: bool) -> str:
    """One line with the needs of one engine."""
    where = "on any nodes" if across else "on one node"
    return f"{len(bundles)} x ({_listed(bundles[0])})" + (f" {where}" if len(bundles) > 1 else "")


def describe_nodes(nodes: Sequence[Resources]) -> str:
    """One line with the resources of nodes; it counts equal nodes."""
    lines = [_listed(node) for node in nodes]
    return "; ".join(f"{lines.count(line)} x ({line})" for line in dict.fromkeys(lines))


def _listed(resources: Resources) -> str:
    found = [f"{name} {value:g}" for name, value in sorted(resources.items())
             if name.startswith(SHOWN)]  # fmt: skip
    return ", ".join(found) or "nothing"
