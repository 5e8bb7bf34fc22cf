"""Self-augmentation as a Ray job: M_yx writes an instruction for every segment.

ray job submit --runtime-env jobs/augment.yaml -- python jobs/augment.py RECIPE --run URL
"""

from __future__ import annotations

from part import main

if __name__ == "__main__":
    main("augment", __doc__)
