"""The evaluation of all models as a Ray job, once the last one is trained.

ray job submit --runtime-env jobs/evaluate.yaml -- python jobs/evaluate.py RECIPE --run URL
"""

from __future__ import annotations

from part import main

if __name__ == "__main__":
    main("evaluate", __doc__)
