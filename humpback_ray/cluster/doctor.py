"""Findings about a cluster for one recipe: found, wanted, verdict, and the way out.

All checks are arithmetic on the report of `nodes.py` and start nothing. A run makes only the checks
of `preflight.py` before its first stage; `humpback doctor` shows all of them. Each function judges
one subject: capacity in `doctor_capacity.py`, storage in `doctor_storage.py`, the nodes and their
software here.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from humpback_ray import storage
from humpback_ray.cluster import capacity, connect, doctor_capacity, doctor_storage, nodes
from humpback_ray.cluster.findings import CheckVerdict, Finding
from humpback_ray.cluster.nodes import ClusterReport
from humpback_ray.config.dataset_address import dataset_address, is_dataset
from humpback_ray.config.fields import locations
from humpback_ray.config.placement import Placement
from humpback_ray.config.recipe import Recipe
from humpback_ray.corpus import hub_datasets
from humpback_ray.errors import UserError
from humpback_ray.models import problems as base_problems
from humpback_ray.models.files import Problem

MUST_BE_EQUAL = ("ray", "python", "humpback_ray")
# Time stamps of several nodes are compared to a second; S3 refuses requests 15 minutes off
# (docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html, RequestTimeTooSkewed).
CLOCK_WARNING_SECONDS, CLOCK_REFUSED_SECONDS = 1.0, 900.0


def examine(recipe: Recipe, run_folder: str, sources: Sequence[str]) -> list[Finding]:
    """Join the cluster of a recipe, ask its nodes, and judge their answers.

    Args:
        recipe: settings and placement.
        run_folder: absolute path or URL; nothing is left in it.
        sources: a line for each missing source of the recipe.

    Raises:
        UserError: the cluster cannot be joined.
    """
    connect.join_cluster(recipe)
    cluster = nodes.inspect_nodes(run_folder, paths_to_see(recipe))
    base = base_problems.find_problems(recipe.settings)
    sources = [*sources, *unreached_datasets(recipe)]
    return find_problems(recipe, run_folder, cluster, sources, base)


def unreached_datasets(recipe: Recipe) -> list[str]:
    """A line for each dataset of a recipe that cannot be opened from this machine."""
    problems = []
    for key, _, value in locations(recipe.settings):
        if is_dataset(value):
            try:
                hub_datasets.open_dataset(dataset_address(value), f"settings.{key}")
            except UserError as error:
                problems.append(str(error))
    return problems


def paths_to_see(recipe: Recipe) -> list[str]:
    """Local files and folders of a recipe that exist here and that tasks on every node read."""
    paths = [
        (is_dataset(value) and dataset_address(value).folder) or storage.absolute(value)
        for _, location, value in locations(recipe.settings)
        if location.is_read_on_nodes
    ]
    # The others are URLs, hub ids, patterns, or `installed-packages`.
    return [path for path in paths if os.path.exists(path)]


def find_problems(
    recipe: Recipe,
    run_folder: str,
    cluster: ClusterReport,
    sources: Sequence[str] = (),
    base: Sequence[Problem] = (),
) -> list[Finding]:
    """Findings of every check that a run of this recipe needs.

    Args:
        recipe: settings and placement.
        run_folder: absolute path or URL.
        cluster: the report of `nodes.inspect_nodes`.
        sources: a line for each missing source of the recipe.
        base: problems of the base model's files.
    """
    parts = (
        answers(cluster),
        doctor_capacity.engines(recipe, cluster),
        doctor_capacity.workers(recipe, cluster),
        doctor_capacity.gpus(recipe, cluster),
        doctor_capacity.engine_memory(recipe, cluster),
        doctor_capacity.training_memory(recipe, cluster),
        doctor_capacity.host_memory(recipe, cluster),
        doctor_storage.shared_folder(recipe, run_folder, cluster),
        doctor_storage.local_sources(cluster),
        doctor_storage.run_disk(recipe, run_folder, cluster),
        doctor_storage.temporary_disk(recipe, run_folder, cluster),
        doctor_storage.ray_disk(cluster),
        doctor_storage.object_store(cluster),
        versions(cluster),
        libraries(recipe.placement, cluster),
        clock(run_folder, cluster),
        access(cluster),
        base_model(base),
        missing_sources(sources),
    )
    return [finding for part in parts for finding in part]


def exit_code(findings: Iterable[Finding]) -> int:
    """0 when nothing is missing, else 2."""
    return 2 if any(finding.verdict == CheckVerdict.MISSING for finding in findings) else 0


def answers(cluster: ClusterReport) -> list[Finding]:
    """Nodes that do not answer."""
    silent = [node for node in cluster.nodes if node.report is None]
    found = f"{len(cluster.answering)} of {len(cluster.nodes)} answer"
    if not silent:
        return [Finding("nodes", found, "every node answers")]
    reasons = "; ".join(f"{node.name}: {node.failure}" for node in silent)
    way_out = "see that the package is installed there and the node is not overloaded"
    return [
        Finding(
            "nodes", f"{found} ({reasons})", "every node answers", CheckVerdict.MISSING, way_out
        )
    ]


def versions(cluster: ClusterReport) -> list[Finding]:
    """Versions of every node against the driver's; `libraries` reports missing packages."""
    ours = cluster.driver.versions
    others = {
        name: f"{name} {node.report.versions[name]} on {node.name} (driver {ours[name]})"
        for node in cluster.answering if node.report
        for name in ours if node.report.versions.get(name, ours[name]) != ours[name]
    }  # fmt: skip
    wanted = "as the driver's on every node"
    if not others:
        found = ", ".join(f"{name} {version}" for name, version in ours.items())
        return [Finding("versions", found, wanted)]
    grave = any(name in MUST_BE_EQUAL for name in others)
    return [
        Finding(
            "versions", "; ".join(others.values()), wanted,
            CheckVerdict.MISSING if grave else CheckVerdict.WARNING,
            "install the same lock file, and this state of humpback_ray, on every node",
        )
    ]  # fmt: skip


