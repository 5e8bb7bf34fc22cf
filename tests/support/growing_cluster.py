"""A cluster whose autoscaler brings nodes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks import raylets
from tests.serving.test_autoscaling import NUM_ENGINES


@pytest.fixture
def growing_cluster(tmp_path) -> Iterator[str]:
    """The address of a cluster with a head alone."""
    with raylets.growing_cluster(tmp_path, NUM_ENGINES) as address:
        yield address
