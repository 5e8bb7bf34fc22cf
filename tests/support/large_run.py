"""A run folder with as many rows as a real run: the small one's records, and rows made in columns.

Texts are made-up words. Lengths follow the paper's Table 1, files have as many rows as the stages
write into one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from humpback_ray import storage, tables
from humpback_ray.execution.stage import RECORD
from humpback_ray.rows import Candidate, RatedPair, SeedPair, Segment, TrainingExample
from tests.support.run_folder import write_run

NUM_SEED = 3_200
NUM_WORDS = 20_000
NUM_SITES = 3_000
POOL_CHARACTERS = 4_000_000
SEGMENTS_PER_FILE = 5_000
ROWS_PER_FILE = SEGMENTS_PER_FILE  # of a stage that asks a model: as many files as its source
SELECTED_SHARE = 0.1
CUT_SHARE = 0.02
ID_STEP = 0x9E3779B97F4A7C15F39CC0605CEDC835  # odd: ids are different, and in no order

Columns = Mapping[str, Any]


def write_large_run(folder: str, num_rows: int) -> str:
    """Write a finished run with so many segments, as many dropped ones, and so many candidates."""
    write_run(folder)
    rows = _Rows(num_rows)
    _replace(folder, "seed", "rows", rows.seed_pairs(), SEGMENTS_PER_FILE)
    _amend(folder, "seed", NUM_SEED + 8, {"kept": NUM_SEED, "held_out": 8})
    _replace(folder, "segments", "rows", rows.segments(kept=True), SEGMENTS_PER_FILE)
    _replace(folder, "segments", "dropped", rows.segments(kept=False), SEGMENTS_PER_FILE)
    _amend(folder, "segments", 2 * num_rows, {"kept": num_rows, "too_short": num_rows})
    _replace(folder, "candidates", "rows", rows.candidates(), ROWS_PER_FILE)
    _amend(folder, "candidates", num_rows, rows.finished("stop", "length"))
    for t in (1, 2):
        scores = rows.scores(t)
        _replace(folder, f"iter-{t}/rated", "rows", rows.rated(scores), ROWS_PER_FILE)
        _amend(folder, f"iter-{t}/rated", num_rows, rows.finished("scored", "cut_instruction"))
        _select(folder, t, rows, scores)
    return folder


def _select(folder: str, t: int, rows: _Rows, scores: np.ndarray) -> None:
    """The best of an iteration beside the small run's seed examples."""
    path, num_scored = f"iter-{t}/examples", int((~np.isnan(scores)).sum())
    lowest = float(np.nanquantile(scores, 1 - SELECTED_SHARE))
    chosen = np.flatnonzero(scores >= lowest)
    old = tables.read_table(f"{folder}/{path}/rows")
    seeds = old.filter(pc.equal(old["origin"], "seed"))
    _replace(folder, path, "rows", rows.examples(chosen), SEGMENTS_PER_FILE)
    tables.write_table(f"{folder}/{path}/rows", seeds, "seed")
    total = len(chosen) + len(seeds)
    figures = {"num_scored": num_scored, "num_segments": num_scored, "num_selected": len(chosen),
               "lowest_selected_score": lowest}  # fmt: skip
    _amend(folder, path, total, {"web": len(chosen), "seed": len(seeds)}, figures)
    _amend(folder, f"iter-{t}/model", total, {"trained": total})


def _replace(folder: str, path: str, name: str, table: Iterator[pa.Table], size: int) -> None:
    storage.delete(f"{folder}/{path}/{name}")
    for number, part in enumerate(table):
        for start in range(0, len(part), size):
            file = f"part-{number:04}-{start:08}"
            tables.write_table(f"{folder}/{path}/{name}", part.slice(start, size), file)


def _amend(
    folder: str, path: str, num_rows: int, outcomes: Columns, figures: Columns | None = None
) -> None:
    file = f"{folder}/{path}/{RECORD}"
    record = storage.read_json(file)
    assert record is not None, file
    record |= {"num_rows": num_rows, "outcomes": dict(outcomes)}
    record["figures"] |= figures or {}
    storage.write_json(file, record)


