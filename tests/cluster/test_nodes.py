"""Reports of nodes, on a cluster of two raylets of which one has other files."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import ray

from benchmarks import raylets
from humpback_ray.cluster import doctor, nodes
from humpback_ray.cluster.nodes import AutoscalerLimits, NodeType
from humpback_ray.config.recipe import load_recipe
from tests.support.growing_cluster import NUM_ENGINES

# A mount of this process's own: root may, and others where user namespaces are allowed.
IN_OTHER_MOUNTS = ["unshare", *(["--map-root-user"] if os.getuid() else []), "--mount"]


@pytest.fixture
def blind_node(growing_cluster, tmp_path) -> Iterator[str]:
    """The address of a cluster with a node for which `tmp_path/hidden` is another, empty folder."""
    if subprocess.run([*IN_OTHER_MOUNTS, "true"], check=False).returncode:
        pytest.skip("no mount namespace may be made here")
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    start = raylets.node_command(growing_cluster)
    script = 'mount -t tmpfs none "$0" && exec "$@"'
    log = tmp_path / "node.log"
    with log.open("wb") as file:
        node = subprocess.Popen(
            [*IN_OTHER_MOUNTS, "sh", "-c", script, str(hidden), *start], stdout=file, stderr=file
        )
    try:
        raylets.wait_until_started(node, log)
        yield growing_cluster
    finally:
        raylets.end(node)


def look(address: str, folder: Path) -> dict[str, Any]:
    """Reports of the nodes to a driver on the head, and the output of a run from there."""
    from rich.console import Console

    from humpback_ray.cluster import connect
    from humpback_ray.execution import runner
    from humpback_ray.pipeline import stages_of

    os.environ["RAY_ADDRESS"] = address
    recipe = load_recipe("tiny")
    connect.join_cluster(recipe)
    deadline = time.monotonic() + 60
    while len(nodes.living_nodes()) < 2 and time.monotonic() < deadline:
        time.sleep(0.2)
    found: dict[str, Any] = {}
    found["shared"] = nodes.inspect_nodes(str(folder / "shared" / "run"), [str(folder)])
    found["hidden"] = nodes.inspect_nodes(str(folder / "hidden"), [])
    with pytest.raises(ValueError, match="is not seen by") as refused:
        runner.run(stages_of(recipe), recipe, str(folder / "hidden"), Console(quiet=True))
    found["line"] = str(refused.value)
    found["gcs_port"] = int(ray.get_runtime_context().gcs_address.rpartition(":")[2])
    return found


@pytest.mark.slow
def test_folder_hidden_from_one_node_is_reported(blind_node, tmp_path):
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as other_process:
        found = other_process.submit(look, blind_node, tmp_path).result()
    recipe = load_recipe("tiny")

    hidden = found["hidden"]
    head, worker = sorted(hidden.nodes, key=lambda node: not node.is_head)
    assert [head.report.sees_marker, worker.report.sees_marker] == [True, False]
    assert [head.is_seen_by_driver, worker.is_seen_by_driver] == [True, False]
    judged = {
        each.check: each for each in doctor.find_problems(recipe, str(tmp_path / "hidden"), hidden)
    }
    assert judged["run folder"].verdict == "missing"
    assert worker.name in judged["run folder"].found
    assert f"1 node(s): {worker.name}" in found["line"]
    # The run has noted its attempt and begun nothing; no marker is left.
    assert {path.name for path in (tmp_path / "hidden").iterdir()} == {"attempts", "config.json"}

    shared = found["shared"]
    assert all(node.report.sees_marker and node.is_seen_by_driver for node in shared.nodes)
    assert [node.report.missing_paths for node in shared.nodes] == [(), ()]
    assert not (tmp_path / "shared").exists()
    for node in shared.nodes:
        # One clock: whatever was measured is within the error that goes with it.
        assert abs(node.seconds_ahead) <= node.clock_error < 1.0
        assert node.report.versions == shared.driver.versions
        assert node.report.disks["run"].path == str(tmp_path)
    assert shared.gcs_port == found["gcs_port"]
    assert shared.gcs_port in head.report.listening
    device = {"CPU": 1, "GPU": 1, "object_store_memory": 80 * 2**20}
    assert shared.autoscaler_limits == AutoscalerLimits(
        (NodeType("device", device, NUM_ENGINES),), NUM_ENGINES
    )


def test_node_versions_include_the_packages_code():
    told = nodes.versions()
    assert told["ray"] == ray.__version__
    assert {"python", "torch", "transformers", "vllm"} <= told.keys()
    assert len(told["humpback_ray"]) == 8


def test_listening_port_is_found():
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert nodes.listening()[port] == ("127.0.0.1",)
    assert port not in nodes.listening()


def test_disk_of_a_missing_folder_is_that_of_its_nearest_parent(tmp_path):
    found = nodes.disk(str(tmp_path / "not" / "yet"))
    assert found.path == str(tmp_path)
    assert 0 < found.free <= found.total


def test_gpus_are_read_from_the_drivers_list(tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA H100 80GB HBM3, 81559'\necho 'NVIDIA L4, 23034'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert nodes.gpus() == (
        nodes.NodeGpu("NVIDIA H100 80GB HBM3", 81559 * 2**20),
        nodes.NodeGpu("NVIDIA L4", 23034 * 2**20),
    )  # fmt: skip
    tool.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed because it could not communicate'\n")
    assert nodes.gpus() == ()
