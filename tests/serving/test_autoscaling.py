"""Engines on a cluster whose nodes come when they are asked for, and go when they are idle."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import pytest

from benchmarks import raylets
from humpback_ray import tables
from humpback_ray.config.placement import ClusterPlacement, EnginePlacement, Placement
from humpback_ray.rows import Candidate, Segment
from tests.support.generation import augment_stage, context, segment
from tests.support.growing_cluster import NUM_ENGINES
from tests.support.scripted_engine import ScriptedEngine

pytestmark = pytest.mark.slow

NUM_ROWS = 160


def run_a_pass(address: str, folder: Path, model: str) -> dict:
    """The engines' figures, the most nodes seen, and those left when the idle ones have gone."""
    raylets.connect(address)
    counts = [raylets.num_nodes()]
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.5):
            counts.append(raylets.num_nodes())

    watching = threading.Thread(target=look)
    watching.start()
    segments = [segment(number, f"A text about topic {number}.") for number in range(NUM_ROWS)]
    tables.write_rows(f"{folder}/segments", segments, Segment)
    placement = Placement(
        cluster=ClusterPlacement(autoscaling=True),
        engine=EnginePlacement(
            device="gpu", max_engines=NUM_ENGINES, rows_per_batch=4, max_concurrent_batches=1,
            max_num_seqs=4,
        ),
    )  # fmt: skip
    make_engine = partial(ScriptedEngine, seconds_per_row=1.0)
    where = replace(context(folder / "candidates", make_engine=make_engine), placement=placement)
    result = augment_stage(folder, model).run(where)
    deadline = time.monotonic() + 90
    while raylets.num_nodes() > 1 and time.monotonic() < deadline:
        time.sleep(0.5)
    over.set()
    watching.join()
    return {"engines": result.figures["engines"], "counts": counts, "left": raylets.num_nodes()}


@pytest.mark.long
def test_autoscaled_pass_gets_nodes_for_its_engines_and_gives_them_back(
    growing_cluster, tmp_path, model_folder
):
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
