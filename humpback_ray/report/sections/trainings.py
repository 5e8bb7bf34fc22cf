"""Trainings and their curves."""

from __future__ import annotations

from collections.abc import Iterator

from humpback_ray.figures.types import RunFigures
from humpback_ray.report import charts
from humpback_ray.report.document import Block, Table
from humpback_ray.report.wording import count, fixed, percent


def trainings(figures: RunFigures) -> Iterator[Block]:
    """Every training in a table, and the curves: those of the models that answer in one chart."""
    if not figures.trainings:
        return
    yield Table(
        "Trainings",
        ("model", "stage", "examples", "steps", "first loss", "last loss", "tokens per second",
         "peak GiB", "MFU"),
        [
            (
                t.model, t.stage, count(t.num_examples), count(t.num_steps),
                fixed(t.losses[0][1] if t.losses else None, 3),
                fixed(t.losses[-1][1] if t.losses else None, 3),
                count(t.tokens_per_second), fixed(t.peak_memory_gib, 1), percent(t.mfu),
            )
            for t in figures.trainings
        ],
        frozenset({0, 1}),
        note="Losses in nats per token of the training batches. Tokens per second and MFU (model "
        "flops over the device's peak) are medians over the steps.",
    )  # fmt: skip
    curves = {t.model: t.losses for t in figures.trainings if t.losses}
    forward = {name: c for name, c in curves.items() if name.startswith("M_") and name != "M_yx"}
    groups = {"models that answer": forward} if forward else {}
    groups |= {name: {name: curve} for name, curve in curves.items() if name not in forward}
    for name, series in groups.items():
        ends = "; ".join(f"{model} ends at {curve[-1][1]:.3f}" for model, curve in series.items())
        yield charts.lines(f"Training loss: {name}", ends, ("step", "nats per token"), series)
