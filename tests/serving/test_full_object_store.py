"""A pass whose rows do not fit Ray's object store: they go through the disk, and none is lost."""

from __future__ import annotations

import re
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
import ray

from humpback_ray import tables
from humpback_ray.config.settings import LongPromptSettings
from humpback_ray.rows import Candidate
from tests.support.generation import augmented, segment

pytestmark = [pytest.mark.slow, pytest.mark.long]
NUM_ROWS, NUM_CHARACTERS = 320, 500_000
STORE_BYTES = 80 * 2**20  # half of the rows; the least that Ray takes is 75 MiB


def run_a_pass(folder: Path, model: str) -> tuple[dict, float]:
    """The outcomes, and MiB that Ray has moved to the disk."""
    ray.init(
        address="local", num_cpus=4, include_dashboard=False, log_to_driver=False,
        logging_level="ERROR", object_store_memory=STORE_BYTES,
    )  # fmt: skip
    long = "A text that goes on and on. " * (NUM_CHARACTERS // 28)
    result = augmented(
        folder, [segment(number, f"{number} {long}") for number in range(NUM_ROWS)], model,
        long_prompts=LongPromptSettings(policy="truncate_response"),
        engine={"rows_per_batch": 32},
    )  # fmt: skip
    # By its address, because other tests' clusters may run beside this one.
    address = ray.get_runtime_context().gcs_address
    summary = ray._private.internal_api.memory_summary(address, stats_only=True)
    spilled = re.search(r"Spilled (\d+) MiB", summary)
    return dict(result.outcomes), float(spilled[1]) if spilled else 0.0


def test_pass_larger_than_the_object_store_answers_every_row(tmp_path, model_folder):
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as other_process:
        outcomes, spilled = other_process.submit(run_a_pass, tmp_path, model_folder).result()
    assert spilled > 0
    assert outcomes == {"stop": NUM_ROWS}
    rows = tables.read_rows(f"{tmp_path}/candidates/rows", Candidate)
    assert [row.segment_id for row in rows] == [f"segment-{n:04}" for n in range(NUM_ROWS)]
    assert all(row.was_cut and len(row.response) > NUM_CHARACTERS - 100 for row in rows)
