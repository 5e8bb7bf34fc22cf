"""The whole pipeline as a Ray job; it takes the arguments of `humpback run`.

ray job submit --runtime-env jobs/run_pipeline.yaml -- python jobs/run_pipeline.py RECIPE --run URL

`humpback submit RECIPE --run URL` does the same and joins a run that is already running. Every node
must see the run folder.
"""

from __future__ import annotations

import sys

from humpback_ray.cli import app

if __name__ == "__main__":
    app(["run", *sys.argv[1:]])
