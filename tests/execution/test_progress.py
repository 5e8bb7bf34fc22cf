"""Lines of a stage's progress."""

from __future__ import annotations

import io
import re

from rich.console import Console

from humpback_ray.execution import progress
from humpback_ray.execution.progress import StageProgress


def test_stage_that_has_said_nothing_yet_is_preparing(monkeypatch):
    monkeypatch.setattr(progress, "PLAIN_LINE_SECONDS", 0.01)
    written = io.StringIO()
    shown = StageProgress(Console(file=written, width=80), "seed")
    with shown.shown():
        while not written.getvalue():
            pass
    assert re.match(r"  seed: preparing, \d+ s so far\n", written.getvalue())
    assert shown.heartbeat().detail == "preparing"
