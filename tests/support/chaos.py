"""A pass that can be killed: `python -m tests.support.chaos FOLDER MODEL ADDRESS ENGINE`.

The same command again resumes it. ENGINE is the placement of the engines in JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import ray

from humpback_ray.rows import Segment
from humpback_ray.serving import merging
from tests.support import generation

NUM_ROWS = 240
NUM_FILES = 6  # of the source: the pass has as many at its end
SECONDS_PER_ROW = 0.4


def segments(num_rows: int = NUM_ROWS) -> list[Segment]:
    """The source rows of the pass."""
    return [
        generation.segment(number, f"A text about topic {number}.") for number in range(num_rows)
    ]


def main(folder: str, model: str, address: str, engine: str) -> None:
    """Write the candidates of `segments()` and print the figures of this attempt."""
    merging.ROWS_PER_LOOK = 16  # a shard has 40 rows
    ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    result = generation.augmented(
        Path(folder), segments(), model, script="answer", engine=json.loads(engine),
        counter=f"{folder}/counter", seconds_per_row=SECONDS_PER_ROW, num_files=NUM_FILES,
    )  # fmt: skip
    print(json.dumps(dict(result.figures)))


if __name__ == "__main__":
    main(*sys.argv[1:])
