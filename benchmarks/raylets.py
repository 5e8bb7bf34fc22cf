"""Ray clusters of several raylets on this machine, and their processes. Tests use it too."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import ray

ENGINE_TITLE = "ray::MapWorker(MapBatches(EngineActor)"
REGISTRY_TITLE = "ray::EngineRegistry"
# The tasks of a pass that read files and find missing rows, and idle workers.
WORKER_TITLES = ("ray::IDLE", "ray::MapBatches(", "ray::_state_of")
# For `_system_config`: Ray notices a lost node within seconds instead of half a minute.
NOTICED_SOON = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 1000,
    "health_check_failure_threshold": 5,
}
NO_COMMANDS = (
    "initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands",
    "head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files",
    "rsync_exclude", "rsync_filter",
)  # fmt: skip
# By default all raylets of a machine give their workers ports from one and the same range.
ANY_WORKER_PORTS = ("--min-worker-port=0", "--max-worker-port=0")
SECONDS_TO_START = 90.0


def processes(*titles: str) -> list[psutil.Process]:
    """Processes below this one whose title begins with one of these, the oldest first."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            line = process.cmdline()
        except psutil.Error:
            continue
        if line and line[0].startswith(titles):
            found.append(process)
    return sorted(found, key=lambda process: process.pid)


def notify(address: str, node_id: str, seconds: int) -> None:
    """Send a preemption notice as a cloud does: the node goes away after so many seconds."""
    command = [
        str(Path(sys.executable).with_name("ray")), "drain-node", "--address", address,
        "--node-id", node_id, "--reason", "DRAIN_NODE_REASON_PREEMPTION",
        "--reason-message", "a notice", "--deadline-remaining-seconds", str(seconds),
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)


@contextmanager
def growing_cluster(folder: Path, num_nodes: int, idle_minutes: float = 0.05) -> Iterator[str]:
    """The address of a head to which Ray's autoscaler adds up to `num_nodes` nodes with a device.

    Ray's fake node provider starts and ends real raylets. `ray.cluster_utils.AutoscalingCluster`
    would run `ray stop`, which ends every Ray process of the machine.

    Args:
        folder: for the configuration and the head's log.
        idle_minutes: time after which the autoscaler removes an idle node.
    """
    address = f"{ray.util.get_node_ip_address()}:{free_port()}"
    config = folder / "cluster.json"
    config.write_text(json.dumps(_configuration(address, num_nodes, idle_minutes)))
    command = [
        str(Path(sys.executable).with_name("ray")), "start", "--head", "--block",
        f"--port={address.rpartition(':')[2]}", f"--autoscaling-config={config}", "--num-cpus=3",
        "--num-gpus=0", "--include-dashboard=false", f"--object-store-memory={150 * 2**20}",
        f"--ray-client-server-port={free_port()}", f"--dashboard-agent-listen-port={free_port()}",
        *ANY_WORKER_PORTS,
    ]  # fmt: skip
    variables = {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
    log = folder / "head.log"
    with log.open("wb") as file:
        head = subprocess.Popen(command, env=os.environ | variables, stdout=file, stderr=file)
    try:
        wait_until_started(head, log)
        yield address
    finally:
        end(head)


def wait_until_started(node: subprocess.Popen[bytes], log: Path) -> None:
    """Wait for the raylet of a `ray start --block`. Its ports alone listen some seconds earlier."""
    deadline = time.monotonic() + SECONDS_TO_START
    while "Ray runtime started" not in log.read_text():
        assert node.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)


def node_command(address: str, num_cpus: int = 1) -> list[str]:
    """The command that starts one more node of a cluster and runs as long as the node."""
    return [
        str(Path(sys.executable).with_name("ray")), "start", "--block", f"--num-cpus={num_cpus}",
        f"--address={address}", f"--object-store-memory={80 * 2**20}",
        f"--dashboard-agent-listen-port={free_port()}", *ANY_WORKER_PORTS,
    ]  # fmt: skip


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and its descendants."""
    parent = psutil.Process(process.pid)
    for each in [parent, *parent.children(recursive=True)]:
        if each.is_running():
            each.kill()
    process.wait()


def free_port() -> int:
    """A port of this machine that nobody listens on.

    It lies above the ports of Ray's workers and below those that Linux gives to outgoing
    connections: one of those may be taken again before the node that was told of it starts, and a
    raylet whose agent finds its port taken ends with it.
    """
    for port in random.sample(range(20_000, 32_768), 100):
        with socket.socket() as listener, suppress(OSError):
            listener.bind(("", port))
            return port
    raise OSError("no free port between 20000 and 32767")


def connect(address: str) -> None:
    """Join a cluster whose head has just been started."""
    for _ in range(30):
        try:
            ray.init(address=address, log_to_driver=False, logging_level="ERROR")
            return
        except ConnectionError:
            time.sleep(1)
    raise ConnectionError(f"no cluster at {address}")


def num_nodes() -> int:
    """Nodes of the cluster that this process is connected to."""
    return sum(node["Alive"] for node in ray.nodes())


def _configuration(address: str, num_nodes: int, idle_minutes: float) -> dict[str, Any]:
    """A head with CPUs alone, and nodes with a device each."""
    return {
        "cluster_name": "test",
        "max_workers": num_nodes,
        "provider": {
            "type": "fake_multinode", "gcs_address": address,
            # The nodes share one address and need no installation.
            "use_node_id_as_ip": True, "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "available_node_types": {
            "ray.head.default": {
                "resources": {"CPU": 3}, "node_config": {}, "max_workers": 0
            },
            "device": {
                "resources": {"CPU": 1, "GPU": 1, "object_store_memory": 80 * 2**20},
                "node_config": {}, "min_workers": 0, "max_workers": num_nodes,
            },
        },
        "head_node_type": "ray.head.default",
        "upscaling_speed": 100.0,
        "idle_timeout_minutes": idle_minutes,
        "auth": {}, "docker": {}, "file_mounts": {}, "file_mounts_sync_continuously": False,
        **{name: [] for name in NO_COMMANDS},
    }  # fmt: skip
