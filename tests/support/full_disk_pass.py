"""Two attempts at a pass on a disk that is full at the first: `python -m` with JSON arguments.

The arguments are: disk, counter, model, bytes to leave free, number of rows, engine placement.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import ray

from humpback_ray import tables
from humpback_ray.errors import UserError
from tests.support.generation import augmented, segment


def main(disk: str, counter: str, model: str, left: int, num_rows: int, engine: Any) -> None:
    """Fill the disk, try, make room, try again; a line of figures for each attempt."""
    ray.init(
        address="local", num_cpus=4, include_dashboard=False, log_to_driver=False,
        logging_level="ERROR", object_store_memory=100 * 2**20,
    )  # fmt: skip
    folder, filler = Path(disk, "run"), Path(disk, "filler")
    folder.mkdir()
    segments = [segment(number, f"A text about topic {number}.") for number in range(num_rows)]

    def attempt() -> None:
        line = ""
        try:
            augmented(folder, segments, model, engine=engine, counter=counter)
        except UserError as error:
            line = str(error)
        partial = [path.name for path in (folder / "candidates").rglob("*partial*")]
        num_saved = tables.assert_unique(str(folder / "candidates" / "rows"), "candidate_id")
        figures = [line, partial, num_saved, os.path.getsize(counter)]
        print("ATTEMPT", json.dumps(figures), flush=True)

    with filler.open("wb") as file:
        free = os.statvfs(disk)
        os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize - left)
    attempt()
    filler.unlink()
    attempt()


if __name__ == "__main__":
    main(*json.loads(sys.argv[1]))
