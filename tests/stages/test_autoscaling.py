"""Engines on a cluster whose nodes come when they are asked for, and go when they are idle.

Ray's fake provider of nodes: real raylets, started and ended by Ray's real autoscaler. Not through
`ray.cluster_utils.AutoscalingCluster`, which runs `ray stop` and so ends every Ray of the machine.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import psutil
import pytest
import ray

from humpback_ray import tables
from humpback_ray.config import (
    ClusterPlacement,
    EnginePlacement,
    LongPromptSettings,
    Placement,
    SamplingSettings,
)
from humpback_ray.engines.request import Model
from humpback_ray.records import Candidate, Segment
from humpback_ray.stages import augment
from tests.scripted_engine import ScriptedEngine
from tests.stages.test_generation_stages import context, segment

pytestmark = pytest.mark.slow

NUM_ROWS, NUM_ENGINES = 160, 4
NO_COMMANDS = ["initialization_commands", "setup_commands", "head_setup_commands",
               "worker_setup_commands", "head_start_ray_commands", "worker_start_ray_commands",
               "cluster_synced_files", "rsync_exclude", "rsync_filter"]  # fmt: skip


def configuration(address: str) -> dict:
    """A head with CPUs alone, and up to as many nodes with a device as there are engines."""
    return {
        "cluster_name": "test",
        "max_workers": NUM_ENGINES,
        "provider": {
            "type": "fake_multinode", "gcs_address": address,
            # The nodes share one address, and nothing is to be installed on them.
            "use_node_id_as_ip": True, "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "available_node_types": {
            "ray.head.default": {
                "resources": {"CPU": 3}, "node_config": {}, "max_workers": 0
            },
            "device": {
                "resources": {"CPU": 1, "GPU": 1, "object_store_memory": 80 * 2**20},
                "node_config": {}, "min_workers": 0, "max_workers": NUM_ENGINES,
            },
        },
        "head_node_type": "ray.head.default",
        "upscaling_speed": 100.0,
        "idle_timeout_minutes": 0.05,
        "auth": {}, "docker": {}, "file_mounts": {}, "file_mounts_sync_continuously": False,
        **{name: [] for name in NO_COMMANDS},
    }  # fmt: skip


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("", 0))
        return listener.getsockname()[1]


@pytest.fixture
def growing_cluster(tmp_path) -> Iterator[str]:
    """The address of a cluster with a head alone."""
    address = f"{ray.util.get_node_ip_address()}:{free_port()}"
    config = tmp_path / "cluster.json"
    config.write_text(json.dumps(configuration(address)))
    command = [
        str(Path(sys.executable).with_name("ray")), "start", "--head", "--block",
        f"--port={address.rpartition(':')[2]}", f"--autoscaling-config={config}", "--num-cpus=3",
        "--num-gpus=0", "--include-dashboard=false", f"--object-store-memory={150 * 2**20}",
        f"--ray-client-server-port={free_port()}", f"--dashboard-agent-listen-port={free_port()}",
    ]  # fmt: skip
    variables = {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
    log = (tmp_path / "head.log").open("wb")
    head = subprocess.Popen(command, env=os.environ | variables, stdout=log, stderr=log)
    deadline = time.monotonic() + 90
    while not psutil.Process(head.pid).children() or not listens(address):
        assert head.poll() is None, (tmp_path / "head.log").read_text()
        assert time.monotonic() < deadline, (tmp_path / "head.log").read_text()
        time.sleep(0.2)
    yield address
    family = psutil.Process(head.pid).children(recursive=True)
    for process in [psutil.Process(head.pid), *family]:
        if process.is_running():
            process.kill()
    head.wait()


def listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


def num_nodes() -> int:
    return sum(node["Alive"] for node in ray.nodes())


def run_a_pass(address: str, folder: Path, model: str) -> dict:
    """The engines' figures, the most nodes seen, and those left when the idle ones have gone."""
    for _ in range(30):
        try:
            ray.init(address=address, log_to_driver=False, logging_level="ERROR")
            break
        except ConnectionError:
            time.sleep(1)
    counts = [num_nodes()]
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.5):
            counts.append(num_nodes())

    watching = threading.Thread(target=look)
    watching.start()
    segments = [segment(number, f"A text about topic {number}.") for number in range(NUM_ROWS)]
    tables.write_rows(f"{folder}/segments", segments, Segment)
    work = augment.candidates_of(
        f"{folder}/segments", target=f"{folder}/candidates/rows",
        backward_model=Model(model, 1024, "float32"), tag="A tag.",
        sampling=SamplingSettings(max_tokens=32), num_candidates=1,
        long_prompts=LongPromptSettings(), random_seed=0,
        serve=partial(ScriptedEngine, seconds_per_row=1.0),
    )  # fmt: skip
    placement = Placement(
        cluster=ClusterPlacement(autoscaling=True),
        engine=EnginePlacement(
            device="gpu", max_engines=NUM_ENGINES, rows_per_batch=4, max_concurrent_batches=1,
            max_num_seqs=4,
        ),
    )  # fmt: skip
    where = replace(context(folder / "candidates"), placement=placement)
    result = augment.run(where, work=work, rating=None, begin_rating=None)
    deadline = time.monotonic() + 90
    while num_nodes() > 1 and time.monotonic() < deadline:
        time.sleep(0.5)
    over.set()
    watching.join()
    return {"engines": result.figures["engines"], "counts": counts, "left": num_nodes()}


@pytest.mark.long
def test_nodes_come_for_the_engines_and_go_after_them(growing_cluster, tmp_path, model_folder):
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as other_process:
        seen = other_process.submit(
            run_a_pass, growing_cluster, tmp_path, model_folder
        ).result()  # fmt: skip
    assert seen["counts"][0] == 1
    assert max(seen["counts"]) == 1 + NUM_ENGINES
    assert seen["engines"]["num_engines"] == NUM_ENGINES
    assert seen["left"] == 1
    rows = tables.read_rows(f"{tmp_path}/candidates/rows", Candidate)
    assert sorted(row.segment_id for row in rows) == [f"segment-{n:04}" for n in range(NUM_ROWS)]
