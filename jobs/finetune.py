"""The finetuning that can run now as a Ray job: M_yx and M_0, or the next M_t once A is rated.

ray job submit --runtime-env jobs/finetune.yaml -- python jobs/finetune.py RECIPE --run URL
"""

from __future__ import annotations

from part import main

if __name__ == "__main__":
    main("finetune", __doc__)