@dataclass(eq=False)
class _Rows:
    """Tables of so many rows, 50,000 at a time; the same number gives the same rows."""

    num_rows: int

    def __post_init__(self) -> None:
        random = np.random.default_rng(0)
        letters = np.array(list("etaoinshrdlucmfwygpb"))
        lengths = random.integers(2, 10, NUM_WORDS)
        words = ["".join(random.choice(letters, length)) for length in lengths]
        drawn = random.zipf(1.3, POOL_CHARACTERS // 6) % NUM_WORDS
        self._pool = " ".join(words[n] for n in drawn)[:POOL_CHARACTERS]
        self._cut = random.random(self.num_rows) < CUT_SHARE

    def finished(self, kept: str, cut: str) -> dict[str, int]:
        num_cut = int(self._cut.sum())
        return {kept: self.num_rows - num_cut, cut: num_cut}

    def scores(self, iteration: int) -> np.ndarray:
        """Scores, of which the second iteration's are like the first's; NaN for cut ones."""
        random = np.random.default_rng(7)
        first = 1 + 4 * random.beta(2, 2, self.num_rows)
        later = np.clip(first + random.normal(0.1, 0.3, self.num_rows), 1, 5)
        return np.where(self._cut, np.nan, first if iteration == 1 else later)

    def _texts(self, numbers: np.ndarray, mean: int, deviation: int, seed: int) -> pa.Array:
        """Texts of these rows: pieces of the pool."""
        starts, sizes = self._pieces(mean, deviation, seed)
        pool, places = self._pool, zip(starts[numbers], sizes[numbers], strict=True)
        return pa.array([pool[start : start + size].strip() for start, size in places])

    @cache  # noqa: B019  one object for a whole process
    def _pieces(self, mean: int, deviation: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        random = np.random.default_rng(seed)
        sizes = np.clip(random.normal(mean, deviation, self.num_rows), 20, 4000).astype(int)
        return random.integers(0, POOL_CHARACTERS - 4000, self.num_rows), sizes

    def _parts(self, numbers: np.ndarray | None = None) -> Iterator[np.ndarray]:
        every = np.arange(self.num_rows) if numbers is None else numbers
        yield from np.array_split(every, max(len(every) // 50_000, 1))

    def seed_pairs(self) -> Iterator[pa.Table]:
        numbers = np.arange(min(NUM_SEED, self.num_rows))
        x, y = self._texts(numbers, 148, 100, 3), self._texts(numbers, 1072, 600, 4)
        yield _table(SeedPair, {"pair_id": _ids(numbers), "instruction": x, "response": y})

    def segments(self, kept: bool) -> Iterator[pa.Table]:
        for numbers in self._parts():
            ids = _ids(numbers + (0 if kept else self.num_rows))
            text = self._texts(numbers, 1722 if kept else 300, 653 if kept else 100, 1)
            places = numbers // 3 + (0 if kept else self.num_rows // 6)
            yield _table(Segment, {
                "segment_id": ids, "text": text, "header": pc.utf8_slice_codeunits(text, 0, 30),
                "document_id": _ids(places),
                "url": [f"https://site{n % NUM_SITES}.example/page/{n}" for n in places],
                "start": numbers % 3, "num_characters": pc.utf8_length(text),
                "outcome": "kept" if kept else "too_short",
            })  # fmt: skip

    def _pairs(self, numbers: np.ndarray) -> dict[str, Any]:
        ids = _ids(numbers)
        return {
            "candidate_id": pc.binary_join_element_wise(ids, "0", "-"), "segment_id": ids,
            "instruction": self._texts(numbers, 352, 134, 2),
            "response": self._texts(numbers, 1722, 653, 1), "was_cut": False,
            "num_prompt_tokens": 600, "num_cached_tokens": 100, "num_generated_tokens": 80,
        }  # fmt: skip

    def candidates(self) -> Iterator[pa.Table]:
        for numbers in self._parts():
            finish = np.where(self._cut[numbers], "length", "stop")
            yield _table(Candidate, self._pairs(numbers) | {"finish": finish})

    def rated(self, scores: np.ndarray) -> Iterator[pa.Table]:
        for numbers in self._parts():
            outcome = np.where(self._cut[numbers], "cut_instruction", "scored")
            yield _table(RatedPair, self._pairs(numbers) | {
                "score": pa.array(scores[numbers], from_pandas=True), "probabilities": None,
                "grade_mass": None, "num_scored_samples": 1, "outcome": outcome, "rationale": "",
            })  # fmt: skip

    def examples(self, chosen: np.ndarray) -> Iterator[pa.Table]:
        for numbers in self._parts(chosen):
            pairs = self._pairs(numbers)
            yield _table(TrainingExample, {
                "example_id": pc.binary_join_element_wise("web", pairs["candidate_id"], "-"),
                "prompt": pairs["instruction"], "tag": "A tag.", "completion": pairs["response"],
                "origin": "web",
            })  # fmt: skip


def _ids(numbers: np.ndarray) -> pa.Array:
    return pa.array([f"{(int(n) + 1) * ID_STEP % 2**128:032x}" for n in numbers])


def _table(row_type: type, columns: Columns) -> pa.Table:
    """Columns of a row type in its order; a single value fills its column."""
    schema = tables.arrow_schema(row_type)
    num_rows = max(len(c) for c in columns.values() if isinstance(c, pa.Array))
    arrays = []
    for field in schema:
        values = columns[field.name]
        if values is None or isinstance(values, str | int | bool):
            values = pa.repeat(pa.scalar(values, field.type), num_rows)
        elif not isinstance(values, pa.Array):
            values = pa.array(values)
        arrays.append(values.cast(field.type))
    return pa.table(arrays, schema=schema)
