"""What the ledger concludes from engines that come, go and die."""

from __future__ import annotations

from humpback_ray.serving.engine_registry import Ledger, Tally


def begun(max_deaths: int = 2) -> Ledger:
    """A ledger with one engine that runs."""
    ledger = Ledger(max_deaths)
    assert ledger.starting("a", "host", 1) == ""
    ledger.started("a", 12.0)
    return ledger


def dies(ledger: Ledger, engine: str = "a", error: str = "") -> str:
    """The engine's process begins again; why it must not go on."""
    if error:
        ledger.failed(error)
    return ledger.starting(engine, "host", 2)


def test_a_death_counts_for_the_batches_that_were_inside_and_for_no_other():
    ledger = begun()
    ledger.begin("a", "finished")
    ledger.end("a", "finished", Tally(num_rows=5))
    ledger.begin("a", "inside")
    ledger.begin("a", "inside too")
    assert dies(ledger) == ""
    counts = {batch: ledger.deaths(batch) for batch in ["finished", "inside", "inside too", "new"]}
    assert counts == {"finished": 0, "inside": 1, "inside too": 1, "new": 0}


def test_a_death_counts_once_though_the_engine_dies_again_at_its_start():
    ledger = begun(max_deaths=9)
    ledger.begin("a", "inside")
    dies(ledger)
    dies(ledger)
    assert ledger.deaths("inside") == 1
    assert ledger.num_deaths() == 2


def test_a_batch_is_known_wherever_it_is_asked():
    ledger = begun(max_deaths=9)
    ledger.begin("a", "batch")
    dies(ledger)
    ledger.starting("b", "other host", 3)
    ledger.begin("b", "batch")
    dies(ledger, "b")
    assert ledger.deaths("batch") == 2


def test_engines_are_given_up_after_too_many_deaths_in_a_row_with_the_last_error():
    ledger = begun(max_deaths=2)
    assert dies(ledger, error="RuntimeError: first") == ""
    assert dies(ledger, error="RuntimeError: second") == ""
    reason = dies(ledger, error="RuntimeError: third")
    assert "died 3 times" in reason
    assert "RuntimeError: third" in reason
    # Of another engine too, and without waiting for its death.
    assert "died 3 times" in ledger.starting("b", "host", 3)


def test_a_finished_batch_or_part_starts_the_count_again():
    ledger = begun(max_deaths=1)
    for number in range(5):
        ledger.begin("a", f"batch {number}")
        ledger.end("a", f"batch {number}", Tally())
        assert dies(ledger) == ""
    assert ledger.num_deaths() == 5
    assert "killed?" in dies(ledger)


def test_what_was_done_before_a_death_stays_counted():
    ledger = begun()
    ledger.beat("a", Tally(num_rows=3, busy_seconds=1.0), 2)
    dies(ledger)
    (engine,) = ledger.engines()
    assert (engine.is_running, engine.num_lives, engine.tally.num_rows) == (False, 2, 3)
    ledger.started("a", 1.0)
    ledger.begin("a", "batch")
    ledger.end("a", "batch", Tally(num_rows=4, idle_seconds=3.0))
    (engine,) = ledger.engines()
    assert engine.is_running
    assert engine.tally == Tally(num_rows=7, busy_seconds=1.0, idle_seconds=3.0)
    assert engine.tally.idle_share == 0.75


def test_a_failed_start_is_judged_when_no_other_engine_is_still_starting():
    ledger = Ledger(1)
    ledger.starting("a", "host", 1)
    ledger.starting("b", "host", 2)
    ledger.not_started("a", "no device")
    assert ledger.can_start() is None
    ledger.not_started("b", "no device")
    assert ledger.can_start() is False


def test_one_engine_that_has_started_means_that_a_failed_start_is_not_everybodys():
    ledger = Ledger(1)
    ledger.starting("a", "host", 1)
    ledger.starting("b", "host", 2)
    ledger.started("b", 1.0)
    ledger.not_started("a", "no device")
    assert ledger.can_start() is True
    # What came up once may come up again.
    dies(ledger, "b")
    assert ledger.can_start() is True
