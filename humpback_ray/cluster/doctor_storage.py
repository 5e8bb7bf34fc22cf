"""The doctor's checks of storage: the run folder, local sources, disks, the object store."""

from __future__ import annotations

from humpback_ray.cluster import capacity, nodes
from humpback_ray.cluster.doctor_capacity import stored_bytes, workers_of_a_node
from humpback_ray.cluster.findings import CheckVerdict, Finding, ok_or_missing
from humpback_ray.cluster.nodes import ClusterReport, Node
from humpback_ray.config.recipe import Recipe
from humpback_ray.config.settings import ScratchBase, Settings
from humpback_ray.sizing import memory
from humpback_ray.sizing.architecture import known_architecture
from humpback_ray.sizing.memory import gib

NUM_CHECKPOINTS = memory.NUM_CHECKPOINTS_KEPT + 1  # and the one that a training is writing
# Ray writes no object to a fuller disk (RAY_local_fs_capacity_threshold, 2.60).
FULL_DISK = 0.95


def shared_folder(recipe: Recipe, run_folder: str, cluster: ClusterReport) -> list[Finding]:
    """The run folder, which the driver and every node see."""
    check, wanted = "run folder", "the driver and every node see each other's files there"
    way_out = "mount it on every node at the same path, or give a URL (s3://, gs://) with --run"
    if cluster.run_problem:
        found = f"cannot be written: {cluster.run_problem}"
        return [Finding(check, found, wanted, CheckVerdict.MISSING, "choose another with --run")]
    not_seeing = [
        node.name for node in cluster.answering if node.report and not node.report.sees_marker
    ]
    unseen = [node.name for node in cluster.answering if not node.is_seen_by_driver]
    if not_seeing or unseen:
        found = f"{run_folder}: the driver does not see what {', '.join(unseen)} wrote"
        if not_seeing:
            names = ", ".join(not_seeing)
            found = f"{run_folder}: the driver's file is not seen by {names}"
        return [Finding(check, found, wanted, CheckVerdict.MISSING, way_out)]
    found = f"{run_folder}: {len(cluster.answering)} of {len(cluster.answering)} nodes"
    grows = cluster.autoscaler_limits is not None or recipe.placement.cluster.autoscaling
    if grows and "://" not in run_folder:
        later = f"nodes that come later must see it too: {way_out}"
        return [Finding(check, found, wanted, CheckVerdict.WARNING, later)]
    return [Finding(check, found, wanted)]


def local_sources(cluster: ClusterReport) -> list[Finding]:
    """Local sources that a node does not see."""
    missing = {
        path: node.name for node in cluster.answering if node.report
        for path in node.report.missing_paths
    }  # fmt: skip
    return [
        Finding(
            "sources on nodes", f"no {path} on {name}", "every node reads it", CheckVerdict.MISSING,
            "put it where every node sees it at the same path, or at a URL",
        )
        for path, name in missing.items()
    ]  # fmt: skip


def run_disk(recipe: Recipe, run_folder: str, cluster: ClusterReport) -> list[Finding]:
    """Disk of a local run folder; a half-finished run needs less."""
    architecture = known_architecture(recipe)
    if "://" in run_folder or architecture is None:
        return []
    disk = cluster.driver.disks["run"]
    num_models = _num_models(recipe.settings)
    checkpoints = NUM_CHECKPOINTS * memory.CHECKPOINT_BYTES * architecture.num_parameters
    needed = num_models * stored_bytes(architecture) + checkpoints
    wanted = f"{gib(needed)}: {num_models} models, {NUM_CHECKPOINTS} checkpoints, rows"
    verdict = CheckVerdict.OK
    if disk.free < needed:
        verdict = CheckVerdict.MISSING if disk.free < checkpoints else CheckVerdict.WARNING
    way_out = "make room, or choose another place with --run" if verdict != CheckVerdict.OK else ""
    return [Finding("disk, run folder", f"{gib(disk.free)} free", wanted, verdict, way_out)]


def temporary_disk(recipe: Recipe, run_folder: str, cluster: ClusterReport) -> list[Finding]:
    """TMPDIR of a node: its workers' parts of a checkpoint, and copies of models from a URL."""
    architecture, placement = known_architecture(recipe), recipe.placement.training
    users = cluster.holding(capacity.worker_bundle(placement))
    users += cluster.holding(capacity.engine_bundles(recipe.placement.engine)[0])
    if architecture is None or not users:
        return []
    share = workers_of_a_node(placement, cluster) / placement.num_workers
    needed = share * memory.CHECKPOINT_BYTES * architecture.num_parameters
    if "://" in run_folder:
        needed += _num_models(recipe.settings) * stored_bytes(architecture)
    node = min(users, key=lambda node: _disk(node, "temporary").free)
    disk = _disk(node, "temporary")
    found = f"{gib(disk.free)} free in {disk.path} on {node.name}"
    enough = disk.free >= needed
    way_out = "set TMPDIR to a larger disk before Ray starts there"
    return [ok_or_missing("disk, TMPDIR", found, f"{gib(needed)} on each node", enough, way_out)]


def ray_disk(cluster: ClusterReport) -> list[Finding]:
    """The disk of Ray's sessions and spilled objects, on the node where it is fullest."""
    if not cluster.answering:
        return []

    def used(node: Node) -> float:
        return 1 - _disk(node, "ray").free / max(_disk(node, "ray").total, 1)

    node = max(cluster.answering, key=used)
    found = f"{used(node):.0%} used in {_disk(node, 'ray').path} on {node.name}"
    wanted = f"below {FULL_DISK:.0%}, or Ray keeps no object there"
    way_out = "make room there, or start Ray with --temp-dir on another disk"
    return [ok_or_missing("disk, Ray", found, wanted, used(node) < FULL_DISK, way_out)]


def object_store(cluster: ClusterReport) -> list[Finding]:
    """The object store, which should fit into /dev/shm."""
    small = [
        node for node in cluster.answering
        if node.report and node.report.shared_memory is not None
        and node.report.shared_memory < node.resources.get("object_store_memory", 0)
    ]  # fmt: skip
    wanted = "/dev/shm holds the object store"
    if small:
        node, report = small[0], small[0].report
        assert report is not None
        store = gib(node.resources["object_store_memory"])
        shared = gib(report.shared_memory or 0)
        found = f"/dev/shm of {shared} on {node.name}, object store of {store}"
        way_out = "enlarge it (in containers --shm-size), or start Ray with a smaller "
        way_out += "--object-store-memory: beyond /dev/shm objects lie on the disk, and slowly"
        return [Finding("object store", found, wanted, CheckVerdict.WARNING, way_out)]
    smallest = min(
        (node.resources.get("object_store_memory", 0.0) for node in cluster.answering), default=0
    )
    return [Finding("object store", f"{gib(smallest)} on the smallest node", wanted)]


def _num_models(settings: Settings) -> int:
    """Number of models of a run: M_yx, M_0, one for each iteration, a base from scratch."""
    return 2 + settings.iterations + isinstance(settings.base, ScratchBase)


def _disk(node: Node, name: str) -> nodes.Disk:
    assert node.report is not None
    return node.report.disks[name]
