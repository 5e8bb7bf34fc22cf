"""Scores, lengths and overlaps: what self-curation chose, measured on the rows."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

import pyarrow as pa
import pyarrow.compute as pc

from humpback_ray.evaluation import rater_quality
from humpback_ray.method import rating
from humpback_ray.report.figures import (
    LengthFigures,
    Moments,
    OverlapFigures,
    PaperLengths,
    RaterFigures,
    ScoreFigures,
    Selection,
    StageFigures,
    sample_text,
)
from humpback_ray.report.stage_records import StageRecords
from humpback_ray.report.stage_rows import drawn_ids, rows_with, scan, scan_rows
from humpback_ray.rows import Origin
from humpback_ray.stages.augment import Augment
from humpback_ray.stages.seed import Seed

NUM_EXAMPLES = 3  # of pairs in both selections, gained and lost
BIN_CHARACTERS = 250
# arXiv 2308.06259, Table 1: characters, mean and standard deviation.
PAPER_SEED = PaperLengths("seed", 3_200, 148, 322, 1072, 818)
PAPER_ALL = PaperLengths("A", 502_133, 352, 134, 1722, 653)
PAPER_SELECTED = {
    (4.0, 2): PaperLengths("A_4^(2)", 195_043, 206, 298, 1985, 649),
    (4.5, 2): PaperLengths("A_5^(2)", 41_821, 115, 175, 1663, 616),
}
PAPER_NAMES = {4.0: "A_4", 4.5: "A_5"}  # score >= 4, score >= 4.5


class Sums:
    """Count, sum and sum of squares of numbers that come in batches."""

    def __init__(self) -> None:
        self._n, self._sum, self._squares = 0, 0.0, 0.0

    def add(self, values: pa.Array) -> None:
        """Add the numbers of an array; nulls count for nothing."""
        values = values.drop_null().cast(pa.float64())
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


def scores_of(records: StageRecords) -> list[ScoreFigures]:
    """The scores of each iteration."""
    found = []
    for iteration in records.iterations():
        sums, tenths = Sums(), Counter[int]()
        for batch in scan(records.folder(iteration.rated, "rows"), ["score"]):
            sums.add(batch["score"])
            tenths.update(rating.tenths(score) for score in batch["score"].drop_null().to_pylist())
        figures = iteration.curated.figures if iteration.curated else {}
        found.append(
            ScoreFigures(
                iteration.iteration,
                iteration.rated.path,
                iteration.rated.num_rows or 0,
                sums.moments(),
                {f"{tenth / 10:.1f}": tenths[tenth] for tenth in sorted(tenths)},
                figures.get("num_selected"),
                figures.get("lowest_selected_score"),
            )
        )
    return found


# --- lengths --------------------------------------------------------------------------------------


class _Lengths:
    """Lengths of instructions and responses that come in batches."""

    def __init__(self) -> None:
        self._instructions, self._responses = Sums(), Sums()
        self._bins: Counter[int] = Counter()

    def add(self, instructions: pa.Array, responses: pa.Array) -> None:
        lengths = pc.utf8_length(responses)
        self._instructions.add(pc.utf8_length(instructions))
        self._responses.add(lengths)
        bins = pc.multiply(pc.divide(lengths, BIN_CHARACTERS), BIN_CHARACTERS)
        self._bins.update({e["values"]: e["counts"] for e in bins.value_counts().to_pylist()})

    def figures(self, name: str, paper: PaperLengths | None = None) -> LengthFigures:
        bins = {str(first): self._bins[first] for first in sorted(self._bins)}
        return LengthFigures(
            name, self._instructions.moments(), self._responses.moments(), bins, paper
        )


def lengths_of(records: StageRecords) -> list[LengthFigures]:
    """The paper's Table 1 for the seed, A, and of each iteration A_4, A_5 and what is selected."""
    found = []
    for seed in records.of(Seed)[:1]:
        columns = ["instruction", "response"]
        lengths = _lengths(records.folder(seed, "rows"), columns)
        found.append(lengths.figures("seed", PAPER_SEED))
    for candidates in records.of(Augment)[:1]:
        lengths = _lengths(records.folder(candidates, "rows"), ["instruction", "response"])
        found.append(lengths.figures("A", PAPER_ALL))
    for iteration in records.iterations():
        t = iteration.iteration
        for k, name in PAPER_NAMES.items():
            lengths = _lengths_from(records.folder(iteration.rated, "rows"), k)
            found.append(lengths.figures(f"{name}^({t})", PAPER_SELECTED.get((k, t))))
        if iteration.curated:
            lengths = _lengths_selected(records.folder(iteration.curated, "rows"))
            found.append(lengths.figures(f"selected^({t})"))
    return found