def libraries(placement: Placement, cluster: ClusterReport) -> list[Finding]:
    """Packages of engines and training workers, on the nodes that may get them."""
    engine = capacity.engine_bundles(placement.engine)[0]
    worker = capacity.worker_bundle(placement.training)
    absent = [
        f"{name} on {node.name}"
        for bundle, names in ((engine, ("vllm",)), (worker, ("torch", "deepspeed")))
        for node in cluster.holding(bundle) if node.report
        for name in (*names, "transformers") if name not in node.report.versions
    ]  # fmt: skip
    wrong = [
        node.name for node in cluster.holding(engine) if node.report
        and placement.engine.device == "gpu" and "cpu" in node.report.versions.get("vllm", "")
    ]  # fmt: skip
    if absent:
        found, way_out = f"no {', '.join(absent)}", "install the lock file of requirements/"
    elif wrong:
        found = f"vLLM's CPU build on {', '.join(wrong)}"
        way_out = "install requirements/gpu.txt there"
    else:
        return []
    wanted = "what engines and training workers import"
    return [Finding("libraries", found, wanted, CheckVerdict.MISSING, way_out)]


def clock(run_folder: str, cluster: ClusterReport) -> list[Finding]:
    """The clock that is furthest from the driver's."""
    if not cluster.answering:
        return []
    node = max(cluster.answering, key=lambda node: abs(node.seconds_ahead))
    off = max(abs(node.seconds_ahead) - node.clock_error, 0.0)
    found = f"{abs(node.seconds_ahead):.3f} s ± {node.clock_error:.3f} s at most, on {node.name}"
    wanted = f"within {CLOCK_WARNING_SECONDS:g} s of the driver's"
    way_out = "run a time service (chrony, systemd-timesyncd) on every node"
    if off <= CLOCK_WARNING_SECONDS:
        return [Finding("clock", found, wanted)]
    refused = off >= CLOCK_REFUSED_SECONDS and "://" in run_folder
    verdict = CheckVerdict.MISSING if refused else CheckVerdict.WARNING
    return [Finding("clock", found, wanted, verdict, way_out)]


def access(cluster: ClusterReport) -> list[Finding]:
    """Ports of the head that others reach without a token."""
    head = next((node for node in cluster.answering if node.is_head), None)
    if head is None or head.report is None:
        return []
    ports = {"Ray's own port": cluster.gcs_port, "dashboard": cluster.dashboard_port}
    open_to = [
        f"{name}, {port} on {', '.join(addresses)}" for name, port in ports.items()
        if (addresses := _beyond_loopback(head.report.listening.get(port, ())))
    ]  # fmt: skip
    found = "token on" if head.report.uses_token else "no token"
    found += f"; reachable from outside: {', '.join(open_to)}" if open_to else "; loopback only"
    wanted = "a token, or loopback only"
    if head.report.uses_token or not open_to:
        return [Finding("access", found, wanted)]
    way_out = (
        "who reaches it can run code here: set RAY_AUTH_MODE=token where Ray is started, and "
        "--dashboard-host=127.0.0.1"
    )
    return [Finding("access", found, wanted, CheckVerdict.WARNING, way_out)]


def _beyond_loopback(addresses: Iterable[str]) -> list[str]:
    return [each for each in addresses if not each.startswith(("127.", "::1", "::ffff:127."))]


def base_model(problems: Sequence[Problem]) -> list[Finding]:
    """Problems of the base model's files."""
    wanted = "one that can be trained and served as the recipe asks"
    return [
        Finding("base model", each.found, wanted, CheckVerdict.MISSING, each.way_out)
        for each in problems
    ]


def missing_sources(missing: Sequence[str]) -> list[Finding]:
    """Sources of the recipe that are missing."""
    wanted = "corpus, seed, base model, prompts"
    if not missing:
        return [Finding("sources", "all there", wanted)]
    return [
        Finding("sources", found, wanted, CheckVerdict.MISSING, way_out)
        for found, _, way_out in (line.partition(": ") for line in missing)
    ]
