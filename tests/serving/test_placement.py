"""Where engines of several sizes are placed, on a cluster with logical devices."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster
from ray.util import placement_group_table

from humpback_ray import tables
from humpback_ray.cluster import capacity
from humpback_ray.rows import Candidate
from tests.support.generation import augmented, segment

pytestmark = pytest.mark.slow

NUM_ROWS = 48
DEVICE = {"CPU": 1.0, "GPU": 1.0}


@pytest.fixture(scope="module")
def two_nodes_of_eight() -> Iterator[str]:
    """The address of a head without devices and two nodes with eight each."""
    head = {"num_cpus": 3, "include_dashboard": False, "object_store_memory": 150 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(2):
        cluster.add_node(num_cpus=8, num_gpus=8, object_store_memory=80 * 2**20)
    yield cluster.address
    cluster.shutdown()


def groups_while_running(
    address: str, folder: Path, model: str, **engine
) -> tuple[list[dict], list[dict], float]:
    """The groups in use at one moment of a pass, the same groups after it, and the free devices.

    The pass runs in a separate process, because this one may be connected to another cluster.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as other_process:
        return other_process.submit(_groups_while_running, address, folder, model, engine).result()


def _groups_while_running(address, folder, model, engine):
    ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    seen: list[dict] = []
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.3):
            placed = [g for g in placement_group_table().values() if g["state"] == "CREATED"]
            if len(placed) > len(seen):
                seen[:] = placed

    watching = threading.Thread(target=look)
    watching.start()
    segments = [segment(number, f"A text about topic {number}.") for number in range(NUM_ROWS)]
    engine = {"device": "gpu", "max_num_seqs": 2, "rows_per_batch": 4, **engine}
    try:
        augmented(folder, segments, model, engine=engine, script="answer", seconds_per_row=0.3)
    finally:
        over.set()
        watching.join()
    rows = tables.read_rows(str(folder / "candidates" / "rows"), Candidate)
    assert {row.segment_id for row in rows} == {each.segment_id for each in segments}
    deadline = time.monotonic() + 60
    while ray.available_resources().get("GPU") != 16 and time.monotonic() < deadline:
        time.sleep(0.2)
    table = placement_group_table()
    after = [table[group["placement_group_id"]] for group in seen]
    return seen, after, ray.available_resources().get("GPU", 0)


@pytest.mark.parametrize(
    ("num_engines", "devices"),
    [
        # Each engine is a process that imports vLLM: minutes on two cores.
        pytest.param(8, 1, id="7B, one device each", marks=pytest.mark.long),
        pytest.param(4, 2, id="33B, two devices each", marks=pytest.mark.long),
        pytest.param(2, 8, id="65B, a node each"),
    ],
)
def test_engine_devices_lie_on_one_node_and_are_released(
    two_nodes_of_eight, tmp_path, model_folder, num_engines, devices
):
    seen, after, num_free = groups_while_running(
        two_nodes_of_eight,
        tmp_path,
        model_folder,
        max_engines=num_engines,
        tensor_parallel_size=devices,
    )
    assert len(seen) == num_engines
    for group in seen:
        assert list(group["bundles"].values()) == [DEVICE] * devices
        assert group["strategy"] == "STRICT_PACK"
        assert len(set(group["bundles_to_node_id"].values())) == 1
    nodes = Counter(next(iter(g["bundles_to_node_id"].values())) for g in seen)
    assert all(count * devices <= 8 for count in nodes.values())
    assert {group["state"] for group in after} == {"REMOVED"}
    assert num_free == 16


@pytest.mark.long
def test_engine_spans_two_nodes_if_allowed(two_nodes_of_eight, tmp_path, model_folder):
    larger = {"tensor_parallel_size": 8, "pipeline_parallel_size": 2}
    with pytest.raises(ValueError, match=r"no room .*16 x \(CPU 1, GPU 1\) on one node") as error:
        groups_while_running(two_nodes_of_eight, tmp_path, model_folder, **larger)
    assert "2 x (CPU 8, GPU 8)" in str(error.value)
    assert "\n" not in str(error.value)
    seen, after, num_free = groups_while_running(
        two_nodes_of_eight, tmp_path, model_folder, **larger, across_nodes=True
    )
    (group,) = seen
    assert (group["strategy"], len(group["bundles"])) == ("PACK", 16)
    assert len(set(group["bundles_to_node_id"].values())) == 2
    assert [group["state"] for group in after] == ["REMOVED"]
    assert num_free == 16


@pytest.mark.long
def test_too_many_engines_run_as_many_as_fit(two_nodes_of_eight, tmp_path, model_folder):
    seen, _, num_free = groups_while_running(
        two_nodes_of_eight, tmp_path, model_folder, max_engines=9, tensor_parallel_size=4
    )
    assert len(seen) == 4
    assert num_free == 16


NODE = {"CPU": 8.0, "GPU": 8.0, "memory": 1e9}


@pytest.mark.parametrize(
    ("bundle", "size", "nodes", "across", "expected"),
    [
        (DEVICE, 1, [NODE, NODE], False, 14),  # of 16 CPUs two are for the rows
        (DEVICE, 3, [NODE, NODE], False, 4),
        (DEVICE, 3, [NODE, NODE], True, 4),
        (DEVICE, 16, [NODE, NODE], False, 0),
        (DEVICE, 16, [NODE, NODE, {"CPU": 2.0}], True, 1),
        (DEVICE | {"accelerator_type:H100": 0.001}, 1, [NODE, NODE], False, 0),
        ({"CPU": 1.0}, 1, [{"CPU": 2.0}], False, 1),
        ({"CPU": 1.0}, 1, [{"CPU": 1.0}], False, 0),
    ],
)
def test_engine_capacity_counts_nodes_and_devices(bundle, size, nodes, across, expected):
    assert capacity.num_engines([bundle] * size, nodes, across) == expected
