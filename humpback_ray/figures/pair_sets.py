"""Sets of pairs (seed, A, selections), each measured in one pass over its rows."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from humpback_ray.errors import UserError
from humpback_ray.figures.stage_records import StageRecords
from humpback_ray.figures.stage_rows import Drawn, Hashes, RowFolder, hashes_of, where
from humpback_ray.figures.types import LengthFigures, Moments, PaperLengths, StageFigures
from humpback_ray.rows import Candidate, Origin, RatedPair, SeedPair, TrainingExample
from humpback_ray.stages.augment import Augment
from humpback_ray.stages.seed import Seed

MAX_DRAWN = 2_000  # pairs of each set whose texts are compared, told the language of, or parsed
BIN_CHARACTERS = 250
WEB_ID = f"{Origin.WEB}-"  # before the id of a candidate in the id of its example


class Sums:
    """Count, sum and sum of squares of numbers that come in batches."""

    def __init__(self) -> None:
        self._n, self._sum, self._squares = 0, 0.0, 0.0

    def add(self, values: pa.Array | NDArray[Any]) -> None:
        """Add the numbers of an array; nulls count for nothing."""
        values = pa.array(values).drop_null().cast(pa.float64())
        if len(values):
            self._n += len(values)
            self._sum += pc.sum(values).as_py()
            self._squares += pc.sum(pc.multiply(values, values)).as_py()

    def moments(self) -> Moments:
        """Mean, and the standard deviation of a sample."""
        if not self._n:
            return Moments(0, None, None)
        mean = self._sum / self._n
        if self._n == 1:
            return Moments(1, mean, None)
        variance = max(self._squares - self._n * mean**2, 0.0) / (self._n - 1)
        return Moments(self._n, mean, math.sqrt(variance))


class Lengths:
    """Lengths of instructions and responses, in characters, that come in batches."""

    def __init__(self) -> None:
        self._instructions, self._responses = Sums(), Sums()
        self._bins: Counter[int] = Counter()

    def add(self, instructions: NDArray[np.int32], responses: NDArray[np.int32]) -> None:
        """Add the lengths of some pairs."""
        self._instructions.add(instructions)
        self._responses.add(responses)
        counts = np.bincount(responses // BIN_CHARACTERS)
        for number in np.flatnonzero(counts):
            self._bins[int(number) * BIN_CHARACTERS] += int(counts[number])

    def figures(self, name: str, paper: PaperLengths | None = None) -> LengthFigures:
        """The lengths beside the paper's."""
        bins = {str(first): self._bins[first] for first in sorted(self._bins)}
        return LengthFigures(
            name, self._instructions.moments(), self._responses.moments(), bins, paper
        )


@dataclass(frozen=True)
class _Columns:
    """The columns of a row type that make a pair; the first is the id."""

    identity: str
    instruction: str
    response: str
    more: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        return [self.identity, self.instruction, self.response, *self.more]


_OF_SEED = _Columns("pair_id", "instruction", "response")
_OF_CANDIDATE = _Columns("candidate_id", "instruction", "response", ("segment_id", "finish"))
_OF_EXAMPLE = _Columns("example_id", "prompt", "completion", ("origin", "tag"))


@dataclass(frozen=True)
class PairSet:
    """Pairs with an instruction: figures of all of them, and some drawn by the hash of the id."""

    lengths: Lengths
    size: int
    num_repeated: int  # instructions that another pair has too
    # Of each pair's id; of a selected pair it is that of its candidate.
    hashes: Hashes
    rows: list[dict[str, Any]]  # drawn, at most MAX_DRAWN, in the order of their hashes
    columns: _Columns

    def drawn(self, number: int = MAX_DRAWN) -> list[tuple[str, str]]:
        """(instruction, response) of drawn pairs."""
        columns = (self.columns.instruction, self.columns.response)
        return [(row[columns[0]], row[columns[1]]) for row in self.rows[:number]]


@dataclass(frozen=True)
class Candidates:
    """Numbers of each candidate, whether it has an instruction or not, by the hash of its id."""

    hashes: Hashes  # (candidates,), sorted
    instruction_characters: NDArray[np.int32]
    response_characters: NDArray[np.int32]
    segments: Hashes  # of the ids of their segments

    def places(self, hashes: Hashes) -> NDArray[np.int64]:
        """The indices of candidates in this object's arrays.

        Raises:
            UserError: one of them is no candidate of the run.
        """
        places = np.searchsorted(self.hashes, hashes)
        places[places == len(self.hashes)] = 0
        lacking = int((self.hashes[places] != hashes).sum()) if len(self.hashes) else len(hashes)
        if lacking:
            raise UserError(f"{lacking:,} of {len(hashes):,} pairs are of no candidate of the run")
        return places


