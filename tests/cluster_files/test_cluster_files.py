"""Files for clusters: the tools' own schemas and parsers, and what these cannot judge."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.kuberay import autoscaling_config as kuberay
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.instance_manager.subscribers.cloud_resource_monitor import (
    CloudResourceMonitor,
)
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.core.generated.instance_manager_pb2 import Instance, InstanceUpdateEvent

from humpback_ray.config import recipe

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
SCHEMAS = ROOT.parent / "shared" / "schemas"
RAY_UP = ["aws", "gcp"]
KUBERAY = ["raycluster", "rayjob"]
ACCELERATORS = {
    "aws": {"7b": "L40S", "33b": "A100", "65b": "H100"},
    "gcp": {"7b": "A100-40G", "33b": "A100-80G", "65b": "H100"},
    "kuberay": {"7b": "L40S", "33b": "A100", "65b": "H100"},
}


def load(path: str) -> dict[str, Any]:
    return yaml.safe_load((CLUSTER / path).read_text())


def ray_cluster_spec(name: str) -> dict[str, Any]:
    spec = load(f"kuberay/{name}.yaml")["spec"]
    return spec["rayClusterSpec"] if name == "rayjob" else spec


def scaling(name: str) -> dict[str, Any]:
    """The cluster's configuration as Ray's autoscaler sees it."""
    if name in RAY_UP:
        return prepare_config(load(f"{name}.yaml"))
    cluster = load("kuberay/raycluster.yaml")
    cluster["metadata"]["namespace"] = "default"
    return kuberay._derive_autoscaling_config_from_ray_cr(cluster)


def launched(
    name: str, demand: dict[str, float], number: int, unavailable: tuple[str, ...] = ()
) -> dict[str, int]:
    """The nodes that Ray's scheduler launches for so many bundles on an empty cluster."""
    cluster = AutoscalingConfig(scaling(name), skip_content_hash=True)
    bundles = [ResourceRequestUtil.make(demand) for _ in range(number)]
    request = SchedulingRequest(
        disable_launch_config_check=True,
        node_type_configs=cluster.get_node_type_configs(),
        max_num_nodes=cluster.get_max_num_nodes(),
        resource_requests=ResourceRequestUtil.group_by_count(bundles),
        recoverable_resource_availabilities=dict.fromkeys(unavailable, 0.0),
    )
    reply = ResourceDemandScheduler().schedule(request)
    assert not reply.infeasible_resource_requests
    return {launch.instance_type: launch.count for launch in reply.to_launch}


# --- the tools' own schemas, parsers and linters -------------------------------------------------


@pytest.mark.parametrize("name", RAY_UP)
def test_ray_up_takes_the_file(name):
    validate_config(prepare_config(load(f"{name}.yaml")))


@pytest.mark.parametrize("name", KUBERAY)
def test_kuberay_takes_the_file(name):
    path = SCHEMAS / f"{name}-v1.schema.json"
    if not path.is_file():
        pytest.skip(f"no custom-resource schema at {path}")
    schema, resource = json.loads(path.read_text()), load(f"kuberay/{name}.yaml")
    jsonschema.validate(resource, schema)
    assert unknown_fields(resource, schema) == []


def unknown_fields(value: Any, schema: dict[str, Any], where: str = "") -> list[str]:
    """Fields that a schema does not have: JSON Schema lets them pass, `kubectl` does not."""
    if isinstance(value, list):
        items = schema.get("items", {})
        return [name for item in value for name in unknown_fields(item, items, where)]
    known = schema.get("properties")
    if not isinstance(value, dict) or not known:
        return []
    unknown = [f"{where}.{key}" for key in value if key not in known]
    return unknown + [
        name
        for key, child in value.items()
        for name in unknown_fields(child, known.get(key, {}), f"{where}.{key}")
    ]


def test_the_search_for_unknown_fields_finds_one():
    schema = {"properties": {"spec": {"properties": {"name": {"type": "string"}}}}}
    assert unknown_fields({"spec": {"name": "a", "nmae": "b"}}, schema) == [".spec.nmae"]


def test_skypilot_takes_the_file():
    task = load("skypilot.yaml")
    assert {"name", "num_nodes", "workdir", "resources", "setup", "run"} <= set(task)
    try:
        from sky import Task
    except ImportError:
        pytest.skip("SkyPilot is not installed here: parsed as YAML only")
    given = [("RUN", "s3://bucket/runs/7b")]
    Task.from_yaml_config(task, env_overrides=given, secrets_overrides=[("RAY_AUTH_TOKEN", "x")])


