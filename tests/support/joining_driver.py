"""A driver that joins a cluster: `python -m tests.support.joining_driver ADDRESS`."""

from __future__ import annotations

import sys

import ray


def main(address: str) -> None:
    """Join, and say how many nodes there are."""
    ray.init(address, logging_level="ERROR", log_to_driver=False)
    print("joined", len(ray.nodes()), "nodes", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
