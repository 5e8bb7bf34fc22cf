"""The steps of a search for duplicates, by tasks that each hold a bounded number of rows.

    partition   rows by the hash of their text; equal texts are exact duplicates
    index       a part's different texts, numbered in the order of their hashes; keys of their bands
    pair        rows that share a bucket, by the keys of bands
    carry       the text of each pair's later row, to the part of its earlier row
    verify      exact Jaccard index of each pair: who is near whom
    settle      who is kept, round after round until every row is decided
    place       places of the kept rows, where only a sample stays
    last        the place at which the sample ends
    finish      kept and dropped rows, with the kept text that each dropped one repeats

A step is one task for each part, and it reads what the tasks before it have written for this part
(`exchange`). No task and no driver holds the ids or the signatures of a corpus. Parts are ranges of
hashes, so the kept rows are written in the order of their hashes, whatever the number of parts,
files and workers. A second run of a task writes the same files.

The largest bucket and the largest cluster of near-duplicates each go through one task, as numbers
of about 30 bytes a row, and their texts a part at a time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby, pairwise
from typing import Any
from urllib.parse import urlsplit
from zlib import crc32

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from humpback_ray import storage, tables
from humpback_ray.config.duplicates import NearDuplicateSettings
from humpback_ray.corpus.exchange import read_part, split, write_parts
from humpback_ray.corpus.order_statistics import nth_smallest, of_texts, to_text
from humpback_ray.corpus.steps import Figures
from humpback_ray.method import duplicates
from humpback_ray.method.duplicates import Decision
from humpback_ray.rows import SegmentOutcome

KEPT, EXACT, NEAR, SURPLUS = (
    SegmentOutcome.KEPT.value, SegmentOutcome.EXACT_DUPLICATE.value,
    SegmentOutcome.NEAR_DUPLICATE.value, SegmentOutcome.SURPLUS.value,
)  # fmt: skip

ROWS_PER_FILE = 25_000  # of a kept or dropped file; later stages resume by file
NUM_LARGEST = 20  # clusters that a task reports
NUM_CACHED = 1_000  # n-gram sets of earlier rows, about 40 KB each

_PART_BITS = np.uint64(32)  # a row's number: its part, then its place among the part's texts
_PLACE = np.uint64(2**32 - 1)
_BANDS = pa.schema({"key": pa.uint64(), "row": pa.uint64(), "sketch": pa.list_(pa.uint64())})
_PAIRS = pa.schema({"row": pa.uint64(), "earlier": pa.uint64()})
_TEXTS = pa.schema({"row": pa.uint64(), "text": pa.string(), "earlier": pa.list_(pa.uint64())})
_NEAR = pa.schema(
    {"row": pa.uint64(), "earlier": pa.uint64(), "content": pa.string(), "jaccard": pa.float64()}
)
_DECISIONS = pa.schema({"decision": pa.uint8()})
_PLACES = pa.schema({"place": pa.string()})
_HOSTS = pa.schema({"host": pa.string(), "num_rows": pa.int64(), "num_lost": pa.int64()})


@dataclass(frozen=True)
class Columns:
    """The columns of the rows to search."""

    content: str  # hash of the normalised text, in hexadecimal
    text: str
    order: tuple[str, ...]  # tell rows of equal texts apart, of which the first one is kept
    url: str = ""  # names the host; empty where rows have none


@dataclass(frozen=True)
class Search:
    """A search: where rows come from and go to, and the rules.

    Args:
        folder: of the files between the steps.
        read: makes the rows of a source: those to search, others with an `outcome`, and counts to
            add up.
        num_sources: of which `partition` reads one at a time.
        num_parts: into which the texts are divided.
    """

    folder: str
    rows: str
    dropped: str
    row_type: type
    dropped_type: type
    columns: Columns
    settings: NearDuplicateSettings
    read: Callable[[Any], tuple[pa.Table, pa.Table, Counter[str]]]
    num_sources: int
    num_parts: int

    # --- steps ------------------------------------------------------------------------------------

    def partition(self, number: int, source: Any) -> Figures:
        """Divide the rows of a source among the parts; write those that need no search."""
        rows, others, counts = self.read(source)
        rows, repeated = self._without_repeated(rows)
        outcomes = self._write(f"read-{number:05}", _without_reason(others))
        outcomes += self._write(f"repeated-{number:05}", repeated)
        self._count_hosts(f"partition-{number}", (rows, False), (repeated, True))
        parts = split(rows, self._part_of(rows), self.num_parts)
        write_parts(self._path("partition", number), rows.schema, parts)
        return {
            "num_rows": len(rows) + len(repeated),
            "outcomes": outcomes,
            "largest": _largest(repeated[self.columns.content]),
            "counts": counts,
        }

    def index(self, part: int) -> Figures:
        """The different texts of a part, and the keys of their bands."""
        files = [self._path("partition", number) for number in range(self.num_sources)]
        rows = pa.concat_tables(read_part(file, part) for file in files)
        rows, repeated = self._without_repeated(rows)
        outcomes = self._write(f"repeated-part-{part:05}", repeated)
        self._count_hosts(f"index-{part}", (repeated, True))
        write_parts(self._path("unique", part), rows.schema, [rows])
        bands = self._bands(part, rows[self.columns.text].to_pylist())
        readers = _scaled(bands["key"].to_numpy() >> _PART_BITS, self.num_parts)
        write_parts(self._path("bands", part), _BANDS, split(bands, readers, self.num_parts))
        return {"outcomes": outcomes, "largest": _largest(repeated[self.columns.content])}

    def _bands(self, part: int, texts: list[str]) -> pa.Table:
        signed = duplicates.signatures(texts, self.settings)
        num_bands = self.settings.num_bands
        keys = duplicates.band_keys(signed, num_bands).ravel()
        numbers = _numbers(part, np.arange(len(texts)))
        sketched = np.repeat(duplicates.sketches(signed), num_bands, axis=0)
        rows = np.repeat(numbers, num_bands)
        return pa.table([pa.array(keys), pa.array(rows), _lists(sketched)], schema=_BANDS)

    def pair(self, part: int) -> Figures:
        """Pairs of rows that share one of the buckets of a part."""
        bands = self._gather("bands", part)
        sketched = bands["sketch"].combine_chunks().flatten().to_numpy()
        sketched = sketched.reshape(len(bands), len(sketched) // max(len(bands), 1))
        keys, rows = bands["key"].to_numpy(), bands["row"].to_numpy()
        found = duplicates.candidates(keys, rows, sketched, self.settings)
        pairs = pa.table([pa.array(found[:, 1]), pa.array(found[:, 0])], schema=_PAIRS)
        readers = found[:, 1] >> _PART_BITS
        write_parts(self._path("pairs", part), _PAIRS, split(pairs, readers, self.num_parts))
        return {}

    def carry(self, part: int) -> Figures:
        """The texts of a part's rows, for the parts that hold an earlier row of their pairs."""
        pairs = self._gather("pairs", part)
        found = np.unique(np.stack([pairs["row"], pairs["earlier"]], axis=1), axis=0)
        readers = found[:, 1] >> _PART_BITS
        order = np.lexsort((found[:, 1], found[:, 0], readers))
        rows, earlier, readers = found[order, 0], found[order, 1], readers[order]
        # A text goes to a reader once, with all of its earlier rows there.
        is_first = (rows[1:] != rows[:-1]) | (readers[1:] != readers[:-1])
        starts = np.flatnonzero(np.r_[True, is_first]) if len(rows) else np.empty(0, int)
        texts = self._unique(part, self.columns.text)
        carried = pa.table([
            pa.array(rows[starts]), texts.take(rows[starts] & _PLACE),
            pa.ListArray.from_arrays(np.r_[starts, len(rows)].astype(np.int32), earlier),
        ], schema=_TEXTS)  # fmt: skip
        # Rows with the same earlier row stand together, so `verify` cuts that text up once.
        carried = carried.take(np.lexsort((rows[starts], earlier[starts], readers[starts])))
        parts = split(carried, np.sort(readers[starts]), self.num_parts)
        write_parts(self._path("texts", part), _TEXTS, parts)
        return {"num_pairs": len(rows)}

    def verify(self, part: int) -> Figures:
        """The pairs whose earlier row is in a part and whose Jaccard index is high enough."""
        texts = self._unique(part, self.columns.text)
        content = self._unique(part, self.columns.content)
        num_near = 0

        @lru_cache(NUM_CACHED)
        def grams_of(row: int) -> frozenset[str]:
            return self._grams(texts[row & int(_PLACE)].as_py())

        def near(carried: pa.Table) -> Iterator[tuple[int, int, str, float]]:
            for entry in carried.to_pylist():
                grams = self._grams(entry["text"])
                for earlier in entry["earlier"]:
                    index = duplicates.jaccard(grams_of(earlier), grams)
                    if index >= self.settings.jaccard:
                        name = content[earlier & int(_PLACE)].as_py()
                        yield entry["row"], earlier, name, index

        def parts() -> Iterator[pa.Table]:
            nonlocal num_near
            for other in range(self.num_parts):
                rows = list(near(read_part(self._path("texts", other), part)))
                num_near += len(rows)
                columns = zip(*rows, strict=True) if rows else [[]] * len(_NEAR)
                yield pa.table([pa.array(c, f.type) for c, f in zip(columns, _NEAR, strict=True)],
                               schema=_NEAR)  # fmt: skip

        write_parts(self._path("near", part), _NEAR, parts())
        return {"num_near": num_near}

    def settle(self, part: int, turn: int) -> Figures:
        """Decide a part's rows, as far as the round before has decided those of other parts."""
        near = self._gather("near", part).sort_by([("row", "ascending"), ("earlier", "ascending")])
        pairs = zip(near["row"].to_pylist(), near["earlier"].to_pylist(), strict=True)
        groups = {row: [other for _, other in found]
                  for row, found in groupby(pairs, lambda pair: pair[0])}  # fmt: skip
        earlier = set(near["earlier"].to_pylist()) - groups.keys()
        if turn:
            known = self._decisions(turn - 1, earlier)
        else:  # a row of this part that is near no earlier row is kept
            known = {row: Decision.KEPT for row in earlier if row >> 32 == part}
        decided = duplicates.decide(groups.items(), known)
        decisions = np.full(len(self._unique(part, self.columns.content)), Decision.KEPT, np.uint8)
        decisions[[row & int(_PLACE) for row in decided]] = list(decided.values())
        table = pa.table([pa.array(decisions)], schema=_DECISIONS)
        write_parts(self._path(f"decisions-{turn}", part), _DECISIONS, [table])
        counts = np.bincount(decisions, minlength=len(Decision)).tolist()
        return {"num_open": counts[Decision.UNDECIDED], "num_kept": counts[Decision.KEPT]}

    def place(self, part: int, turn: int) -> Figures:
        """Write the places of a part's kept rows; returns the length of one in digits."""
        kept = self._unique(part, self.columns.content).filter(pa.array(self._is_kept(part, turn)))
        places = pa.array([place_of(content) for content in kept.to_pylist()], pa.string())
        write_parts(self._path("places", part), _PLACES, [pa.table([places], schema=_PLACES)])
        return {"length": pc.max(pc.binary_length(places)).as_py() or 0}

    def last(self, max_rows: int, length: int) -> Figures:
        """The place of the last row of a sample, in a few passes over the places of all parts."""
        num_words = -(-length // 8)

        def keys() -> Iterator[np.ndarray]:
            for part in range(self.num_parts):
                places = read_part(self._path("places", part))["place"]
                yield of_texts(places.to_pylist(), num_words)

        return {"place": to_text(nth_smallest(keys, max_rows - 1))}

    def finish(self, part: int, turn: int, last: str | None) -> Figures:
        """Write a part's rows, of which the kept ones up to the place `last` stay; None: all."""
        rows = read_part(self._path("unique", part))
        ids = rows[self.columns.content].to_pylist()
        assert all(one < next_one for one, next_one in pairwise(ids)), f"texts of {part} repeat"
        is_kept = self._is_kept(part, turn)
        is_behind = [last is not None and place_of(content) > last for content in ids]
        is_surplus = is_kept & np.array(is_behind, bool)
        outcomes = np.select([is_surplus, is_kept], [SURPLUS, KEPT], NEAR)
        reasons = self._reasons(part, turn)
        assert reasons.keys() == set(np.flatnonzero(~is_kept).tolist())
        of = [reasons.get(place, (None, None)) for place in range(len(rows))]
        decided = _decided(rows, outcomes.tolist(), [o[0] for o in of], [o[1] for o in of])
        near = decided.filter(pa.array(~is_kept))
        self._count_hosts(f"finish-{part}", (near, True))
        return {
            "outcomes": self._write(f"part-{part:05}", decided),
            "largest": _largest(near["duplicate_of"]),
        }

    def hosts(self, part: int, least: int, share: float) -> Figures:
        """The hosts of a part with at least `least` rows that lose more than `share` of them."""
        names = [f"partition-{number}" for number in range(self.num_sources)]
        names += [f"{step}-{n}" for step in ("index", "finish") for n in range(self.num_parts)]
        counted = pa.concat_tables(read_part(self._path("hosts", name), part) for name in names)
        counted = counted.group_by("host").aggregate([("num_rows", "sum"), ("num_lost", "sum")])
        found = [
            (row["host"], row["num_rows_sum"], row["num_lost_sum"]) for row in counted.to_pylist()
            if row["num_rows_sum"] >= least and row["num_lost_sum"] > share * row["num_rows_sum"]
        ]  # fmt: skip
        return {"hosts": sorted(found, key=lambda row: (-row[2], row[0]))[:NUM_LARGEST]}

    # --- what steps share -------------------------------------------------------------------------

    def _path(self, step: str, number: int | str) -> str:
        return storage.join(self.folder, step, f"{number}.arrow")

    def _is_kept(self, part: int, turn: int) -> np.ndarray:
        decisions = read_part(self._path(f"decisions-{turn}", part))["decision"].to_numpy()
        return np.asarray(decisions == Decision.KEPT)

    def _gather(self, step: str, part: int) -> pa.Table:
        files = [self._path(step, number) for number in range(self.num_parts)]
        return pa.concat_tables(read_part(file, part) for file in files)

    def _unique(self, part: int, column: str) -> pa.Array:
        table = read_part(self._path("unique", part), columns=[column])
        return table[column].combine_chunks()

    def _grams(self, text: str) -> frozenset[str]:
        return frozenset(duplicates.shingles(text, self.settings.ngram))

    def _part_of(self, rows: pa.Table) -> np.ndarray:
        """The part of each row: a range of the hashes' first 32 bits."""
        prefixes = pc.utf8_slice_codeunits(rows[self.columns.content], 0, 8).to_pylist()
        return _scaled(np.array([int(p, 16) for p in prefixes], np.uint64), self.num_parts)

    def _without_repeated(self, rows: pa.Table) -> tuple[pa.Table, pa.Table]:
        """The first row of each text, in the order of the texts' hashes; and the other rows."""
        content = self.columns.content
        rows = rows.sort_by([(name, "ascending") for name in (content, *self.columns.order)])
        ids = rows[content]
        repeats = pc.equal(ids.slice(1), ids.slice(0, max(len(ids) - 1, 0))).combine_chunks()
        repeats = pa.concat_arrays([pa.array([False] * min(len(ids), 1), pa.bool_()), repeats])
        repeated = rows.filter(repeats)
        of = repeated[content].to_pylist()
        repeated = _decided(repeated, [EXACT] * len(repeated), of, [1.0] * len(repeated))
        return rows.filter(pc.invert(repeats)), repeated

    def _decisions(self, turn: int, rows: set[int]) -> dict[int, Decision]:
        """Decisions of a round on some rows of any part."""
        found: dict[int, Decision] = {}
        for part, numbers in groupby(sorted(rows), lambda row: row >> 32):
            decisions = read_part(self._path(f"decisions-{turn}", part))["decision"].to_numpy()
            found |= {row: Decision(decisions[row & int(_PLACE)]) for row in numbers}
        return found

    def _reasons(self, part: int, turn: int) -> dict[int, tuple[str, float]]:
        """The kept text nearest to each near-duplicate of a part, by place, and its index."""
        near = self._gather("near", part).to_pylist()
        decisions = self._decisions(turn, {entry["earlier"] for entry in near})
        reasons: dict[int, tuple[str, float]] = {}
        for entry in sorted(near, key=lambda entry: (-entry["jaccard"], entry["earlier"])):
            if decisions[entry["earlier"]] is Decision.KEPT:
                place = entry["row"] & int(_PLACE)
                reasons.setdefault(place, (entry["content"], entry["jaccard"]))
        return reasons

    def _write(self, name: str, rows: pa.Table) -> Counter[str]:
        """Write decided rows into `rows` and `dropped`, and count their outcomes."""
        is_kept = pc.equal(rows["outcome"], KEPT)
        for folder, row_type, chosen in (
            (self.rows, self.row_type, is_kept),
            (self.dropped, self.dropped_type, pc.invert(is_kept)),
        ):
            table = tables.with_nulls(rows.filter(chosen), row_type)
            for first in range(0, len(table), ROWS_PER_FILE):
                piece = tables.conform(table.slice(first, ROWS_PER_FILE), row_type)
                tables.write_table(folder, piece, f"{name}-{first // ROWS_PER_FILE:03}")
        counts = rows["outcome"].value_counts().to_pylist()
        return Counter({entry["values"]: entry["counts"] for entry in counts})

    def _count_hosts(self, name: str, *groups: tuple[pa.Table, bool]) -> None:
        """Write the number of rows of each host and how many of them are lost.

        Only `partition` sees every row, so the steps after it count lost rows alone.
        """
        if not self.columns.url:
            return
        is_whole = name.startswith("partition")
        num_rows: Counter[str] = Counter()
        num_lost: Counter[str] = Counter()
        for rows, is_lost in groups:
            hosts = [host for url in rows[self.columns.url].to_pylist() if (host := host_of(url))]
            num_rows.update(hosts if is_whole else ())
            num_lost.update(hosts if is_lost else ())
        names = sorted(num_rows | num_lost)
        columns = [names, [num_rows[n] for n in names], [num_lost[n] for n in names]]
        readers = np.array([crc32(name.encode()) % self.num_parts for name in names], np.int64)
        counted = pa.table([pa.array(c, f.type) for c, f in zip(columns, _HOSTS, strict=True)],
                           schema=_HOSTS)  # fmt: skip
        parts = split(counted, readers, self.num_parts)
        write_parts(self._path("hosts", name), _HOSTS, parts)


def place_of(content: str) -> str:
    """A text's place in a sample: its hash, second half first.

    Of near-duplicates the smallest hash stays, so a text that many others repeat has a small one.
    The smallest hashes would be a sample of much repeated texts. The second half has no part in
    that choice.
    """
    middle = len(content) // 2
    return content[middle:] + content[:middle]


def host_of(url: str) -> str:
    """The host that a URL names; empty for a file name or a broken URL."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _without_reason(rows: pa.Table) -> pa.Table:
    nothing = [None] * len(rows)
    return _decided(rows, rows["outcome"].to_pylist(), nothing, nothing)


def _decided(
    rows: pa.Table, outcomes: Sequence[str], of: Sequence[Any], indices: Sequence[Any]
) -> pa.Table:
    decided = {"outcome", "duplicate_of", "jaccard"}
    return (
        rows.drop_columns([name for name in rows.column_names if name in decided])
        .append_column("outcome", pa.array(outcomes, pa.string()))
        .append_column("duplicate_of", pa.array(of, pa.string()))
        .append_column("jaccard", pa.array(indices, pa.float64()))
    )


def _largest(content: pa.ChunkedArray) -> list[tuple[str, int]]:
    counts = Counter(content.to_pylist())
    return sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))[:NUM_LARGEST]


def _numbers(part: int, places: np.ndarray) -> np.ndarray:
    return (np.uint64(part) << _PART_BITS) | places.astype(np.uint64)


def _scaled(values: np.ndarray, num_parts: int) -> np.ndarray:
    """Numbers below 2^32 as numbers of parts, in the same order."""
    return ((values * np.uint64(num_parts)) >> _PART_BITS).astype(np.int64)


def _lists(values: np.ndarray) -> pa.Array:
    """The rows of an array as an Arrow list array."""
    ends = np.arange(len(values) + 1, dtype=np.int32) * values.shape[1]
    return pa.ListArray.from_arrays(ends, pa.array(values.ravel()))
