"""Findings about a cluster for one recipe: found, wanted, verdict, and the way out.

All checks are arithmetic on the report of `nodes.py` and start nothing. A run makes only the checks
of `preflight.py` before its first stage; `humpback doctor` shows all of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from humpback_ray import storage
from humpback_ray.cluster import capacity, nodes
from humpback_ray.cluster.nodes import ClusterReport, Node
from humpback_ray.cluster.preflight import within_reach
from humpback_ray.config.fields import locations
from humpback_ray.config.placement import EnginePlacement, TrainingPlacement
from humpback_ray.config.recipe import Recipe
from humpback_ray.config.settings import ScratchBase
from humpback_ray.sizing import hardware, memory
from humpback_ray.sizing.architecture import Architecture, known_architecture
from humpback_ray.sizing.hardware import GIB
from humpback_ray.sizing.memory import gib

MUST_BE_EQUAL = ("ray", "python", "humpback_ray")
NUM_CHECKPOINTS = memory.NUM_CHECKPOINTS_KEPT + 1  # and the one that a training is writing
WORKER_PROCESS = 1 * GIB  # a training worker without its model: libraries and buffers; ours
# Ray writes no object to a fuller disk (RAY_local_fs_capacity_threshold, 2.60).
FULL_DISK = 0.95
# Time stamps of several nodes are compared to a second; S3 refuses requests 15 minutes off
# (docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html, RequestTimeTooSkewed).
CLOCK_WARNING_SECONDS, CLOCK_REFUSED_SECONDS = 1.0, 900.0


class Verdict(StrEnum):
    """Consequence of a finding for the run."""

    OK = "ok"
    WARNING = "warning"  # slower or less safe without it, or unknown
    MISSING = "missing"  # the run would fail or wait forever


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's table."""

    check: str
    found: str
    wanted: str
    verdict: Verdict = Verdict.OK
    way_out: str = ""


def paths_to_see(recipe: Recipe) -> list[str]:
    """Local files and folders of a recipe that exist here and that tasks on every node read."""
    paths = [
        storage.absolute(value)
        for _, location, value in locations(recipe.settings)
        if location.is_read_on_nodes
    ]
    # The others are URLs, hub ids, patterns, or `installed-packages`.
    return [path for path in paths if os.path.exists(path)]


def find_problems(
    recipe: Recipe, run_folder: str, cluster: ClusterReport, sources: Sequence[str] = ()
) -> list[Finding]:
    """Findings of every check that a run of this recipe needs.

    Args:
        recipe: settings and placement.
        run_folder: absolute path or URL.
        cluster: the report of `nodes.inspect_nodes`.
        sources: a line for each missing source of the recipe.
    """
    return _Inspection(recipe, run_folder, cluster).findings() + _sources(sources)


def _sources(missing: Sequence[str]) -> list[Finding]:
    wanted = "corpus, seed, base model, prompts"
    if not missing:
        return [Finding("sources", "all there", wanted)]
    return [
        Finding("sources", found, wanted, Verdict.MISSING, way_out)
        for found, _, way_out in (line.partition(": ") for line in missing)
    ]


