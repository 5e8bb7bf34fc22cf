"""A corpus cut into sections by tasks, each of which reads some of its files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from humpback_ray import tables
from humpback_ray.config.settings import CorpusSettings
from humpback_ray.corpus.cut import rows_of
from humpback_ray.corpus.documents import CorpusFile
from humpback_ray.corpus.steps import Figures
from humpback_ray.method.blocking import BlockList
from humpback_ray.method.contamination import PromptIndex
from humpback_ray.rows import DocumentFacts, DroppedSegment, Segment, SegmentOutcome

# Size of the files of one task; MIN_TASKS splits a small corpus too.
BYTES_PER_TASK = 8 * 2**20
MIN_TASKS = 8
# At most, of sections and facts together: a task holds them in memory.
ROWS_PER_GROUP = 10_000
CHARACTERS_PER_GROUP = 2**26
BYTES_PER_FILE = 128 * 2**20  # a task holds these too; most tasks write one file
DOCUMENTS_PER_FILE = 50_000  # at least, but for the last one

COUNTED = ("opt_out", "licence", "truncated")  # facts, each with few values


def divided(files: Sequence[CorpusFile]) -> list[list[CorpusFile]]:
    """The files of a corpus for one task each, in their order."""
    num_tasks = max(MIN_TASKS, sum(file.size for file in files) // BYTES_PER_TASK)
    num_tasks = min(len(files), num_tasks)
    ends = [len(files) * number // num_tasks for number in range(num_tasks + 1)]
    return [list(files[start:end]) for start, end in pairwise(ends)]


@dataclass(frozen=True)
class _Written:
    """The files that a task writes at a time, of one name."""

    documents: tables.GrowingFile
    sections: tables.GrowingFile

    @property
    def num_bytes(self) -> int:
        return self.documents.num_bytes + self.sections.num_bytes

    def close(self) -> None:
        self.documents.close()
        self.sections.close()


@dataclass(frozen=True)
class Cut:
    """The cut of a corpus.

    Args:
        sections: folder for rows of `DroppedSegment`: kept or dropped, duplicates not yet told.
        documents: folder for rows of `DocumentFacts`, in files of the same names.
        blocked: hosts and URLs whose documents are left out; None: none are.
        prompts: that must not be in the sections; None: nothing is looked for.
    """

    sections: str
    documents: str
    settings: CorpusSettings
    blocked: BlockList | None
    prompts: PromptIndex | None

    def cut(self, number: int, files: Sequence[CorpusFile]) -> Figures:
        """Write the rows of some files, under names that are the same in every attempt."""
        rows = (row for file in files for row in rows_of(file, self.settings, self.blocked))
        names: list[str] = []
        counts: dict[str, Counter[str]] = {fact: Counter() for fact in COUNTED}
        num_documents = num_captures = 0
        written: _Written | None = None
        for batch in _batches(rows):
            if written is None or written.num_bytes >= BYTES_PER_FILE:
                if written is not None:
                    written.close()
                names.append(f"{number:05}-{len(names):05}")
                written = _Written(
                    tables.GrowingFile(self.documents, names[-1], DocumentFacts),
                    tables.GrowingFile(self.sections, names[-1], DroppedSegment),
                )
            facts = [row for row in batch if isinstance(row, DocumentFacts)]
            sections = [self._section(row) for row in batch if isinstance(row, Segment)]
            written.documents.add(tables.to_table(facts, DocumentFacts))
            written.sections.add(tables.to_table(sections, DroppedSegment))
            num_documents += len(facts)
            num_captures += sum(row.captured_at is not None for row in facts)
            for fact, count in counts.items():
                count.update(value for row in facts if (value := getattr(row, fact)))
        if written is not None:
            written.close()
        return {
            "names": names, "num_documents": num_documents, "num_captures": num_captures, **counts,
        }  # fmt: skip

    def _section(self, row: Segment) -> dict[str, Any]:
        prompt_id = shared = None
        outcome = row.outcome
        if self.prompts and outcome is SegmentOutcome.KEPT and (hit := self.prompts.hit(row.text)):
            outcome = SegmentOutcome.CONTAMINATED
            prompt_id, shared = hit
        return {
            **tables.as_dict(row), "outcome": outcome.value, "duplicate_of": None, "jaccard": None,
            "prompt_id": prompt_id, "shared_ngram": shared,
        }  # fmt: skip

    def gather(self, number: int, names: Sequence[str], folder: str) -> Figures:
        """Write the facts in some files as one, since a task for small files leaves small ones."""
        whole = tables.GrowingFile(folder, f"part-{number:05}", DocumentFacts, ROWS_PER_GROUP)
        num_rows = 0
        for name in names:
            for facts in tables.scan_row_groups(*tables.path_of_named(self.documents, name)):
                whole.add(facts)
                num_rows += len(facts)
        whole.close()
        return {"num_rows": num_rows}


def _batches(rows: Iterator[DocumentFacts | Segment]) -> Iterator[list[DocumentFacts | Segment]]:
    batch: list[DocumentFacts | Segment] = []
    num_characters = 0
    for row in rows:
        batch.append(row)
        num_characters += len(row.text) if isinstance(row, Segment) else 0
        if len(batch) >= ROWS_PER_GROUP or num_characters >= CHARACTERS_PER_GROUP:
            yield batch
            batch, num_characters = [], 0
    if batch:
        yield batch


def gathered(sources: Sequence[Figures]) -> list[list[str]]:
    """The names of the files that each call of `Cut.gather` takes.

    Args:
        sources: figures of `Cut.cut`.
    """
    groups: list[list[str]] = [[]]
    num_rows = 0
    for source in sources:
        if num_rows >= DOCUMENTS_PER_FILE:
            groups.append([])
            num_rows = 0
        groups[-1] += source["names"]
        num_rows += source["num_documents"]
    return groups
