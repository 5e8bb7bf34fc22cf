"""A cluster whose autoscaler brings nodes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

NUM_ENGINES = 4


@pytest.fixture
def growing_cluster(tmp_path) -> Iterator[str]:
    """The address of a cluster with a head alone."""
    from benchmarks import raylets

    with raylets.growing_cluster(tmp_path, NUM_ENGINES) as address:
        yield address
