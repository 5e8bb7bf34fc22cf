"""Three attempts of a training on a small disk that fills up: prints attempts, steps and errors.

A thread fills the disk as soon as the second checkpoint's first file is there. The disk is still
full at the second attempt, and emptied before the third.

`python -m tests.support.full_disk ARGUMENTS`, in a mount namespace with a small file system at
`disk`; ARGUMENTS is JSON with base, examples, output, settings, placement, disk and wanted (bytes
that a checkpoint needs).
"""

from __future__ import annotations

import glob
import json
import os
import sys
import threading
import time

import ray

from humpback_ray.config.placement import TrainingPlacement
from humpback_ray.config.settings import TrainingSettings
from humpback_ray.training.finetune import finetune
from humpback_ray.training.records import StepRecord
from tests.support.training import task_for


def fill(disk: str, name: str, leave: int) -> None:
    # In pieces: whoever writes at the same time gets the last of the space, and the rest stays.
    with open(os.path.join(disk, name), "wb") as file:
        for piece in (2**24, 2**20, 2**12):
            while (left := os.statvfs(disk)).f_bavail * left.f_frsize - leave > piece:
                try:
                    os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), piece)
                except OSError:
                    break


def fill_during_a_checkpoint(disk: str, wanted: int) -> None:
    while not glob.glob(os.path.join(disk, "scratch", "*", "checkpoint_manager_snapshot.json")):
        time.sleep(0.01)
    time.sleep(0.1)
    fill(disk, "filler-1", wanted)
    while not glob.glob(os.path.join(disk, "temporary", "humpback-*", "state", "*.pt")):
        time.sleep(0.0005)
    fill(disk, "filler-2", 0)


def main() -> None:
    arguments = json.loads(sys.argv[1])
    disk, wanted = arguments["disk"], arguments["wanted"]
    temporary, scratch = os.path.join(disk, "temporary"), os.path.join(disk, "scratch")
    os.makedirs(temporary)
    os.environ["RAY_TMPDIR"] = "/tmp"  # Ray's sockets must have short paths
    os.environ["TMPDIR"] = temporary
    ray.init(num_cpus=4, include_dashboard=False, address="local", log_to_driver=False)
    settings = TrainingSettings(**arguments["settings"])
    task = task_for(arguments["base"], arguments["examples"], settings)
    attempt = 0

    def on_step(record: StepRecord) -> None:
        print("STEP", json.dumps(record.as_dict()), flush=True)
        if record.step == 1 and attempt == 0:
            filling = threading.Thread(
                target=fill_during_a_checkpoint, args=(disk, wanted), daemon=True
            )
            filling.start()

    for attempt in range(3):
        print("ATTEMPT", flush=True)
        try:
            finetune(
                task,
                placement=TrainingPlacement(**arguments["placement"]),
                output=arguments["output"],
                scratch_folder=scratch,
                on_step=on_step,
            )
        except ValueError as error:
            kept = glob.glob(os.path.join(scratch, "train-*", "checkpoint_*", ""))
            report = [str(error), len(kept), os.listdir(temporary)]
            print("ERROR", json.dumps(report), flush=True)
        if attempt == 1:
            for name in glob.glob(os.path.join(disk, "filler-*")):
                os.remove(name)


if __name__ == "__main__":
    main()