def _lengths(folder: str, columns: list[str]) -> _Lengths:
    """Lengths of pairs that have an instruction."""
    lengths = _Lengths()
    for batch in scan(folder, columns):
        batch = batch.filter(pc.not_equal(batch[columns[0]], ""))
        lengths.add(batch[columns[0]], batch[columns[1]])
    return lengths


def _lengths_from(folder: str, k: float) -> _Lengths:
    lengths = _Lengths()
    for batch in scan(folder, ["instruction", "response", "score"]):
        batch = batch.filter(pc.greater_equal(batch["score"], k))
        lengths.add(batch["instruction"], batch["response"])
    return lengths


def _lengths_selected(folder: str) -> _Lengths:
    lengths = _Lengths()
    for batch in scan(folder, ["prompt", "completion", "origin"]):
        batch = batch.filter(pc.equal(batch["origin"], Origin.WEB.value))
        lengths.add(batch["prompt"], batch["completion"])
    return lengths


# --- selections -----------------------------------------------------------------------------------


def selected_ids(records: StageRecords, curated: StageFigures) -> set[str]:
    """Ids of the candidates that an iteration has selected."""
    columns = ["example_id", "origin"]
    return {
        name.removeprefix(f"{Origin.WEB}-")
        for name, origin in scan_rows(records.folder(curated, "rows"), columns)
        if origin == Origin.WEB
    }


def overlaps_of(records: StageRecords) -> list[OverlapFigures]:
    """Each two selections that follow each other."""
    done = [iteration for iteration in records.iterations() if iteration.curated]
    found = []
    for first, second in pairwise(done):
        assert first.curated is not None
        assert second.curated is not None
        before = selected_ids(records, first.curated)
        after = selected_ids(records, second.curated)
        groups = [before & after, after - before, before - after]
        examples = [drawn_ids(iter(group), NUM_EXAMPLES) for group in groups]
        rated = [records.folder(each.rated, "rows") for each in (first, second)]
        pairs = _with_scores(rated, [name for group in examples for name in group])
        shown = [[pairs[name] for name in group if name in pairs] for group in examples]
        both, gained, lost = map(len, groups)
        found.append(OverlapFigures(first.iteration, second.iteration, both, gained, lost, *shown))
    return found


def _with_scores(rated: Sequence[str], ids: list[str]) -> dict[str, Selection]:
    """Candidates with their scores before and after."""
    columns = ["candidate_id", "instruction", "response", "score"]
    before, after = (
        {row["candidate_id"]: row for row in rows_with(folder, "candidate_id", ids, columns)}
        for folder in rated
    )
    return {
        name: Selection(
            name, sample_text("instruction", row["instruction"]),
            sample_text("response", row["response"]), row["score"],
            after[name]["score"] if name in after else None,
        )
        for name, row in before.items()
    }  # fmt: skip


def raters_of(records: StageRecords, labels: rater_quality.Labels) -> list[RaterFigures]:
    """The rater of each iteration against labels of people."""
    found = []
    for iteration in records.iterations():
        figures = iteration.curated.figures if iteration.curated else {}
        lowest = figures.get("lowest_selected_score")
        rows: Iterable[tuple[str, float | None]] = scan_rows(
            records.folder(iteration.rated, "rows"), ["candidate_id", "score"]
        )
        quality = rater_quality.measure(rows, labels, lowest)
        found.append(RaterFigures(iteration.iteration, iteration.rated.path, lowest, quality))
    return found
