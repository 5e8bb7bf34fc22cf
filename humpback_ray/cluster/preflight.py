"""What every run makes sure of before its first stage."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

from humpback_ray.cluster import capacity, nodes
from humpback_ray.cluster.nodes import AutoscalerLimits, Node
from humpback_ray.config.recipe import Recipe
from humpback_ray.errors import UserError
from humpback_ray.sizing.architecture import known_architecture
from humpback_ray.sizing.memory import check_engine_fits

GENERATING = frozenset({"augment", "rate", "evaluate"})


# --- the must-haves of a run --------------------------------------------------------------------


def within_reach(
    there: Iterable[Node], autoscaler_limits: AutoscalerLimits, bundle: capacity.Resources
) -> list[capacity.Resources]:
    """What there may be at most: the head, and the autoscaler's best for a bundle up to its limit.

    Nodes that are there now are the autoscaler's own, of its types.
    """
    heads = [node.resources for node in there if node.is_head]
    return heads + _best(autoscaler_limits, bundle)


def _best(
    autoscaler_limits: AutoscalerLimits, bundle: capacity.Resources
) -> list[capacity.Resources]:
    types = sorted(
        autoscaler_limits.types,
        key=lambda kind: capacity.num_bundles(bundle, kind.resources),
        reverse=True,
    )
    found = [
        kind.resources
        for kind in types
        for _ in range(min(kind.max_nodes, autoscaler_limits.max_nodes))
    ]
    return found[: autoscaler_limits.max_nodes]


def check_capacity(
    recipe: Recipe,
    kinds: Collection[str],
    there: Sequence[Node],
    ask_autoscaler_limits: Callable[[], AutoscalerLimits | None],
) -> None:
    """Refuse engines and training workers that the cluster and its autoscaler can never have.

    Args:
        recipe: settings and placement.
        kinds: of the stages that are to be run.
        there: the nodes.
        ask_growth: asks what the autoscaler may bring; only called where the nodes are not enough.

    Raises:
        UserError: what is needed, what there is, and the ways out.
    """
    placement = recipe.placement
    kinds = set(kinds) - ({"rate"} if recipe.settings.rating.endpoint else set())
    checks: list[tuple[Callable[..., int], capacity.Resources]] = []
    if kinds & GENERATING:
        num_pools = 2 if placement.engine.one_stream and {"augment", "rate"} <= kinds else 1

        def engines(resources: Sequence[capacity.Resources], grown: bool) -> int:
            return capacity.check_engines(placement.engine, resources, num_pools, grown=grown)

        checks.append((engines, capacity.engine_bundles(placement.engine)[0]))
    if "finetune" in kinds:

        def workers(resources: Sequence[capacity.Resources], grown: bool) -> int:
            return capacity.check_workers(placement.training, resources, grown=grown)

        checks.append((workers, capacity.worker_bundle(placement.training)))
    for check, bundle in checks:
        try:
            check([node.resources for node in there], grown=False)
        except UserError:
            autoscaler_limits = ask_autoscaler_limits()
            if autoscaler_limits is not None:
                check(within_reach(there, autoscaler_limits, bundle), grown=True)
            elif not placement.cluster.autoscaling:
                raise


def check_shared(run_folder: str, nodes_not_seeing: Sequence[str]) -> None:
    """Refuse a run folder that nodes do not see.

    Raises:
        UserError: the nodes, and the ways out.
    """
    if nodes_not_seeing:
        raise UserError(
            f"the run folder {run_folder} is not seen by {len(nodes_not_seeing)} node(s): "
            f"{', '.join(nodes_not_seeing)}; "
            "mount it on every node at the same path, or give a URL that all nodes reach "
            "(s3://, gs://) with --run"
        )


def check_cluster(recipe: Recipe, run_folder: str, kinds: Collection[str]) -> None:
    """Refuse a cluster that can never run stages of these kinds; `humpback doctor` looks at more.

    Raises:
        UserError: no room for engines or workers, or a node that does not see the run's folder.
    """
    there = nodes.living_nodes()
    check_capacity(recipe, kinds, there, nodes.autoscaler_limits)
    if len(there) > 1:
        check_shared(run_folder, nodes.nodes_not_seeing(run_folder))


def check_engines_fit(recipe: Recipe) -> None:
    """Say that the models are too large before hours of work and not when the first engine starts.

    Raises:
        UserError: what is needed, what there is, and the settings that would make it fit.
    """
    placement, settings = recipe.placement.engine, recipe.settings
    architecture = known_architecture(recipe)
    memory = nodes.device_memory(placement)
    if architecture is None or memory is None:
        return
    check_engine_fits(
        architecture,
        dtype=settings.dtype,
        context_length=settings.context_length,
        tensor_parallel_size=placement.tensor_parallel_size,
        pipeline_parallel_size=placement.pipeline_parallel_size,
        gpu_memory_utilization=placement.gpu_memory_utilization
        if placement.device == "gpu"
        else 1.0,
        gpu_memory=memory,
    )


def check(recipe: Recipe, run_folder: str, kinds: Collection[str]) -> None:
    """Check all that stages of these kinds need of the cluster, before the first of them runs."""
    check_cluster(recipe, run_folder, kinds)
    if GENERATING & set(kinds):
        check_engines_fit(recipe)
