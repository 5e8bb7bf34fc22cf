"""A pass of the real vLLM that can be killed: `python -m tests.support.vllm_pass FOLDER MODEL`.

The same command again resumes it.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import ray

from humpback_ray import tables
from humpback_ray.config.settings import AugmentationSettings
from humpback_ray.rows import Segment
from tests.support.generation import augment_stage, context, segment

NUM_ROWS = 300


def main(folder: Path, model: str) -> None:
    """Write the candidates of `NUM_ROWS` segments."""
    ray.init(
        address="local", num_cpus=6, include_dashboard=False, log_to_driver=False,
        logging_level="ERROR",
    )  # fmt: skip
    segments = [segment(number, f"A text about topic {number}.") for number in range(NUM_ROWS)]
    tables.write_rows(str(folder / "segments"), segments, Segment)
    stage = replace(augment_stage(folder, model), sampling=AugmentationSettings(max_tokens=300))
    stage.run(context(folder / "candidates", max_num_seqs=32, enforce_eager=True))
    ray.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