@dataclass(frozen=True)
class _Inspection:
    recipe: Recipe
    run_folder: str
    cluster: ClusterReport

    def findings(self) -> list[Finding]:
        parts = (
            self.answers(), self.engines(), self.workers(), self.gpus(), self.engine_memory(),
            self.training_memory(), self.host_memory(), self.shared_folder(), self.local_sources(),
            self.run_disk(), self.temporary_disk(), self.ray_disk(), self.object_store(),
            self.versions(), self.libraries(), self.clock(), self.token(),
        )  # fmt: skip
        return [finding for part in parts for finding in part]

    # --- what is known -----------------------------------------------------------------------

    @property
    def engine(self) -> EnginePlacement:
        return self.recipe.placement.engine

    @property
    def training(self) -> TrainingPlacement:
        return self.recipe.placement.training

    @property
    def architecture(self) -> Architecture | None:
        return known_architecture(self.recipe)

    @property
    def answering(self) -> list[Node]:
        return [node for node in self.cluster.nodes if node.report is not None]

    @property
    def resources(self) -> list[capacity.Resources]:
        return [node.resources for node in self.cluster.nodes]

    @property
    def num_least_workers(self) -> int:
        return self.training.min_workers or self.training.num_workers

    def holding(self, bundle: capacity.Resources) -> list[Node]:
        """Nodes that have answered and hold at least one such bundle."""
        return [node for node in self.answering if capacity.num_bundles(bundle, node.resources)]

    def weights(self) -> float:
        """Bytes of one model's stored weights; 0 if the architecture is unknown."""
        return 2.0 * self.architecture.num_parameters if self.architecture else 0.0

    def num_models(self) -> int:
        """Number of models of a run: M_yx, M_0, one for each iteration, a base from scratch."""
        settings = self.recipe.settings
        return 2 + settings.iterations + isinstance(settings.base, ScratchBase)

    def workers_of_a_node(self) -> int:
        """Largest number of training workers on one node."""
        bundle = capacity.worker_bundle(self.training)
        fitting = [capacity.num_bundles(bundle, resources) for resources in self.resources]
        return min(max(fitting, default=0) or self.training.num_workers, self.training.num_workers)

    # --- nodes and their devices ---------------------------------------------------------------

    def answers(self) -> list[Finding]:
        silent = [node for node in self.cluster.nodes if node.report is None]
        found = f"{len(self.answering)} of {len(self.cluster.nodes)} answer"
        if not silent:
            return [Finding("nodes", found, "every node answers")]
        reasons = "; ".join(f"{node.name}: {node.failure}" for node in silent)
        way_out = "see that the package is installed there and the node is not overloaded"
        return [
            Finding("nodes", f"{found} ({reasons})", "every node answers", Verdict.MISSING, way_out)
        ]

    def engines(self) -> list[Finding]:
        placement = self.engine
        bundles = capacity.engine_bundles(placement)

        def count(there: Sequence[capacity.Resources]) -> int:
            return capacity.num_engines(bundles, there, placement.across_nodes)

        least, most = placement.min_engines, placement.max_engines
        wanted = _from_to(least, most)
        wanted += f" with {capacity.describe(bundles, placement.across_nodes)} each"
        return self.capacity_for(
            "engines", wanted, count, least, most, bundles[0],
            "placement.engine (device, tensor_parallel_size, accelerator_type)",
            asks_for_nodes=self.recipe.placement.cluster.autoscaling,
        )  # fmt: skip

    def workers(self) -> list[Finding]:
        bundle = capacity.worker_bundle(self.training)
        most, least = self.training.num_workers, self.num_least_workers

        def count(there: Sequence[capacity.Resources]) -> int:
            return sum(capacity.num_bundles(bundle, resources) for resources in there)

        wanted = f"{_from_to(least, most)} with {capacity.describe([bundle], across=True)} each"
        return self.capacity_for(
            "training workers", wanted, count, least, most, bundle,
            "placement.training (device, num_workers, accelerator_type)",
            asks_for_nodes=True,
        )  # fmt: skip

    def capacity_for(
        self,
        check: str,
        wanted: str,
        count: Callable[[Sequence[capacity.Resources]], int],
        least: int,
        most: int,
        bundle: capacity.Resources,
        settings: str,
        *,
        asks_for_nodes: bool,
    ) -> list[Finding]:
        """Compare the capacity now, and with all that the autoscaler may add, with the need."""
        now, autoscaler_limits = count(self.resources), self.cluster.autoscaler_limits
        found = f"room for {min(now, most)}: {capacity.describe_nodes(self.resources)}"
        if now >= most:
            return [Finding(check, found, wanted)]
        if autoscaler_limits is not None:
            later = count(within_reach(self.cluster.nodes, autoscaler_limits, bundle))
            found += f"; with all that the autoscaler may add, room for {min(later, most)}"
            if later >= least and asks_for_nodes:
                return [Finding(check, found, wanted)]
            if later >= least > now:
                way_out = "set placement.cluster.autoscaling=true, so that engines ask for nodes"
                return [Finding(check, found, wanted, Verdict.WARNING, way_out)]
        elif self.recipe.placement.cluster.autoscaling:
            way_out = "the autoscaler does not show its limits: see that they are enough"
            return [Finding(check, found, wanted, Verdict.WARNING, way_out)]
        if now >= least:
            way_out = f"more nodes, or fewer in {settings}; the run works as it is"
            return [Finding(check, found, wanted, Verdict.WARNING, way_out)]
        way_out = f"add nodes, or set {settings} to the present nodes"
        return [Finding(check, found, wanted, Verdict.MISSING, way_out)]

    def gpus(self) -> list[Finding]:
        """Compare the GPUs that Ray counts with those that NVIDIA's driver lists."""
        if "gpu" not in (self.engine.device, self.training.device):
            return []
        listed = sum(len(node.report.gpus) for node in self.answering if node.report)
        names = {gpu.name for node in self.answering if node.report for gpu in node.report.gpus}
        found = f"{listed} ({', '.join(sorted(names))})"
        wanted = "as many as Ray counts"
        for node in self.answering:
            assert node.report is not None
            counted, there = int(node.resources.get("GPU", 0)), len(node.report.gpus)
            if counted > there:
                found = f"{there} on {node.name}, where Ray counts {counted}"
                way_out = "start Ray there with the right --num-gpus; see that nvidia-smi runs"
                return [Finding("GPUs", found, wanted, Verdict.MISSING, way_out)]
            if counted < there:
                found = f"{there} on {node.name}, where Ray counts {counted}"
                way_out = "start Ray there without --num-gpus and CUDA_VISIBLE_DEVICES to use all"
                return [Finding("GPUs", found, wanted, Verdict.WARNING, way_out)]
        # `engines` and `workers` report that there is no GPU at all.
        return [Finding("GPUs", found, wanted)] if names else []

    # --- memory --------------------------------------------------------------------------------

    def gpu_memory(self, bundle: capacity.Resources, accelerator_type: str | None) -> int | None:
        """Bytes of the smallest GPU that a bundle may get; by its name if no node has one."""
        found = [
            gpu.memory for node in self.holding(bundle) if node.report for gpu in node.report.gpus
        ]
        if found:
            return min(found)
        known = hardware.GPUS.get((accelerator_type or "").removesuffix("G"))
        return known.memory if known else None

    def memory(self, check: str, needed: float, there: int | None, way_out: str) -> list[Finding]:
        wanted = f"{gib(needed)} at least"
        if there is None:
            why = "no such GPU is there to be asked"
            return [Finding(check, why, wanted, Verdict.WARNING, "ask again when nodes are there")]
        verdict = Verdict.OK if needed <= there else Verdict.MISSING
        way_out = way_out if verdict == Verdict.MISSING else ""
        return [Finding(check, gib(there), wanted, verdict, way_out)]

    def engine_memory(self) -> list[Finding]:
        architecture, settings = self.architecture, self.recipe.settings
        if architecture is None:
            found = "the base model's architecture is not known"
            way_out = "memory and disk are not judged; `humpback probe` measures"
            return [Finding("memory", found, "a known one", Verdict.WARNING, way_out)]
        tensor, pipeline = self.engine.tensor_parallel_size, self.engine.pipeline_parallel_size
        needed = memory.ENGINE_WORKSPACE + sum(
            memory.engine_bytes(
                architecture, settings.dtype, settings.context_length, tensor, pipeline
            )
        )
        way_out = "a larger tensor_parallel_size of placement.engine, or larger GPUs"
        if self.engine.device == "gpu":
            needed /= self.engine.gpu_memory_utilization
            bundle = capacity.engine_bundles(self.engine)[0]
            there = self.gpu_memory(bundle, self.engine.accelerator_type)
            return self.memory("GPU memory, engines", needed, there, way_out)
        per_node = -(-self.engine.max_engines // max(len(self.cluster.nodes), 1))
        there = int(self.smallest_memory() / per_node)
        way_out = "fewer placement.engine.max_engines, or nodes with more memory"
        return self.memory("memory, an engine", needed, there, way_out)

    def training_memory(self) -> list[Finding]:
        architecture, placement = self.architecture, self.training
        if architecture is None:
            return []
        settings = self.recipe.settings
        lengths = [settings.backward_training.max_length, settings.forward_training.max_length]
        tokens = placement.micro_batch_tokens or max(lengths)
        stages = (placement.zero_stage,) if placement.zero_stage else (1, 2, 3)
        states = min(
            memory.state_bytes(architecture, stage, self.num_least_workers) for stage in stages
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
            there = self.gpu_memory(capacity.worker_bundle(placement), placement.accelerator_type)
            needed = states + activations + memory.TRAINING_WORKSPACE
            return self.memory("GPU memory, training", needed, there, way_out)
        needed = self.workers_of_a_node() * (states + activations + WORKER_PROCESS)
        return self.memory("memory, training", needed, int(self.smallest_memory()), way_out)

    def host_memory(self) -> list[Finding]:
        """Memory of a node with GPUs: offloaded states, and the weights that all workers read."""
        placement = self.training
        users = self.holding(capacity.worker_bundle(placement))
        users += self.holding(capacity.engine_bundles(self.engine)[0])
        uses_gpus = "gpu" in (self.engine.device, placement.device)
        if self.architecture is None or not uses_gpus or not users:
            return []
        offloaded = "cpu" in (placement.offload_optimizer, placement.offload_parameters)
        share = self.workers_of_a_node() / placement.num_workers
        offloaded_bytes = share * memory.OFFLOADED_BYTES * self.architecture.num_parameters
        needed = offloaded_bytes if offloaded else 0.0
        there = self.smallest_memory()
        wanted = f"{gib(needed + self.weights())} on each node with GPUs"
        if there >= needed + self.weights():
            return [Finding("host memory", gib(there), wanted)]
        verdict = Verdict.MISSING if there < needed else Verdict.WARNING
        way_out = "nodes with more memory" + (", or no offload to cpu" if offloaded else "")
        return [Finding("host memory", gib(there), wanted, verdict, way_out)]

    def smallest_memory(self) -> float:
        """Bytes that Ray offers on the smallest node that engines or workers may use."""
        bundles = [capacity.engine_bundles(self.engine)[0], capacity.worker_bundle(self.training)]
        used = [
            resources for resources in self.resources
            if any(capacity.num_bundles(bundle, resources) for bundle in bundles)
        ]  # fmt: skip
        return min(
            (resources.get("memory", 0.0) for resources in used or self.resources), default=0
        )

    # --- files ---------------------------------------------------------------------------------

    def shared_folder(self) -> list[Finding]:
        check, wanted = "run folder", "the driver and every node see each other's files there"
        way_out = "mount it on every node at the same path, or give a URL (s3://, gs://) with --run"
        if self.cluster.run_problem:
            found = f"cannot be written: {self.cluster.run_problem}"
            return [Finding(check, found, wanted, Verdict.MISSING, "choose another with --run")]
        not_seeing = [
            node.name for node in self.answering if node.report and not node.report.sees_marker
        ]
        unseen = [node.name for node in self.answering if not node.is_seen_by_driver]
        if not_seeing or unseen:
            found = f"{self.run_folder}: the driver does not see what {', '.join(unseen)} wrote"
            if not_seeing:
                names = ", ".join(not_seeing)
                found = f"{self.run_folder}: the driver's file is not seen by {names}"
            return [Finding(check, found, wanted, Verdict.MISSING, way_out)]
        found = f"{self.run_folder}: {len(self.answering)} of {len(self.answering)} nodes"
        grows = (
            self.cluster.autoscaler_limits is not None or self.recipe.placement.cluster.autoscaling
        )
        if grows and "://" not in self.run_folder:
            later = f"nodes that come later must see it too: {way_out}"
            return [Finding(check, found, wanted, Verdict.WARNING, later)]
        return [Finding(check, found, wanted)]

    def local_sources(self) -> list[Finding]:
        missing = {
            path: node.name for node in self.answering if node.report
            for path in node.report.missing_paths
        }  # fmt: skip
        return [
            Finding(
                "sources on nodes", f"no {path} on {name}", "every node reads it", Verdict.MISSING,
                "put it where every node sees it at the same path, or at a URL",
            )
            for path, name in missing.items()
        ]  # fmt: skip

    def run_disk(self) -> list[Finding]:
        """Disk of a local run folder; a half-finished run needs less."""
        if "://" in self.run_folder or self.architecture is None:
            return []
        disk = self.cluster.driver.disks["run"]
        checkpoints = NUM_CHECKPOINTS * memory.CHECKPOINT_BYTES * self.architecture.num_parameters
        needed = self.num_models() * self.weights() + checkpoints
        wanted = f"{gib(needed)}: {self.num_models()} models, {NUM_CHECKPOINTS} checkpoints, rows"
        verdict = Verdict.OK
        if disk.free < needed:
            verdict = Verdict.MISSING if disk.free < checkpoints else Verdict.WARNING
        way_out = "make room, or choose another place with --run" if verdict != Verdict.OK else ""
        return [Finding("disk, run folder", f"{gib(disk.free)} free", wanted, verdict, way_out)]

    def temporary_disk(self) -> list[Finding]:
        """TMPDIR of a node: its workers' parts of a checkpoint, and copies of models from a URL."""
        users = self.holding(capacity.worker_bundle(self.training))
        users += self.holding(capacity.engine_bundles(self.engine)[0])
        if self.architecture is None or not users:
            return []
        share = self.workers_of_a_node() / self.training.num_workers
        needed = share * memory.CHECKPOINT_BYTES * self.architecture.num_parameters
        if "://" in self.run_folder:
            needed += self.num_models() * self.weights()
        node = min(users, key=lambda node: _disk(node, "temporary").free)
        disk = _disk(node, "temporary")
        found = f"{gib(disk.free)} free in {disk.path} on {node.name}"
        enough = disk.free >= needed
        way_out = "set TMPDIR to a larger disk before Ray starts there"
        return [_needed("disk, TMPDIR", found, f"{gib(needed)} on each node", enough, way_out)]

    def ray_disk(self) -> list[Finding]:
        if not self.answering:
            return []

        def used(node: Node) -> float:
            return 1 - _disk(node, "ray").free / max(_disk(node, "ray").total, 1)

        node = max(self.answering, key=used)
        found = f"{used(node):.0%} used in {_disk(node, 'ray').path} on {node.name}"
        wanted = f"below {FULL_DISK:.0%}, or Ray keeps no object there"
        way_out = "make room there, or start Ray with --temp-dir on another disk"
        return [_needed("disk, Ray", found, wanted, used(node) < FULL_DISK, way_out)]

    def object_store(self) -> list[Finding]:
        small = [
            node for node in self.answering
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
            return [Finding("object store", found, wanted, Verdict.WARNING, way_out)]
        smallest = min(
            (node.resources.get("object_store_memory", 0.0) for node in self.answering), default=0
        )
        return [Finding("object store", f"{gib(smallest)} on the smallest node", wanted)]

    # --- software ------------------------------------------------------------------------------

    def versions(self) -> list[Finding]:
        """Versions of every node against the driver's; `libraries` reports missing packages."""
        ours = self.cluster.driver.versions
        others = {
            name: f"{name} {node.report.versions[name]} on {node.name} (driver {ours[name]})"
            for node in self.answering if node.report
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
                Verdict.MISSING if grave else Verdict.WARNING,
                "install the same lock file, and this state of humpback_ray, on every node",
            )
        ]  # fmt: skip

    def libraries(self) -> list[Finding]:
        """Packages of engines and training workers, on the nodes that may get them."""
        engine = capacity.engine_bundles(self.engine)[0]
        worker = capacity.worker_bundle(self.training)
        absent = [
            f"{name} on {node.name}"
            for bundle, names in ((engine, ("vllm",)), (worker, ("torch", "deepspeed")))
            for node in self.holding(bundle) if node.report
            for name in (*names, "transformers") if name not in node.report.versions
        ]  # fmt: skip
        wrong = [
            node.name for node in self.holding(engine) if node.report
            and self.engine.device == "gpu" and "cpu" in node.report.versions.get("vllm", "")
        ]  # fmt: skip
        if absent:
            found, way_out = f"no {', '.join(absent)}", "install the lock file of requirements/"
        elif wrong:
            found = f"vLLM's CPU build on {', '.join(wrong)}"
            way_out = "install requirements/gpu.txt there"
        else:
            return []
        wanted = "what engines and training workers import"
        return [Finding("libraries", found, wanted, Verdict.MISSING, way_out)]

    # --- time and safety -----------------------------------------------------------------------

    def clock(self) -> list[Finding]:
        if not self.answering:
            return []
        node = max(self.answering, key=lambda node: abs(node.seconds_ahead))
        off = max(abs(node.seconds_ahead) - node.clock_error, 0.0)
        found = (
            f"{abs(node.seconds_ahead):.3f} s ± {node.clock_error:.3f} s at most, on {node.name}"
        )
        wanted = f"within {CLOCK_WARNING_SECONDS:g} s of the driver's"
        way_out = "run a time service (chrony, systemd-timesyncd) on every node"
        if off <= CLOCK_WARNING_SECONDS:
            return [Finding("clock", found, wanted)]
        refused = off >= CLOCK_REFUSED_SECONDS and "://" in self.run_folder
        verdict = Verdict.MISSING if refused else Verdict.WARNING
        return [Finding("clock", found, wanted, verdict, way_out)]

    def token(self) -> list[Finding]:
        head = next((node for node in self.answering if node.is_head), None)
        if head is None or head.report is None:
            return []
        ports = {"Ray's own port": self.cluster.gcs_port, "dashboard": self.cluster.dashboard_port}
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
        return [Finding("access", found, wanted, Verdict.WARNING, way_out)]


def _from_to(least: int, most: int) -> str:
    return f"{least} to {most}" if least < most else str(most)


def _needed(check: str, found: str, wanted: str, is_enough: bool, way_out: str) -> Finding:
    """A finding that stops a run if it is not enough."""
    if is_enough:
        return Finding(check, found, wanted)
    return Finding(check, found, wanted, Verdict.MISSING, way_out)


def _disk(node: Node, name: str) -> nodes.Disk:
    assert node.report is not None
    return node.report.disks[name]


def _beyond_loopback(addresses: Iterable[str]) -> list[str]:
    return [each for each in addresses if not each.startswith(("127.", "::1", "::ffff:127."))]


def exit_code(findings: Iterable[Finding]) -> int:
    """0 when nothing is missing, else 2."""
    return 2 if any(finding.verdict == Verdict.MISSING for finding in findings) else 0
