"""Scores of the rated pairs, and the selections they lead to."""

from __future__ import annotations

from collections.abc import Iterator

from humpback_ray.figures.types import RunFigures
from humpback_ray.report import charts
from humpback_ray.report.document import Block, Table
from humpback_ray.report.wording import count, fixed, percent


def scores(figures: RunFigures) -> Iterator[Block]:
    """Scores by iteration with histograms, and the overlap of the selections."""
    if not figures.scores:
        return
    yield Table(
        "Scores of the pairs",
        ("iteration", "pairs", "with a score", "mean", "s.d.", "selected", "from score"),
        [
            (
                str(s.iteration), count(s.num_pairs), count(s.scores.n), fixed(s.scores.mean),
                fixed(s.scores.deviation), count(s.num_selected), fixed(s.lowest_selected),
            )
            for s in figures.scores
        ],
    )  # fmt: skip
    for s in figures.scores:
        if s.tenths:
            counts = [(float(tenth), number) for tenth, number in s.tenths.items()]
            best = max(counts, key=lambda entry: entry[1])
            yield charts.bars(
                f"Scores of iteration {s.iteration}"
                + ("; the second colour has selected pairs" if s.lowest_selected else ""),
                f"{count(s.scores.n)} scores from {counts[0][0]:.1f} to {counts[-1][0] + 0.1:.1f}; "
                f"most lie at {best[0]:.1f}. The second colour marks bins with selected pairs.",
                "score",
                counts,
                0.1,
                s.lowest_selected,
            )
    if figures.overlaps:
        yield Table(
            "Selections compared",
            ("iterations", "in both", "gained", "lost", "share of the later one that is new"),
            [
                (
                    f"{o.before} and {o.after}", count(o.num_both), count(o.num_gained),
                    count(o.num_lost),
                    percent(o.num_gained / (o.num_both + o.num_gained)
                            if o.num_both + o.num_gained else None),
                )
                for o in figures.overlaps
            ],
        )  # fmt: skip
