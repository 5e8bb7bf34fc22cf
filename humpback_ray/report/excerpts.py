"""Rows for a person to read, as long as a page of bounded size lets them be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from humpback_ray.figures.types import OverlapFigures, RunFigures, SampleText, Selection
from humpback_ray.report.document import Excerpt, Excerpts, Section, Text
from humpback_ray.report.foreign_text import cut, link, shown

MAX_BYTES = 150_000  # of all texts, escaped: a page that is mailed stays below 400 KB
LIMITS = (1_200, 900, 700, 500, 350, 250, 160, 100, 60)  # characters of a text


def samples_section(figures: RunFigures) -> list[Section]:
    """The samples of every stage and of the selections; none without rows."""
    limit = _limit(figures)
    blocks = [*_of_stages(figures, limit), *_of_selections(figures.overlaps, limit)]
    return [Section("samples", "Samples", blocks)] if blocks else []


def _limit(figures: RunFigures) -> int:
    """The longest texts with which all of them fit."""
    texts = [text for stage in figures.samples for row in stage.rows for text in row.texts]
    for overlap in figures.overlaps:
        for pair in (*overlap.both, *overlap.gained, *overlap.lost):
            texts += [pair.instruction, pair.response]

    def size(limit: int) -> int:
        return sum(_size(text, limit) for text in texts)

    return next((limit for limit in LIMITS if size(limit) <= MAX_BYTES), LIMITS[-1])


def _size(text: SampleText, limit: int) -> int:
    return len(escape(shown(text.text[:limit])).encode())


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
