"""The engine that holds a batch for too long is named."""

from __future__ import annotations

from humpback_ray.serving.engine_registry import Engine
from humpback_ray.serving.generation_progress import STRAGGLER_SECONDS, straggler


def engine(host: str, *begun: float) -> Engine:
    batches = {str(number): time for number, time in enumerate(begun)}
    return Engine(host, host=host, pid=7, in_flight=batches)


def test_straggler_with_an_old_batch_is_named():
    engines = [engine("a", 1000.0, 900.0), engine("b", 950.0), engine("c")]
    assert straggler(engines, 900.0 + STRAGGLER_SECONDS - 1) == ""
    assert straggler(engines, 900.0 + STRAGGLER_SECONDS + 60) == (
        ", a batch since 6:00 on a (process 7)"
    )


def test_straggler_is_empty_for_idle_engines():
    assert straggler([engine("a"), engine("b")], 1e9) == ""
