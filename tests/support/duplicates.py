"""A search for duplicates among texts, without Ray."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from humpback_ray import tables
from humpback_ray.config.duplicates import NearDuplicateSettings
from humpback_ray.corpus.duplicate_steps import Columns, Search
from humpback_ray.corpus.near_duplicates import Found, find_duplicates
from humpback_ray.method.filters import segment_id
from humpback_ray.rows import DroppedSegment, Segment, SegmentOutcome

COLUMNS = Columns("segment_id", "text", ("document_id", "start"), "url")


@dataclass(frozen=True)
class Outcome:
    """The counts of a search and its rows, as they stand in their files."""

    found: Found
    kept: list[dict[str, Any]]
    dropped: list[dict[str, Any]]

    @property
    def kept_texts(self) -> set[str]:
        return {row["text"] for row in self.kept}


def segments_of(texts: list[str], urls: list[str] | None = None) -> list[Segment]:
    """A segment for each text; its document is named by its place in the list."""
    return [
        Segment(segment_id(text), text, "", f"doc-{n:06}", urls[n] if urls else "", 0, len(text),
                SegmentOutcome.KEPT)
        for n, text in enumerate(texts)
    ]  # fmt: skip


def read(rows: list[Segment]) -> tuple[pa.Table, pa.Table, Counter[str]]:
    """Rows that are all searched."""
    table = tables.to_table(rows, Segment)
    return table, table.slice(0, 0), Counter()


def search(folder: Path, rows: list[Segment], parts: int = 1, sources: int = 1, tasks: Any = None,
           max_rows: int | None = None, **settings: Any) -> Outcome:  # fmt: skip
    """Search rows, divided among sources and parts."""
    size = -(-len(rows) // sources)
    groups = [rows[first : first + size] for first in range(0, len(rows), size)]
    names = [str(folder / name) for name in ("work", "rows", "dropped")]
    searched = Search(*names, Segment, DroppedSegment, COLUMNS, NearDuplicateSettings(**settings),
                      read, len(groups), parts)  # fmt: skip
    found = find_duplicates(searched, groups, tasks or one_by_one, max_rows)
    kept, dropped = (
        [row for batch in tables.scan(name) for row in batch.to_pylist()] for name in names[1:]
    )
    return Outcome(found, kept, dropped)


def one_by_one(label: str, work: Any, items: Any) -> list[dict[str, Any]]:
    """The results of all items, in this process."""
    return [work(*item) for item in items]


def random_words(seed: int, count: int = 120) -> list[str]:
    """Words of which two texts share hardly a 5-gram."""
    generator = random.Random(seed)
    return [f"word{generator.randrange(5000)}" for _ in range(count)]


def changed(words: list[str], number: int, seed: int) -> list[str]:
    """The words with so many of them replaced, evenly spread."""
    words = list(words)
    for change in range(number):
        words[change * len(words) // number] = f"new{seed}x{change}"
    return words
