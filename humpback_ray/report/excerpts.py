"""Rows for a person to read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from humpback_ray.figures.types import OverlapFigures, RunFigures, SampleText, Selection
from humpback_ray.report.document import Excerpt, Excerpts, Section, Text
from humpback_ray.report.foreign_text import cut, link

LIMITS = (1_200, 900, 700, 500, 350, 250, 200, 160, 130, 100, 60)  # characters of a text


def samples_section(figures: RunFigures, limit: int) -> list[Section]:
    """The samples of every stage and of the selections; none without rows.

    Args:
        limit: characters of a text.
    """
    blocks = [*_of_stages(figures, limit), *_of_selections(figures.overlaps, limit)]
    return [Section("samples", "Samples", blocks)] if blocks else []


def _text(text: SampleText, limit: int) -> Text:
    start = text.text[:limit]
    # A model of published outputs has whatever name its file gives it.
    return Text(cut(text.name, 60), start, text.num_characters - len(start))


def _of_stages(figures: RunFigures, limit: int) -> Iterator[Excerpts]:
    for stage in figures.samples:
        entries = [
            Excerpt(
                cut(f"{row.title} · {row.row_id}" if row.title else row.row_id),
                [_text(text, limit) for text in row.texts],
                cut(row.source),
                link(row.source),
            )
            for row in stage.rows
        ]
        summary = f"{len(entries)} of {stage.num_rows:,} rows, {stage.how}"
        yield Excerpts(stage.stage, summary, entries)


def _of_selections(overlaps: Sequence[OverlapFigures], limit: int) -> Iterator[Excerpts]:
    for overlap in overlaps:
        groups = {
            "both selections": (overlap.both, overlap.num_both),
            f"gained by iteration {overlap.after}": (overlap.gained, overlap.num_gained),
            f"lost by iteration {overlap.after}": (overlap.lost, overlap.num_lost),
        }
        for name, (pairs, number) in groups.items():
            if pairs:
                entries = [_selection(pair, limit) for pair in pairs]
                title = f"A^({overlap.before}) and A^({overlap.after}): {name}"
                yield Excerpts(title, f"{len(pairs)} of {number:,} pairs", entries)


def _selection(pair: Selection, limit: int) -> Excerpt:
    scores = " then ".join("no score" if s is None else f"{s:.2f}" for s in
                           (pair.before, pair.after))  # fmt: skip
    texts = [_text(pair.instruction, limit), _text(pair.response, limit)]
    return Excerpt(cut(f"score {scores} · {pair.candidate_id}"), texts)