@dataclass(frozen=True)
class Rated:
    """The scores of an iteration, in the order of the rows; NaN for a pair without one."""

    hashes: Hashes
    scores: NDArray[np.float64]

    @property
    def scored(self) -> NDArray[np.float64]:
        """The scores that there are."""
        return self.scores[~np.isnan(self.scores)]


class RunRows:
    """The rows of a run's stages. Each folder's texts are read once, however often they are asked.

    Every method may raise a UserError for damaged rows, or those of another version of the program.
    """

    def __init__(self, records: StageRecords) -> None:
        self.records = records
        self._folders: dict[str, RowFolder] = {}
        self._selected: dict[str, PairSet] = {}
        self._rated: dict[str, Rated] = {}

    def folder(self, stage: StageFigures, row_type: type, name: str = "rows") -> RowFolder:
        """The rows of a stage in its folder `name`."""
        path = self.records.folder(stage, name)
        return self._folders.setdefault(path, RowFolder(path, row_type))

    @cached_property
    def seed(self) -> PairSet | None:
        """The seed pairs."""
        stage = self.records.first(Seed)
        if stage is None:
            return None
        return _read(self.folder(stage, SeedPair), _OF_SEED)[0]

    @cached_property
    def _of_candidates(self) -> tuple[PairSet, Candidates] | None:
        stage = self.records.first(Augment)
        if stage is None:
            return None
        return _read(self.folder(stage, Candidate), _OF_CANDIDATE)

    @property
    def all_pairs(self) -> PairSet | None:
        """A, every candidate with an instruction."""
        return self._of_candidates and self._of_candidates[0]

    @property
    def candidates(self) -> Candidates:
        """Numbers of every candidate of a run that has some."""
        found = self._of_candidates
        if found is None:
            raise UserError("the run has no candidates")
        return found[1]

    def selected(self, curated: StageFigures) -> PairSet:
        """The pairs that an iteration has selected."""
        if curated.path not in self._selected:
            rows = self.folder(curated, TrainingExample)
            self._selected[curated.path] = _read(rows, _OF_EXAMPLE)[0]
        return self._selected[curated.path]

    def rated(self, stage: StageFigures) -> Rated:
        """The scores of an iteration."""
        if stage.path not in self._rated:
            hashes, scores = [np.empty(0, np.uint64)], [np.empty(0)]
            for found, batch in self.folder(stage, RatedPair).scan(["score"]):
                hashes.append(found)
                scores.append(batch["score"].to_numpy(zero_copy_only=False).astype(np.float64))
            self._rated[stage.path] = Rated(np.concatenate(hashes), np.concatenate(scores))
        return self._rated[stage.path]


def _read(rows: RowFolder, columns: _Columns) -> tuple[PairSet, Candidates]:
    """A set of pairs, and numbers of every row, which make sense for candidates."""
    lengths, drawn, texts, ids = Lengths(), Drawn(MAX_DRAWN), [], []
    numbers: list[tuple[NDArray[Any], ...]] = []
    for hashes, batch in rows.scan(columns.names):
        if columns is _OF_EXAMPLE:
            batch = batch.filter(pa.array(where(batch, "origin", Origin.WEB)))
            hashes = hashes_of(pc.utf8_slice_codeunits(batch[columns.identity], len(WEB_ID)))
        x, y = (pc.utf8_length(batch[name]).to_numpy() for name in columns.names[1:3])
        if columns is _OF_CANDIDATE:
            numbers.append((hashes, x, y, hashes_of(batch["segment_id"])))
        if not x.all():
            batch, hashes = batch.filter(pa.array(x > 0)), hashes[x > 0]
            x, y = x[x > 0], y[x > 0]
        lengths.add(x, y)
        drawn.add(hashes, batch)
        ids.append(hashes)
        texts.append(hashes_of(batch[columns.instruction]))
    counts = np.unique(_joined(texts), return_counts=True)[1]
    num_repeated = int(counts[counts > 1].sum())
    found = _joined(ids)
    pairs = PairSet(lengths, len(found), num_repeated, found, drawn.rows(), columns)
    return pairs, _by_hash(numbers)


def _by_hash(numbers: list[tuple[NDArray[Any], ...]]) -> Candidates:
    hashes, x, y, segments = (_joined([part[i] for part in numbers]) for i in range(4))
    order = np.argsort(hashes)
    x, y = (values[order].astype(np.int32) for values in (x, y))
    return Candidates(hashes[order], x, y, segments[order])


def _joined(parts: list[NDArray[Any]]) -> NDArray[Any]:
    return np.concatenate([np.empty(0, np.uint64), *parts]).astype(np.uint64)


def sets_of(rows: RunRows) -> Mapping[str, PairSet]:
    """The seed, A, and each selection by their names."""
    found = {"seed": rows.seed, "A": rows.all_pairs}
    for iteration in rows.records.iterations():
        if iteration.curated:
            found[f"selected^({iteration.iteration})"] = rows.selected(iteration.curated)
    return {name: pairs for name, pairs in found.items() if pairs is not None}
