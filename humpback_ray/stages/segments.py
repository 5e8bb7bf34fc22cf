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
from humpback_ray.corpus.files import list_corpus
from humpback_ray.errors import UserError
from humpback_ray.execution import progress
from humpback_ray.execution.stage import Context, Part, Result, Source, Stage
from humpback_ray.method import duplicates
from humpback_ray.rows import Segment, SegmentOutcome

# Size of the files of one task; MIN_TASKS splits a small corpus too.
BYTES_PER_TASK = 8 * 2**20
MIN_TASKS = 8

MAX_REASONS = 20  # in the record: the media types that servers name are without number


@dataclass(frozen=True, kw_only=True)
class Segments(Stage):
    """Segments y: the corpus, cut at its headers, filtered and deduplicated."""

    kind: ClassVar[str] = "segments"
    version: ClassVar[int] = 3
    part: ClassVar[Part] = "prepare"

    corpus: Source
    settings: CorpusSettings

    def run(self, context: Context) -> Result:
        """Write every section of every document to `rows` (kept) or `dropped`.

        `dropped` also has a row for each file, link and archive record that is no document. Tasks
        cut and filter sections in parallel into a working folder. One pass over ids and MinHash
        signatures, in the order of documents, then finds the duplicates.
        """
        path = context.of(self.corpus)
        listing = list_corpus(path)
        files = listing.files
        sections, rows, dropped = (context.path(name) for name in ("_sections", "rows", "dropped"))
        for folder in (sections, rows, dropped):
            storage.delete(folder)
        _cut(context, files, self.settings, sections)
        repeated = _dropped_among(sections, self.settings)
        _split(sections, repeated, rows, dropped)
        others = [cut.segment_without_text(entry, self.settings) for entry in listing.not_read]
        tables.write_rows(dropped, others, Segment, name="files-not-read")
        outcomes = tables.count_values(dropped, "outcome")
        reasons = _reasons(dropped)
        num_kept = tables.num_rows(rows)
        if not num_kept:
            for folder in (sections, rows, dropped):
                storage.delete(folder)
            raise UserError(
                f"no segment survives out of {len(files)} files of {path} (settings.corpus.path): "
                + ", ".join(f"{count} {name}" for name, count in sorted(outcomes.items()))
                + (f"; without a document: {_in_words(reasons)}" if reasons else "")
                + "; the rules are under settings.corpus"
            )
        assert num_kept == tables.assert_unique(rows, "segment_id")
        outcomes[SegmentOutcome.KEPT.value] = num_kept
        assert outcomes.total() == tables.num_rows(sections) + len(others)
        storage.delete(sections)
        if reasons:
            context.progress.note(f"without a document: {_in_words(reasons)} (see dropped)")
        lengths = tables.read_table(rows, ["num_characters"])["num_characters"]
        return Result(
            outcomes.total(),
            outcomes,
            {
                "num_files": len(files),
                "mean_characters": round(pc.mean(lengths).as_py()),
                "not_read": dict(reasons.most_common(MAX_REASONS)),
            },
        )


def _reasons(dropped: str) -> Counter[str]:
    """The reasons for which files, links and records gave no document, with their counts."""
    found: Counter[str] = Counter()
    for batch in tables.scan(dropped, ["outcome", "text"]):
        texts = batch.filter(pc.equal(batch["outcome"], SegmentOutcome.NOT_READ.value))["text"]
        found.update(
            {entry["values"]: entry["counts"] for entry in texts.value_counts().to_pylist()}
        )
    return found


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
        # Ray adds a page of traceback and advice to what a task says in one line.
        if isinstance(error.cause, UserError):
            raise UserError(str(error.cause).partition("\n")[0]) from error
        raise


def _sections_of(file: dict[str, Any], settings: CorpusSettings) -> Iterator[dict[str, Any]]:
    for segment in cut.segments_of(CorpusFile(**file), settings):
        is_kept = segment.outcome is SegmentOutcome.KEPT
        yield {
            **tables.as_dict(segment),
            "outcome": segment.outcome.value,
            "signature": duplicates.signature(
                segment.text, settings.num_permutations, settings.near_duplicate_ngram
            )
            if is_kept
            else b"",
        }


def _dropped_among(folder: str, settings: CorpusSettings) -> dict[tuple[str, int], SegmentOutcome]:
    """Outcomes of the sections to drop as duplicates or as surplus, by (document_id, start)."""
    columns = ["document_id", "start", "segment_id", "outcome", "signature"]
    table = tables.read_table(folder, columns)
    table = table.filter(pc.field("outcome") == SegmentOutcome.KEPT.value)
    table = table.sort_by([("document_id", "ascending"), ("start", "ascending")])
    outcomes = duplicates.find_duplicates(
        (
            ((row["document_id"], row["start"]), row["segment_id"], row["signature"])
            for batch in table.to_batches(max_chunksize=1000)
            for row in batch.to_pylist()
        ),
        settings.near_duplicate_jaccard,
        settings.num_permutations,
    )
    dropped: dict[tuple[str, int], SegmentOutcome] = {
        key: value for key, value in outcomes.items() if value is not SegmentOutcome.KEPT
    }
    return dropped | _surplus(table, dropped, settings.max_segments)


def _surplus(
    table: pa.Table, dropped: dict[tuple[str, int], SegmentOutcome], max_segments: int | None
) -> dict[tuple[str, int], SegmentOutcome]:
    """Outcomes of the sections above the number asked for.

    The segments with the smallest ids stay. An id is the hash of a text, so they are a random
    sample, and the same one wherever the corpus lies.
    """
    if max_segments is None:
        return {}
    columns = ("segment_id", "document_id", "start")
    rows = zip(*(table[name].to_pylist() for name in columns), strict=True)
    kept = sorted((id_, (document, start)) for id_, document, start in rows
                  if (document, start) not in dropped)  # fmt: skip
    return {key: SegmentOutcome.SURPLUS for _, key in kept[max_segments:]}


def _split(
    folder: str, repeated: dict[tuple[str, int], SegmentOutcome], rows: str, dropped: str
) -> None:
    for target, kept in ((rows, True), (dropped, False)):
        tables.map_files(folder, partial(_with_outcome, repeated=repeated, kept=kept), target)
        if not tables.num_rows(target):
            tables.write_rows(target, [], Segment)  # readers expect at least one file


def _with_outcome(
    table: pa.Table, repeated: dict[tuple[str, int], SegmentOutcome], kept: bool
) -> pa.Table:
    keys = zip(table["document_id"].to_pylist(), table["start"].to_pylist(), strict=True)
    values = [
        repeated.get(key, outcome)
        for key, outcome in zip(keys, table["outcome"].to_pylist(), strict=True)
    ]
    table = table.set_column(
        table.column_names.index("outcome"), "outcome", pa.array([str(v) for v in values])
    )
    is_kept = pc.equal(table["outcome"], SegmentOutcome.KEPT.value)
    return tables.conform(table.filter(is_kept if kept else pc.invert(is_kept)), Segment)
