"""Diversity of instructions, and the places that segments come from."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from humpback_ray.method.filters import normalise
from humpback_ray.report.figures import DiversityFigures, SourceFigures
from humpback_ray.report.selections import selected_ids
from humpback_ray.report.stage_records import StageRecords
from humpback_ray.report.stage_rows import drawn_ids, rows_with, scan_rows
from humpback_ray.rows import Origin
from humpback_ray.stages.augment import Augment
from humpback_ray.stages.seed import Seed
from humpback_ray.stages.segments import Segments

MAX_COMPARED = 5_000  # instructions of each set: n-grams of these fit into memory
NUM_SOURCES = 15
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class _Set:
    """A set of instructions in the rows of a stage."""

    name: str
    folder: str
    id_column: str
    text_column: str
    origin: str | None = None  # of the rows that belong to the set; None: all

    def rows(self) -> Iterator[tuple[str, str]]:
        """(id, instruction) of each row with an instruction."""
        more = [] if self.origin is None else ["origin"]
        for row in scan_rows(self.folder, [self.id_column, self.text_column, *more]):
            if row[1] and (self.origin is None or row[2] == self.origin):
                yield row[0], row[1]


def diversity_of(records: StageRecords) -> list[DiversityFigures]:
    """Diversity of the seed's instructions, of A's, and of each selection's."""
    sets = list(_sets(records))
    sizes = {each.name: sum(1 for _ in each.rows()) for each in sets}
    compared = min([MAX_COMPARED, *(size for size in sizes.values() if size)])
    return [_diversity(each, sizes[each.name], compared) for each in sets]


def _sets(records: StageRecords) -> Iterator[_Set]:
    for seed in records.of(Seed)[:1]:
        yield _Set("seed", records.folder(seed, "rows"), "pair_id", "instruction")
    for stage in records.of(Augment)[:1]:
        yield _Set("A", records.folder(stage, "rows"), "candidate_id", "instruction")
    for iteration in records.iterations():
        if iteration.curated:
            folder, name = records.folder(iteration.curated, "rows"), iteration.iteration
            yield _Set(f"selected^({name})", folder, "example_id", "prompt", Origin.WEB)


def _diversity(instructions: _Set, size: int, number: int) -> DiversityFigures:
    ids = set(drawn_ids((name for name, _ in instructions.rows()), number))
    repeated: Counter[bytes] = Counter()
    words: list[list[str]] = []
    for name, text in instructions.rows():
        repeated[hashlib.blake2b(normalise(text).encode(), digest_size=8).digest()] += 1
        if name in ids:
            words.append(_WORD.findall(text.casefold()))
    num_repeated = sum(count for count in repeated.values() if count > 1)
    return DiversityFigures(
        instructions.name,
        len(words),
        size,
        sum(map(len, words)),
        (_distinct(words, 1), _distinct(words, 2), _distinct(words, 3)),
        num_repeated / size if size else None,
    )


def _distinct(texts: list[list[str]], n: int) -> float | None:
    """The share of different n-grams of words among all of them; None if there is none."""
    grams = [tuple(words[i : i + n]) for words in texts for i in range(len(words) - n + 1)]
    return len(set(grams)) / len(grams) if grams else None


def sources_of(records: StageRecords) -> list[SourceFigures]:
    """The most frequent sources of the segments, and how many segments of each are selected."""
    segments = records.first(Segments)
    if segments is None:
        return []
    chosen = _selected_segments(records)
    every: Counter[str] = Counter()
    selected: Counter[str] = Counter()
    for name, url in scan_rows(records.folder(segments, "rows"), ["segment_id", "url"]):
        source = source_name(url)
        every[source] += 1
        selected[source] += name in (chosen or ())
    shown = every.most_common(NUM_SOURCES)
    num_shown = sum(count for _, count in shown)
    if num_shown < every.total():
        names = f"{len(every) - len(shown):,} others"
        shown.append((names, every.total() - num_shown))
        selected[names] = selected.total() - sum(selected[name] for name, _ in shown)
    return [
        SourceFigures(name, count, None if chosen is None else selected[name])
        for name, count in shown
    ]


def _selected_segments(records: StageRecords) -> set[str] | None:
    """Segments of the last selection; None before there is one."""
    done = [iteration for iteration in records.iterations() if iteration.curated]
    if not done:
        return None
    last = done[-1]
    assert last.curated is not None
    ids = selected_ids(records, last.curated)
    rows = rows_with(records.folder(last.rated, "rows"), "candidate_id", ids, ["segment_id"])
    return {row["segment_id"] for row in rows}


def source_name(url: str) -> str:
    """The host of a web page; of a file the first folder below the corpus, or its name."""
    try:
        parts = urlsplit(url)
        if parts.scheme in ("http", "https"):
            return parts.hostname or "no host"
    except ValueError:  # a page may name anything
        return "no valid URL"
    return url.partition("/")[0]
