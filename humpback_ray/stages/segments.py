"""Segments y: the corpus, cut at its headers, filtered and deduplicated (paper, appendix A)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc
import ray.data
from ray.exceptions import RayTaskError

from humpback_ray import storage, tables
from humpback_ray.config.settings import CorpusSettings
from humpback_ray.corpus import cut
from humpback_ray.corpus.documents import CorpusFile
from humpback_ray.corpus.duplicate_steps import Columns
from humpback_ray.corpus.files import list_corpus
from humpback_ray.errors import UserError
from humpback_ray.execution import progress
from humpback_ray.execution.stage import Context, Part, Result, Source, Stage
from humpback_ray.execution.tasks import user_error
from humpback_ray.rows import DroppedSegment, Segment, SegmentOutcome
from humpback_ray.stages.searching import WORK, Searched, drop_duplicates, duplicate_figures

# Size of the files of one task; MIN_TASKS splits a small corpus too.
BYTES_PER_TASK = 8 * 2**20
MIN_TASKS = 8

MAX_REASONS = 20  # in the record: the media types that servers name are without number


@dataclass(frozen=True, kw_only=True)
class Segments(Stage):
    """Segments y: the corpus, cut at its headers, filtered and deduplicated."""

    kind: ClassVar[str] = "segments"
    version: ClassVar[int] = 5
    part: ClassVar[Part] = "prepare"

    corpus: Source
    settings: CorpusSettings

    def run(self, context: Context) -> Result:
        """Write every section of every document to `rows` (kept) or `dropped`.

        `dropped` also has a row for each file, link and archive record that is no document. Tasks
        cut and filter sections in parallel into a working folder, and then look for duplicates. A
        stage that was killed uses the sections of a whole cut and the finished tasks of a search.
        """
        path = context.of(self.corpus)
        listing = list_corpus(path)
        sections, dropped = context.path("_sections"), context.path("dropped")
        is_cut = context.path(WORK, "cut.json")
        if not storage.exists(is_cut):
            _delete(context)
            _cut(context, listing.files, self.settings, sections)
            storage.write_json(is_cut, True)
        s = self.settings
        found = drop_duplicates(
            context, searched_sections(sections), s.near_duplicates, s.max_segments
        )
        others = [cut.segment_without_text(entry, s) for entry in listing.not_read]
        _write_others(dropped, others)
        outcomes = tables.count_values(dropped, "outcome")
        reasons = found.counts + Counter(row.text for row in others)
        num_kept = tables.num_rows(context.path("rows"))
        if not num_kept:
            _delete(context)
            raise UserError(
                f"no segment survives out of {len(listing.files)} files of {path} "
                "(settings.corpus.path): "
                + ", ".join(f"{count} {name}" for name, count in sorted(outcomes.items()))
                + (f"; without a document: {_in_words(reasons)}" if reasons else "")
                + "; the rules are under settings.corpus"
            )
        outcomes[SegmentOutcome.KEPT.value] = num_kept
        assert outcomes == found.outcomes + Counter(row.outcome.value for row in others)
        assert outcomes.total() == tables.num_rows(sections) + len(others)
        storage.delete(sections)
        storage.delete(context.path(WORK))
        if reasons:
            context.progress.note(f"without a document: {_in_words(reasons)} (see dropped)")
        return Result(
            outcomes.total(),
            outcomes,
            {
                "num_files": len(listing.files),
                "mean_characters": round(
                    _sum_of(context.path("rows"), "num_characters") / num_kept
                ),
                "not_read": dict(reasons.most_common(MAX_REASONS)),
                **duplicate_figures(found),
            },
        )


def searched_sections(sections: str) -> Searched:
    """The sections that every other rule keeps."""
    return Searched(
        sections, "outcome", SegmentOutcome.KEPT.value, Segment, DroppedSegment,
        Columns("segment_id", "text", ("document_id", "start"), "url"), _unchanged, _with_reasons,
    )  # fmt: skip


def _unchanged(table: pa.Table) -> pa.Table:
    return table


def _with_reasons(table: pa.Table) -> tuple[pa.Table, Counter[str]]:
    """Dropped sections, and the reasons for which archive records gave no document."""
    not_read = pc.equal(table["outcome"], SegmentOutcome.NOT_READ.value)
    return table, Counter(table["text"].filter(not_read).to_pylist())


def _write_others(dropped: str, others: list[Segment]) -> None:
    rows = [{**tables.as_dict(row), "duplicate_of": None, "jaccard": None} for row in others]
    if rows:
        tables.write_rows(dropped, rows, DroppedSegment, name="files-not-read")


def _delete(context: Context) -> None:
    for name in (WORK, "_sections", "rows", "dropped"):
        storage.delete(context.path(name))


def _sum_of(folder: str, column: str) -> int:
    return sum(pc.sum(batch[column]).as_py() or 0 for batch in tables.scan(folder, [column]))


def _in_words(reasons: Counter[str]) -> str:
    shown = reasons.most_common(5)
    rest = reasons.total() - sum(count for _, count in shown)
    words = [f"{count} x {reason}" for reason, count in shown]
    return ", ".join([*words, f"{rest} others"] if rest else words)


def _cut(context: Context, files: list[CorpusFile], settings: CorpusSettings, folder: str) -> None:
    names = [{"path": f.path, "name": f.name, "size": f.size} for f in files]
    num_tasks = max(MIN_TASKS, sum(file.size for file in files) // BYTES_PER_TASK)
    num_tasks = min(len(names), num_tasks)
    dataset = ray.data.from_items(names, override_num_blocks=num_tasks)
    dataset = dataset.flat_map(partial(_sections_of, settings=settings))
    filesystem, path = storage.arrow_filesystem(folder)

    def show() -> None:
        num_done = len(tables.parquet_files(filesystem, path))
        context.progress.update(min(num_done, num_tasks), num_tasks, "parts of the corpus cut")

    try:
        with progress.polling(show):
            tables.write_dataset(folder, dataset)
    except RayTaskError as error:
        raise user_error(error) from error


def _sections_of(file: dict[str, Any], settings: CorpusSettings) -> Iterator[dict[str, Any]]:
    for segment in cut.segments_of(CorpusFile(**file), settings):
        yield {**tables.as_dict(segment), "outcome": segment.outcome.value}
