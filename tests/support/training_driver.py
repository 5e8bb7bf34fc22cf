"""A driver in a process that a test kills: trains, and prints each step's record as JSON.

`python -m tests.support.training_driver ARGUMENTS`, where ARGUMENTS is JSON with base, examples,
folder, settings and placement.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import ray

from humpback_ray.config.placement import TrainingPlacement
from humpback_ray.config.settings import TrainingSettings
from tests.support.training import run


def main() -> None:
    arguments = json.loads(sys.argv[1])
    ray.init(num_cpus=8, include_dashboard=False, address="local", log_to_driver=False)
    run(
        arguments["base"],
        arguments["examples"],
        Path(arguments["folder"]),
        settings=TrainingSettings(**arguments["settings"]),
        placement=TrainingPlacement(**arguments["placement"]),
        on_step=lambda record: print("STEP", json.dumps(asdict(record)), flush=True),
    )


if __name__ == "__main__":
    main()
