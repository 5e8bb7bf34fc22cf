"""Lengths beside the paper's, diversity and sources."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from humpback_ray.figures.pair_sets import BIN_CHARACTERS
from humpback_ray.figures.types import RunFigures
from humpback_ray.report import charts
from humpback_ray.report.document import Block, Row, Table
from humpback_ray.report.sections.diversity import diversity_blocks
from humpback_ray.report.wording import count, fixed, mean_and_deviation


def data(figures: RunFigures) -> Iterator[Block]:
    """Lengths beside the paper's, diversity, and sources."""
    if figures.lengths:
        yield Table(
            "Lengths in characters, mean ± s.d. (the paper's Table 1)",
            ("set", "pairs", "instruction", "response", "paper: pairs", "instruction", "response"),
            [
                (
                    entry.name, count(entry.responses.n),
                    mean_and_deviation(entry.instructions.mean, entry.instructions.deviation),
                    mean_and_deviation(entry.responses.mean, entry.responses.deviation),
                    *_paper(entry.paper),
                )
                for entry in figures.lengths
            ],
            note="A_4 and A_5 are the pairs with scores of at least 4 and 4.5; what is selected "
            "stands below them. The paper gives no figures for its first iteration.",
        )  # fmt: skip
        yield from _length_chart(figures)
    yield from diversity_blocks(figures)


def _paper(paper: Any) -> Row:
    if paper is None:
        return ("–", "–", "–")
    return (
        count(paper.n), mean_and_deviation(paper.x_mean, paper.x_deviation),
        mean_and_deviation(paper.y_mean, paper.y_deviation),
    )  # fmt: skip


def _length_chart(figures: RunFigures) -> Iterator[Block]:
    selected = [entry for entry in figures.lengths if entry.name.startswith("selected")]
    shown = [entry for entry in figures.lengths if entry.name in ("seed", "A")] + selected[-1:]
    series = {
        entry.name: [
            (float(first) + BIN_CHARACTERS / 2, number / entry.responses.n)
            for first, number in entry.response_bins.items()
        ]
        for entry in shown
        if len(entry.response_bins) > 1
    }
    if series:
        yield charts.lines(
            "Lengths of responses",
            "; ".join(f"{e.name}: mean {fixed(e.responses.mean, 0)} characters" for e in shown),
            ("characters", f"share per {BIN_CHARACTERS}"),
            series,
        )
