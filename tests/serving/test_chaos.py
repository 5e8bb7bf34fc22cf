"""kill -9 at random moments of whatever a pass runs on: every row once, little done twice.

`HUMPBACK_CHAOS_SEEDS=20 pytest tests/serving/test_chaos.py` for more than the three of every run.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
from collections.abc import Iterator

import psutil
import pytest
from ray.cluster_utils import Cluster

from benchmarks import raylets
from tests.support import chaos
from tests.support.killed_pass import Run, check_rows

pytestmark = pytest.mark.slow

NUM_SEEDS = int(os.environ.get("HUMPBACK_CHAOS_SEEDS", "3"))


# --- what is killed, and what a person would do then ----------------------------------------------


def kill(processes: list[psutil.Process], dice: random.Random) -> None:
    if processes:
        dice.choice(processes).kill()


def kill_driver(run: Run, dice: random.Random) -> None:
    run.driver.kill()
    run.driver.wait()
    run.start()


def kill_engine(run: Run, dice: random.Random) -> None:
    kill(raylets.processes(raylets.ENGINE_TITLE), dice)


def stop_engine(run: Run, dice: random.Random) -> None:
    if engines := raylets.processes(raylets.ENGINE_TITLE):
        dice.choice(engines).send_signal(signal.SIGSTOP)


def kill_registry(run: Run, dice: random.Random) -> None:
    assert run.wait(lambda: bool(raylets.processes(raylets.REGISTRY_TITLE))), "no registry"
    kill(raylets.processes(raylets.REGISTRY_TITLE), dice)


def kill_worker(run: Run, dice: random.Random) -> None:
    kill(raylets.processes(*raylets.WORKER_TITLES), dice)


def kill_node(run: Run, dice: random.Random) -> None:
    """The raylet of a node, of one with an engine if there is one; another node comes."""
    nodes = {raylet(node).pid: node for node in run.cluster.worker_nodes if is_up(node)}
    engines = {engine.ppid() for engine in raylets.processes(raylets.ENGINE_TITLE)} & nodes.keys()
    psutil.Process(dice.choice(sorted(engines or nodes))).kill()
    run.cluster.add_node(num_cpus=2)


def raylet(node) -> subprocess.Popen:
    return node.all_processes["raylet"][0].process


def is_up(node) -> bool:
    return "raylet" in node.all_processes and raylet(node).poll() is None


KINDS = [kill_engine, kill_node, stop_engine, kill_driver, kill_worker, kill_registry]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    head = {"num_cpus": 3, "include_dashboard": False, "object_store_memory": 150 * 2**20,
            "_system_config": raylets.NOTICED_SOON}  # fmt: skip
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(2):
        cluster.add_node(num_cpus=2, object_store_memory=80 * 2**20)
    yield cluster
    cluster.shutdown()


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(1, NUM_SEEDS))]
)
def test_pass_with_any_process_killed_saves_every_row_once(seed, cluster, tmp_path, model_folder):
    dice = random.Random(seed)
    # The first three seeds have every kind once; the others have any.
    kinds = KINDS[2 * seed : 2 * seed + 2] if seed < 3 else dice.sample(KINDS, 3)
    moments = sorted(dice.uniform(0, 0.8) for _ in kinds)
    run = Run(cluster, tmp_path, model_folder)
    num_kills = 0
    for kind, moment in zip(kinds, moments, strict=True):
        if run.wait_for(int(moment * chaos.NUM_ROWS)):
            kind(run, dice)
            num_kills += 1
            print(f"seed {seed}: {kind.__name__} at {run.num_computed} rows")
    run.finish()
    check_rows(run, num_kills)


@pytest.mark.long
def test_rows_of_an_engine_without_a_node_go_to_other_engines(tmp_path, model_folder):
    head = {"num_cpus": 4, "include_dashboard": False, "_system_config": raylets.NOTICED_SOON,
            "object_store_memory": 150 * 2**20}  # fmt: skip
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1, num_gpus=1, object_store_memory=80 * 2**20)
        run = Run(cluster, tmp_path, model_folder, device="gpu")
        run.wait(
            lambda: len(raylets.processes(raylets.ENGINE_TITLE)) == 2 and run.num_computed > 40
        )
        (engine, _) = raylets.processes(raylets.ENGINE_TITLE)
        engine.parent().kill()
        run.finish()
        check_rows(run, 1)
    finally:
        cluster.shutdown()
