"""Segments y: the corpus, cut at its headers, filtered and deduplicated (paper, appendix A)."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from humpback_ray import storage, tables
from humpback_ray.config.contamination import DecontaminationSettings
from humpback_ray.config.placement import Placement
from humpback_ray.config.settings import CorpusSettings
from humpback_ray.corpus import cut, cut_tasks
from humpback_ray.corpus.captures import Captures, mark_older_captures
from humpback_ray.corpus.cut_tasks import Cut
from humpback_ray.corpus.documents import CorpusFile
from humpback_ray.corpus.duplicate_steps import Columns
from humpback_ray.corpus.files import list_corpus
from humpback_ray.corpus.hub_datasets import datasets_read
from humpback_ray.corpus.readers import check_dataset
from humpback_ray.corpus.steps import Figures, run_once
from humpback_ray.errors import UserError
from humpback_ray.execution.sources import file_source
from humpback_ray.execution.stage import Context, Part, Result, Source, Stage
from humpback_ray.execution.tasks import run_tasks
from humpback_ray.method.blocking import BlockList, entries_of
from humpback_ray.method.personal_data import REPLACEMENTS
from humpback_ray.rows import DroppedSegment, Segment, SegmentOutcome
from humpback_ray.stages.evaluate import check_prompts, prompt_index
from humpback_ray.stages.searching import WORK, Searched, drop_duplicates, duplicate_figures

BLOCKED_KEY = "settings.corpus.blocked_file"

MAX_REASONS = 20  # in the record: the media types that servers name are without number
CAPTURES = "captures"  # folder below `WORK`
CAPTURES_PER_TASK = 1_000_000  # of about 100 bytes
ROWS_PER_COUNT = 100_000


@dataclass(frozen=True, kw_only=True)
class Segments(Stage):
    """Segments y: the corpus, cut at its headers, filtered and deduplicated."""

    kind: ClassVar[str] = "segments"
    version: ClassVar[int] = 9  # all members of a gzip body, source_id
    part: ClassVar[Part] = "prepare"

    corpus: Source
    settings: CorpusSettings
    blocked_file: Source | None = None  # more entries of settings.blocked
    decontamination: DecontaminationSettings | None = None
    prompts: Source | None = None  # that must not be in the segments

    def unread(self) -> set[str]:
        """The prompts where nothing is looked for."""
        return set() if self.decontamination else {"decontamination", "prompts"}

    def check(self, placement: Placement) -> None:
        """Refuse a dataset that is not reached or lacks a column."""
        for place in self.corpus.places:
            check_dataset(place, self.settings, "settings.corpus.path")
        if self.decontamination and self.prompts:
            check_prompts(self.prompts.places)

    def run(self, context: Context) -> Result:
        """Write every section of every document to `rows` (kept) or `dropped`.

        `dropped` also has a row for each blocked document, and for each file, link and archive
        record that is no document; `documents` has one for each other document. Tasks cut and
        filter sections in parallel into a working folder, mark those of older captures, and then
        look for duplicates. A stage that was killed goes on with the finished tasks.
        """
        listing = list_corpus(self.corpus.several or self.corpus.location)
        sections, dropped = context.path("_sections"), context.path("dropped")
        s = self.settings
        found_documents = self._cut(context, listing.files, sections)
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
                f"no segment survives out of {len(listing.files)} files of {self.corpus.location} "
                "(settings.corpus.path): "
                + ", ".join(f"{count} {name}" for name, count in sorted(outcomes.items()))
                + (f"; without a document: {_in_words(reasons)}" if reasons else "")
                + "; the rules are under settings.corpus"
            )
        outcomes[SegmentOutcome.KEPT.value] = num_kept
        assert outcomes == found.outcomes + Counter(row.outcome.value for row in others)
        assert outcomes.total() == tables.num_rows(sections) + len(others)
        assert found_documents["num_documents"] == tables.num_rows(context.path("documents"))
        # The marks go before what they mark, so a kill in between costs work and no rows.
        for name in (f"{WORK}/{CAPTURES}", WORK, "_sections", "_documents"):
            storage.delete(context.path(name))
        if reasons:
            context.progress.note(f"without a document: {_in_words(reasons)} (see dropped)")
        return Result(
            outcomes.total(),
            outcomes,
            {
                "num_files": len(listing.files),
                **datasets_read(self.corpus.places, "settings.corpus.path"),
                "mean_characters": round(
                    _sum_of(context.path("rows"), "num_characters") / num_kept
                ),
                "not_read": dict(reasons.most_common(MAX_REASONS)),
                **found_documents,
                **duplicate_figures(found),
                **self._replacements(context),
            },
        )

    def _cut(self, context: Context, files: list[CorpusFile], sections: str) -> dict[str, Any]:
        """Write the sections and the documents of a corpus; returns figures of the documents."""
        documents = context.path("_documents")
        prompts = None
        if self.decontamination and self.prompts:
            prompts = prompt_index(self.prompts.places, self.decontamination.ngram)
        corpus = Cut(sections, documents, self.settings, self._blocked(context), prompts)
        tasks = partial(run_tasks, context.progress)

        def run(label: str, step: str, items: list[tuple[Any, ...]]) -> list[Figures]:
            return tasks(label, partial(run_once, context.path(WORK), corpus, step), items)

        found = run("parts of the corpus cut", "cut", list(enumerate(cut_tasks.divided(files))))
        groups = enumerate(cut_tasks.gathered(found))
        whole = context.path("documents")
        run("tables of documents written", "gather", [(n, names, whole) for n, names in groups])
        num_captures = sum(figures["num_captures"] for figures in found)
        names = [figures["names"] for figures in found]
        num_parts = max(1, num_captures // CAPTURES_PER_TASK)
        search = Captures(context.path(WORK, CAPTURES), sections, documents, names, num_parts)
        return {
            "num_documents": sum(figures["num_documents"] for figures in found),
            "num_older_captures": mark_older_captures(search, tasks) if num_captures else 0,
            **{fact: _most_common(found, fact) for fact in cut_tasks.COUNTED},
        }

    def _replacements(self, context: Context) -> dict[str, Any]:
        """The number of replaced addresses in the kept rows, where they are replaced."""
        if not self.settings.replace_personal_data:
            return {}
        rows = context.path("rows")
        items = [(rows, files) for files in tables.groups_of_files(rows, ROWS_PER_COUNT)]
        total: Counter[str] = Counter(dict.fromkeys(REPLACEMENTS, 0))
        for counts in run_tasks(context.progress, "replacements counted", _replaced_in, items):
            total.update(counts)
        return {"num_replaced": dict(total)}

    def _blocked(self, context: Context) -> BlockList | None:
        """The hosts and URLs that are blocked; None if there are none."""
        entries = list(self.settings.blocked)
        if self.blocked_file is not None:
            path = context.of(self.blocked_file)
            try:
                entries += entries_of(storage.read_text(path, "block list", BLOCKED_KEY))
            except ValueError as error:
                raise UserError(f"{path} ({BLOCKED_KEY}): {error}") from error
        return BlockList(entries) if entries else None


def block_list_source(path: str | None) -> Source | None:
    """The file of blocked hosts and URLs."""
    return file_source(path, "block list", BLOCKED_KEY) if path else None


def _most_common(found: list[Figures], fact: str) -> dict[str, int]:
    total: Counter[str] = Counter()
    for figures in found:
        total.update(figures[fact])
    ordered = sorted(total.items(), key=lambda entry: (-entry[1], entry[0]))
    return dict(ordered[:MAX_REASONS])


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


def _replaced_in(rows: str, files: list[str]) -> dict[str, int]:
    """The number of replaced addresses in some files, by their kind."""
    totals = dict.fromkeys(REPLACEMENTS, 0)
    for _, batch in tables.scan_ahead(rows, ["text"], files):
        for kind, address in REPLACEMENTS.items():
            counts = pc.count_substring_regex(batch["text"], rf"\b{re.escape(address)}\b")
            totals[kind] += pc.sum(counts).as_py() or 0
    return totals


def _write_others(dropped: str, others: list[Segment]) -> None:
    if others:
        rows = tables.with_nulls(tables.to_table(others, Segment), DroppedSegment)
        tables.write_table(dropped, rows, "files-not-read")


def _delete(context: Context) -> None:
    for name in (WORK, "_sections", "_documents", "documents", "rows", "dropped"):
        storage.delete(context.path(name))


def _sum_of(folder: str, column: str) -> int:
    return sum(pc.sum(batch[column]).as_py() or 0 for batch in tables.scan(folder, [column]))


def _in_words(reasons: Counter[str]) -> str:
    shown = reasons.most_common(5)
    rest = reasons.total() - sum(count for _, count in shown)
    words = [f"{count} x {reason}" for reason, count in shown]
    return ", ".join([*words, f"{rest} others"] if rest else words)
