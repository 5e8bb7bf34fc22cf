"""The rating that can run now as a Ray job: M_0 rates the candidates, or the next M_(t-1).

ray job submit --runtime-env jobs/rate.yaml -- python jobs/rate.py RECIPE --run URL
"""

from __future__ import annotations

from part import main

if __name__ == "__main__":
    main("rate", __doc__)
