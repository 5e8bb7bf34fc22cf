"""A job that is followed to its end: `python -m tests.support.followed_job DASHBOARD`."""

from __future__ import annotations

import sys

from humpback_ray.cluster import jobs

COMMAND = "for i in $(seq 1 40); do echo line $i; sleep 0.2; done"


def main(dashboard: str) -> None:
    """Submit forty lines in eight seconds, print them as they come, and how the job ended."""
    cluster = jobs.connect(dashboard)
    name = cluster.submit_job(entrypoint=COMMAND)
    job = jobs.follow(cluster, name, lambda text: print(text, end="", flush=True))
    print(job.status.value)


if __name__ == "__main__":
    main(sys.argv[1])
