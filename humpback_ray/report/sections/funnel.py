"""The way from documents to training examples, with every reason for a drop."""

from __future__ import annotations

from collections.abc import Iterator

from humpback_ray.figures.types import FunnelStep, RunFigures
from humpback_ray.report.document import Block, Cell, Row, Table
from humpback_ray.report.sections.prefilter import prefilter
from humpback_ray.report.wording import count, percent


def funnel(figures: RunFigures) -> Iterator[Block]:
    """The steps with the share kept, each reason, the recall of a filter, facts of documents."""
    if not figures.funnel:
        return
    yield Table(
        "What comes in and what stays",
        ("step", "in", "kept", "share kept", "dropped for"),
        [_step(step) for step in figures.funnel],
        frozenset({0, 4}),
        note="Every count is of the records and rows in the run's folder; each step's reasons add "
        "up to what it drops.",
    )
    rows: list[Row] = [
        (
            step.name,
            reason,
            count(number),
            Cell(percent(number / step.num_in), number / step.num_in),
        )
        for step in figures.funnel
        for reason, number in step.reasons.items()
    ]
    if rows:
        columns = ("step", "reason", "dropped", "share of what comes in")
        yield Table("Every reason", columns, rows, frozenset({0, 1}), is_folded=True)
    yield from prefilter(figures)
    if figures.facts:
        yield Table(
            "What documents say about themselves",
            ("fact", "value", "documents", "share"),
            [
                (entry.fact, entry.value, count(entry.num_documents),
                 Cell(percent(entry.share), entry.share))
                for entry in figures.facts
            ],
            frozenset({0, 1}),
            note="Whether they are kept or not (settings.corpus.opt_out). The table `documents` "
            "beside the segments has them by document.",
        )  # fmt: skip


def _step(step: FunnelStep) -> Row:
    share = step.num_kept / step.num_in if step.num_in else 0.0
    reasons = ", ".join(f"{count(number)} {reason}" for reason, number in step.reasons.items())
    what = f"{count(step.num_in)} {step.what}"
    return (step.name, what, count(step.num_kept), Cell(percent(share), share), reasons or "–")
