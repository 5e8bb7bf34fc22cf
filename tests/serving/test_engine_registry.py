"""The engine registry's conclusions from engines that start, finish batches and die."""

from __future__ import annotations

from humpback_ray.serving.engine_registry import EngineCounters, EngineRegistry


def begun(max_deaths: int = 2) -> EngineRegistry:
    """A registry with one running engine."""
    registry = EngineRegistry(max_deaths)
    assert registry.starting("a", "host", 1) == ""
    registry.started("a", 12.0)
    return registry


def dies(registry: EngineRegistry, engine: str = "a", error: str = "") -> str:
    """The engine's process begins again; why it must not go on."""
    if error:
        registry.failed(error)
    return registry.starting(engine, "host", 2)


def test_engine_death_counts_only_for_batches_inside():
    registry = begun()
    registry.begin("a", "finished")
    registry.end("a", "finished", EngineCounters(num_rows=5))
    registry.begin("a", "inside")
    registry.begin("a", "inside too")
    assert dies(registry) == ""
    counts = {
        batch: registry.num_kills_with(batch)
        for batch in ["finished", "inside", "inside too", "new"]
    }
    assert counts == {"finished": 0, "inside": 1, "inside too": 1, "new": 0}


def test_second_death_at_start_does_not_count_for_the_batch_again():
    registry = begun(max_deaths=9)
    registry.begin("a", "inside")
    dies(registry)
    dies(registry)
    assert registry.num_kills_with("inside") == 1
    assert registry.num_restarts() == 2


def test_batch_keeps_its_count_on_another_engine():
    registry = begun(max_deaths=9)
    registry.begin("a", "batch")
    dies(registry)
    registry.starting("b", "other host", 3)
    registry.begin("b", "batch")
    dies(registry, "b")
    assert registry.num_kills_with("batch") == 2


def test_too_many_deaths_in_a_row_refuse_the_start_with_the_last_error():
    registry = begun(max_deaths=2)
    assert dies(registry, error="RuntimeError: first") == ""
    assert dies(registry, error="RuntimeError: second") == ""
    reason = dies(registry, error="RuntimeError: third")
    assert "died 3 times" in reason
    assert "RuntimeError: third" in reason
    # Of another engine too, and without waiting for its death.
    assert "died 3 times" in registry.starting("b", "host", 3)


def test_finished_batch_resets_the_deaths_in_a_row():
    registry = begun(max_deaths=1)
    for number in range(5):
        registry.begin("a", f"batch {number}")
        registry.end("a", f"batch {number}", EngineCounters())
        assert dies(registry) == ""
    assert registry.num_restarts() == 5
    assert "killed?" in dies(registry)


def test_counters_survive_an_engine_death():
    registry = begun()
    registry.heartbeat("a", EngineCounters(num_rows=3, busy_seconds=1.0), 2)
    dies(registry)
    (engine,) = registry.engines()
    assert (engine.is_running, engine.num_starts, engine.counters.num_rows) == (False, 2, 3)
    registry.started("a", 1.0)
    registry.begin("a", "batch")
    registry.end("a", "batch", EngineCounters(num_rows=4, idle_seconds=3.0))
    (engine,) = registry.engines()
    assert engine.is_running
    assert engine.counters == EngineCounters(num_rows=7, busy_seconds=1.0, idle_seconds=3.0)
    assert engine.counters.idle_share == 0.75


def test_failed_start_is_undecided_while_engines_are_starting():
    registry = EngineRegistry(1)
    registry.starting("a", "host", 1)
    registry.starting("b", "host", 2)
    registry.not_started("a", "no device")
    assert registry.can_start() is None
    registry.not_started("b", "no device")
    assert registry.can_start() is False


def test_failed_start_after_a_successful_one_is_the_nodes_fault():
    registry = EngineRegistry(1)
    registry.starting("a", "host", 1)
    registry.starting("b", "host", 2)
    registry.started("b", 1.0)
    registry.not_started("a", "no device")
    assert registry.can_start() is True
    # What came up once may come up again.
    dies(registry, "b")
    assert registry.can_start() is True
