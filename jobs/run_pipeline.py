"""The whole pipeline as a Ray job; takes what `humpback run` takes.

ray job submit --runtime-env jobs/run_pipeline.yaml -- python jobs/run_pipeline.py RECIPE --run URL

`humpback submit RECIPE --run URL` does the same, and knows a run that is running already.

The run's folder must be one that every node sees.
"""

from __future__ import annotations

import sys

from humpback_ray.cli import app

if __name__ == "__main__":
    app(["run", *sys.argv[1:]])
