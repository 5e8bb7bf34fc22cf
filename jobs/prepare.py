"""Seed pairs and segments as a Ray job: the stages that need no model and no GPU.

ray job submit --runtime-env jobs/prepare.yaml -- python jobs/prepare.py RECIPE --run URL
"""

from __future__ import annotations

from part import main

if __name__ == "__main__":
    main("prepare", __doc__)
