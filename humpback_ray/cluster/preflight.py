"""Checks that every run makes before its first stage, because each failure would cost hours."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from humpback_ray.cluster import capacity, nodes
from humpback_ray.cluster.nodes import AutoscalerLimits, Node
from humpback_ray.config.recipe import Recipe
from humpback_ray.errors import UserError
from humpback_ray.models.files import Unusable
from humpback_ray.models.problems import find_problems
from humpback_ray.sizing.architecture import known_architecture
from humpback_ray.sizing.memory import check_engine_fits


def check_inputs(
    recipe: Recipe, *, uses_models: bool, rates: bool, evaluates: bool = False
) -> None:
    """Refuse what a run would meet only after hours, as far as recipe and files tell it.

    Needs no cluster and writes nothing, so a run checks it before everything else.

    Args:
        recipe: settings and placement.
        uses_models: a stage of the run that is not done trains or generates.
        rates: a stage that will run rates.
        evaluates: a stage that will run evaluates.

    Raises:
        UserError: a base model that cannot be used, or an endpoint without its key.
    """
    if uses_models and (problems := find_problems(recipe.settings)):
        raise Unusable(problems[0])
    if rates and recipe.settings.rating.endpoint:
        recipe.placement.endpoint.read_key()
    judge = recipe.settings.evaluation.judge
    if evaluates and judge and judge.endpoint:
        recipe.placement.judge_endpoint.read_key()


def check(recipe: Recipe, run_folder: str, *, uses_engines: bool, uses_workers: bool) -> None:
    """Refuse a cluster that can never run the stages of a run; `humpback doctor` checks more.

    A run whose stages use no engine asks the cluster for no engine, GPU or memory.

    Args:
        recipe: settings and placement.
        run_folder: absolute path or URL.
        uses_engines: a stage that will run generates on engines.
        uses_workers: a stage that will run trains.

    Raises:
        UserError: no capacity for engines or workers, a node that does not see the run folder, or
            a model that is too large for an engine.
    """
    living = nodes.living_nodes()
    check_capacity(
        recipe, living, nodes.autoscaler_limits, uses_engines=uses_engines,
        uses_workers=uses_workers,
    )  # fmt: skip
    if len(living) > 1:
        check_shared(run_folder, nodes.nodes_not_seeing(run_folder))
    if uses_engines:
        check_engines_fit(recipe)


def check_capacity(
    recipe: Recipe,
    living: Sequence[Node],
    ask_autoscaler_limits: Callable[[], AutoscalerLimits | None],
    *,
    uses_engines: bool,
    uses_workers: bool,
) -> None:
    """Refuse engines and training workers that the cluster and its autoscaler can never have.

    Args:
        recipe: settings and placement.
        living: the nodes.
        ask_autoscaler_limits: called only if the living nodes are not enough.
        uses_engines: a stage that will run generates on engines.
        uses_workers: a stage that will run trains.

    Raises:
        UserError: the needed and the present resources, and the ways out.
    """
    placement = recipe.placement
    checks: list[tuple[Callable[..., int], capacity.Resources]] = []
    if uses_engines:

        def engines(resources: Sequence[capacity.Resources], grown: bool) -> int:
            return capacity.check_engines(placement.engine, resources, grown=grown)

        checks.append((engines, capacity.engine_bundles(placement.engine)[0]))
    if uses_workers:

        def workers(resources: Sequence[capacity.Resources], grown: bool) -> int:
            return capacity.check_workers(placement.training, resources, grown=grown)

        checks.append((workers, capacity.worker_bundle(placement.training)))
    for fits, bundle in checks:
        try:
            fits([node.resources for node in living], grown=False)
        except UserError:
            limits = ask_autoscaler_limits()
            if limits is not None:
                fits(within_reach(living, limits, bundle), grown=True)
            elif not placement.cluster.autoscaling:
                raise


def within_reach(
    living: Iterable[Node], limits: AutoscalerLimits, bundle: capacity.Resources
) -> list[capacity.Resources]:
    """Resources of the head, and of the autoscaler's best nodes for a bundle up to its limits.

    The other living nodes do not count, because the autoscaler has started them within its limits.
    """
    heads = [node.resources for node in living if node.is_head]
    types = sorted(
        limits.types,
        key=lambda kind: capacity.num_bundles(bundle, kind.resources),
        reverse=True,
    )
    best = [kind.resources for kind in types for _ in range(min(kind.max_nodes, limits.max_nodes))]
    return heads + best[: limits.max_nodes]


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


def check_engines_fit(recipe: Recipe) -> None:
    """Refuse models that are too large for an engine, as far as model and device are known.

    Raises:
        UserError: the needed and the present memory, and the settings that would make it fit.
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
