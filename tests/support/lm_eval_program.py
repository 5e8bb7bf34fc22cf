"""A program with the command line of an interpreter that has lm_eval, and invented answers.

It knows the tasks below and those whose files lie in --include_path. The task `broken` fails as the
harness does where data cannot be had.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import yaml

from tests.support.harness_files import write_files

KNOWN = ("tides", "dunes", "broken")


def main(arguments: list[str]) -> int:
    if arguments[0] == "-c":
        print("0.4.13")
        return 0
    command = arguments[2]
    options = dict(zip(arguments[3::2], arguments[4::2], strict=True))
    if command == "validate":
        return validate(options["--tasks"].split(","), options.get("--include_path"))
    return run(yaml.safe_load(Path(options["--config"]).read_text()))


def validate(tasks: list[str], folder: str | None) -> int:
    local = {path.stem for path in Path(folder).glob("*.yaml")} if folder else set()
    missing = [task for task in tasks if task not in KNOWN and task not in local]
    print(f"Tasks not found: {', '.join(missing)}" if missing else "All tasks found and valid")
    return 1 if missing else 0


def run(config: dict) -> int:
    print("Running loglikelihood requests: 100%", json.dumps(config), os.getcwd())
    if "broken" in config["tasks"]:
        print("Traceback (most recent call last):\nConnectionError: no hub", file=sys.stderr)
        return 1
    number = config.get("limit") or 12
    scores = {
        task: [{"acc": float(n % 3 == 0), "acc_norm": float(n % 2)} for n in range(number)]
        for task in config["tasks"]
    }
    folder = Path(config["output_path"]) / config["model_args"]["pretrained"].replace("/", "__")
    write_files(folder, scores, model=config["model"], num_left_out=12 - number)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