def lint(tool: str, *arguments: str, text: str = "") -> None:
    result = subprocess.run(
        [str(Path(sys.executable).parent / tool), *arguments],
        input=text, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_dockerfile_is_clean():
    lint("hadolint", str(CLUSTER / "Dockerfile"))


def test_the_shell_scripts_are_clean():
    lint("shellcheck", str(CLUSTER / "slurm.sbatch"))
    task = load("skypilot.yaml")
    for script in (task["setup"], task["run"]):
        lint("shellcheck", "--shell=bash", "-", text=script)
    for name in RAY_UP:
        cluster = load(f"{name}.yaml")
        # SC2016: what .bashrc gets is expanded when a shell reads it.
        commands = [c for key, value in cluster.items() if key.endswith("_commands") for c in value]
        lint("shellcheck", "--shell=bash", "--exclude=SC2016", "-", text="\n".join(commands))


# --- what no schema knows ------------------------------------------------------------------------


def test_the_job_has_the_clusters_spec_and_the_jobs_environment():
    job = load("kuberay/rayjob.yaml")["spec"]
    assert job["rayClusterSpec"] == load("kuberay/raycluster.yaml")["spec"]
    environment = yaml.safe_load((ROOT / "jobs/run_pipeline.yaml").read_text())
    assert yaml.safe_load(job["runtimeEnvYAML"])["env_vars"] == environment["env_vars"]
    assert job["entrypoint"].startswith("python /app/jobs/run_pipeline.py llama-7b --run ")
    overrides = re.findall(r"--set (\S+)", job["entrypoint"])
    # No GPU node is there at first, and KubeRay's autoscaler does not tell what it may bring.
    assert recipe.load_recipe("llama-7b", overrides).placement.cluster.autoscaling


@pytest.mark.parametrize("name", RAY_UP)
def test_ray_up_has_the_token_on_and_takes_it_from_the_users_machine(name):
    cluster = load(f"{name}.yaml")
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        starts = [command for command in cluster[key] if "ray start" in command]
        assert starts
        assert all("RAY_AUTH_MODE=token ray start" in command for command in starts)
    assert cluster["file_mounts"]["/home/ubuntu/.ray/auth_token"] == "~/.ray/auth_token"


@pytest.mark.parametrize("name", KUBERAY)
def test_kuberay_has_the_token_on_and_takes_secrets_by_name(name):
    spec = ray_cluster_spec(name)
    assert spec["authOptions"] == {"mode": "token", "secretName": "humpback-token"}
    password = spec["gcsFaultToleranceOptions"]["redisPassword"]
    assert list(password) == ["valueFrom"]
    assert password["valueFrom"]["secretKeyRef"]["name"] == "humpback-redis"


def test_slurm_and_skypilot_have_the_token_on():
    script = (CLUSTER / "slurm.sbatch").read_text()
    assert "export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=" in script
    assert script.index("umask 077") < script.index("secrets.token_hex")
    task = load("skypilot.yaml")
    assert task["envs"]["RAY_AUTH_MODE"] == "token"
    assert task["secrets"] == {"RAY_AUTH_TOKEN": None}


def test_no_dashboard_is_public():
    starts = [*(" ".join(load(f"{name}.yaml")["head_start_ray_commands"]) for name in RAY_UP),
              load("skypilot.yaml")["run"], (CLUSTER / "slurm.sbatch").read_text()]  # fmt: skip
    for text in starts:
        assert re.findall(r"--dashboard-host[ =](\S+)", text) == ["127.0.0.1"]
    for name in KUBERAY:
        # All addresses of the pod, for the submitter's sake; the service stays in the cluster.
        assert ray_cluster_spec(name)["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert "ports" not in load("skypilot.yaml")["resources"]


@pytest.mark.parametrize("name", RAY_UP)
def test_ray_up_uses_private_addresses(name):
    cluster = load(f"{name}.yaml")
    assert cluster["provider"]["use_internal_ips"] is True
    assert cluster["auth"]["ssh_proxy_command"]
    for node_type in cluster["available_node_types"].values():
        interfaces = node_type["node_config"].get("networkInterfaces", [])
        assert all("accessConfigs" not in interface for interface in interfaces)
        assert "NetworkInterfaces" not in node_type["node_config"]


@pytest.mark.parametrize("name", [*RAY_UP, "kuberay"])
def test_workers_come_and_go(name):
    cluster = scaling(name)
    workers = {
        key: value
        for key, value in cluster["available_node_types"].items()
        if key != cluster["head_node_type"]
    }
    assert set(workers) == {
        "cpu", *(f"{size}-{market}" for size in ("7b", "33b", "65b")
                 for market in ("spot", "on-demand")),
    }  # fmt: skip
    for node_type in workers.values():
        assert node_type["min_workers"] == 0
        assert 0 < node_type["max_workers"] <= 4
    assert 0 < cluster["idle_timeout_minutes"] <= 15
    head = cluster["available_node_types"][cluster["head_node_type"]]
    assert head["resources"].get("GPU", 0) == 0
    assert head["resources"]["CPU"] == 0


@pytest.mark.parametrize("name", [*RAY_UP, "kuberay"])
def test_spot_types_have_an_on_demand_twin(name):
    types = scaling(name)["available_node_types"]
    spot = [key for key in types if key.endswith("-spot")]
    assert len(spot) == 3
    for key in spot:
        twin = types[key.replace("-spot", "-on-demand")]
        assert twin["resources"] == types[key]["resources"]
        assert twin.get("priority", 0) < types[key]["priority"]
        if name in RAY_UP:
            assert without_market(twin) == without_market(types[key])
            assert twin != types[key]


def without_market(node_type: dict[str, Any]) -> dict[str, Any]:
    node = copy.deepcopy(node_type["node_config"])
    for key in ("InstanceMarketOptions", "scheduling"):
        node.pop(key, None)
    return node


def test_spot_is_spot():
    aws, gcp = (load(f"{name}.yaml")["available_node_types"] for name in RAY_UP)
    for size in ("7b", "33b", "65b"):
        market = aws[f"{size}-spot"]["node_config"]["InstanceMarketOptions"]
        assert market == {"MarketType": "spot"}
        assert "InstanceMarketOptions" not in aws[f"{size}-on-demand"]["node_config"]
        scheduling = gcp[f"{size}-spot"]["node_config"]["scheduling"]
        assert scheduling["provisioningModel"] == "SPOT"
        assert "provisioningModel" not in gcp[f"{size}-on-demand"]["node_config"]["scheduling"]
    for group in ray_cluster_spec("raycluster")["workerGroupSpecs"][1:]:
        selector = group["template"]["spec"]["nodeSelector"]["karpenter.sh/capacity-type"]
        assert group["groupName"].endswith(f"-{selector}")
    markets = load("skypilot.yaml")["resources"]["any_of"]
    assert [market["use_spot"] for market in markets] == [True, False]


@pytest.mark.parametrize("name", [*RAY_UP, "kuberay"])
@pytest.mark.parametrize(("size", "nodes"), [("7b", 1), ("33b", 2), ("65b", 4)])
def test_the_autoscaler_launches_what_a_recipe_needs(name, size, nodes):
    placement = recipe.load_recipe(f"llama-{size}").placement
    demand = {"CPU": 1.0, "GPU": 1.0, f"accelerator_type:{ACCELERATORS[name][size]}": 0.001}
    workers = placement.training.num_workers
    assert launched(name, demand, workers) == {f"{size}-spot": nodes}
    without_spot = launched(name, demand, workers, unavailable=(f"{size}-spot",))
    # What has lately failed comes last, even with the higher priority.
    assert without_spot == {f"{size}-on-demand": nodes}
    engine = placement.engine
    devices = engine.max_engines * engine.tensor_parallel_size
    assert launched(name, demand, devices) == {f"{size}-spot": nodes}


def test_ray_up_still_needs_a_hand_where_spot_is_refused():
    """README.md tells what to do; the day that Ray counts a refused launch, that can go."""
    for status, counted in (("ALLOCATION_TIMEOUT", True), ("ALLOCATION_FAILED", False)):
        monitor = CloudResourceMonitor()
        event = InstanceUpdateEvent(
            instance_id="1",
            instance_type="7b-spot",
            new_instance_status=Instance.InstanceStatus.Value(status),
        )
        monitor.notify([event])
        assert bool(monitor.get_recoverable_resource_availabilities()) is counted


@pytest.mark.parametrize("name", [*RAY_UP, "kuberay"])
def test_work_without_gpus_launches_no_gpu(name):
    assert set(launched(name, {"CPU": 1.0}, 40)) == {"cpu"}


def containers(name: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Every pod's spec with every container of it."""
    spec = ray_cluster_spec(name)
    templates = [spec["headGroupSpec"]["template"]]
    templates += [group["template"] for group in spec["workerGroupSpecs"]]
    if name == "rayjob":
        templates.append(load("kuberay/rayjob.yaml")["spec"]["submitterPodTemplate"])
    return [(pod["spec"], item) for pod in templates for item in pod["spec"]["containers"]]


@pytest.mark.parametrize("name", KUBERAY)
def test_pods_run_without_root_and_with_limits(name):
    found = containers(name)
    assert len(found) == (9 if name == "rayjob" else 8)
    for pod, container in found:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == 10001
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert {"cpu", "memory"} <= set(container["resources"]["limits"])
    autoscaler = ray_cluster_spec(name)["autoscalerOptions"]
    assert {"cpu", "memory"} <= set(autoscaler["resources"]["limits"])
    assert autoscaler["securityContext"]["allowPrivilegeEscalation"] is False


def test_the_image_runs_as_the_pods_user():
    dockerfile = (CLUSTER / "Dockerfile").read_text()
    assert re.findall(r"^USER (\S+)", dockerfile, re.MULTILINE) == ["10001"]
    assert "--uid 10001" in dockerfile


def test_the_image_gets_what_it_copies_and_nothing_else():
    lines = (CLUSTER / "Dockerfile.dockerignore").read_text().splitlines()
    assert "*" in lines
    sent = {line.removeprefix("!") for line in lines if line.startswith("!")}
    copies = re.findall(r"^COPY (?!--from)(.+) \S+$", (CLUSTER / "Dockerfile").read_text(), re.M)
    assert {name for sources in copies for name in sources.split()} == sent
    assert all((ROOT / name).exists() for name in sent)


def test_a_job_that_ends_or_loses_its_head_leaves_nothing_behind():
    job = load("kuberay/rayjob.yaml")["spec"]
    assert job["shutdownAfterJobFinishes"] is True
    assert 0 < job["ttlSecondsAfterFinished"] <= 3600
    assert 0 < job["activeDeadlineSeconds"] <= 7 * 24 * 3600
    assert job["backoffLimit"] > 0
    assert "clusterSelector" not in job
    assert job["rayClusterSpec"]["gcsFaultToleranceOptions"]["redisAddress"]


@pytest.mark.parametrize("name", RAY_UP)
def test_nodes_get_the_locked_environment(name):
    cluster = load(f"{name}.yaml")
    commands = " ".join(cluster["setup_commands"])
    assert "--no-deps -r ~/humpback/requirements/gpu.txt" in commands
    assert "-r ~/humpback/cluster/requirements.txt" in commands
    local = [path for path in cluster["file_mounts"].values() if not path.startswith("~")]
    assert len(local) == 5
    assert all((ROOT / path).exists() for path in local)


def test_the_clusters_lock_adds_to_the_other_locks_and_changes_nothing():
    def pins(path: Path) -> dict[str, str]:
        lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
        pairs = [line.split("==") for line in lines]
        return {re.sub(r"[-_.]+", "-", name.lower()): version for name, version in pairs}

    extra = pins(CLUSTER / "requirements.txt")
    assert {"aiohttp-cors", "s3fs", "gcsfs", "boto3", "google-api-python-client"} <= set(extra)
    for lock in ("gpu.txt", "cpu.txt"):
        locked = pins(ROOT / "requirements" / lock)
        assert all(locked[name] == extra[name] for name in extra.keys() & locked.keys())


# --- secrets -------------------------------------------------------------------------------------

FILES = [*sorted(p for p in CLUSTER.rglob("*") if p.is_file()), *(ROOT / "jobs").glob("*.yaml")]
SECRET = re.compile(
    r"AKIA[0-9A-Z]{16}|hf_[A-Za-z0-9]{20}|sk-[A-Za-z0-9]{20}|-----BEGIN|\b[0-9a-f]{32,}\b"
)
NAME = re.compile(r"token|password|secret|credential|api_?key", re.IGNORECASE)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_has_a_secret(path):
    assert SECRET.findall(path.read_text()) == []
    if path.suffix == ".yaml":
        assert [v for v in named_values(yaml.safe_load(path.read_text())) if not is_place(v)] == []


def named_values(value: Any, name: str = "") -> list[str]:
    """Every text that stands under a name which sounds like a secret."""
    if isinstance(value, dict):
        own = str(value["name"]) if "value" in value and "name" in value else ""
        return [
            text for key, child in value.items() for text in named_values(child, own or str(key))
        ]
    if isinstance(value, list):
        return [text for child in value for text in named_values(child, name)]
    return [str(value)] if value is not None and NAME.search(name) else []


def is_place(text: str) -> bool:
    """True if a text names the place of a secret and is no secret."""
    return text in {"~/.ray/auth_token", "humpback-token", "humpback-redis", "password"}


def test_the_search_for_secrets_finds_some():
    assert SECRET.search("token: " + "0123456789abcdef" * 2)
    assert named_values({"env": [{"name": "RAY_AUTH_TOKEN", "value": "abc"}]}) == [
        "RAY_AUTH_TOKEN",
        "abc",
    ]
    assert named_values({"redisPassword": {"value": "x"}, "image": "y"}) == []
