"""Scores, lengths and overlaps: what self-curation chose, measured on the rows."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from humpback_ray.evaluation import rater_quality
from humpback_ray.figures.pair_sets import Lengths, RunRows, Sums
from humpback_ray.figures.stage_rows import Hashes, RowFolder
from humpback_ray.figures.types import (
    LengthFigures,
    OverlapFigures,
    PaperLengths,
    RaterFigures,
    ScoreFigures,
    Selection,
    sample_text,
)
from humpback_ray.rows import RatedPair

NUM_EXAMPLES = 3  # of pairs in both selections, gained and lost
# arXiv 2308.06259, Table 1: characters, mean and standard deviation.
PAPER_SEED = PaperLengths("seed", 3_200, 148, 322, 1072, 818)
PAPER_ALL = PaperLengths("A", 502_133, 352, 134, 1722, 653)
PAPER_SELECTED = {
    (4.0, 2): PaperLengths("A_4^(2)", 195_043, 206, 298, 1985, 649),
    (4.5, 2): PaperLengths("A_5^(2)", 41_821, 115, 175, 1663, 616),
}
PAPER_NAMES = {4.0: "A_4", 4.5: "A_5"}  # score >= 4, score >= 4.5


def scores_of(rows: RunRows) -> list[ScoreFigures]:
    """The scores of each iteration."""
    found = []
    for iteration in rows.records.iterations():
        scores, sums = rows.rated(iteration.rated).scored, Sums()
        sums.add(scores)
        # As `rating.tenths`: a score such as 4.6 is often stored a rounding error lower.
        tenths, counts = np.unique(np.floor(scores * 10 + 1e-9), return_counts=True)
        figures = iteration.curated.figures if iteration.curated else {}
        found.append(
            ScoreFigures(
                iteration.iteration,
                iteration.rated.path,
                iteration.rated.num_rows or 0,
                sums.moments(),
                {f"{t / 10:.1f}": int(n) for t, n in zip(tenths, counts, strict=True)},
                figures.get("num_selected"),
                figures.get("lowest_selected_score"),
            )
        )
    return found


# --- lengths --------------------------------------------------------------------------------------


def lengths_of(rows: RunRows) -> list[LengthFigures]:
    """The paper's Table 1 for the seed, A, and of each iteration A_4, A_5 and what is selected."""
    found = []
    if rows.seed:
        found.append(rows.seed.lengths.figures("seed", PAPER_SEED))
    if rows.all_pairs:
        found.append(rows.all_pairs.lengths.figures("A", PAPER_ALL))
    for iteration in rows.records.iterations():
        t, rated = iteration.iteration, rows.rated(iteration.rated)
        for k, name in PAPER_NAMES.items():
            lengths = _lengths(rows, rated.hashes[rated.scores >= k])
            found.append(lengths.figures(f"{name}^({t})", PAPER_SELECTED.get((k, t))))
        if iteration.curated:
            lengths = rows.selected(iteration.curated).lengths
            found.append(lengths.figures(f"selected^({t})"))
    return found


def _lengths(rows: RunRows, hashes: Hashes) -> Lengths:
    """Lengths of some candidates, out of the one pass over all of them.

    A rated pair has its candidate's texts, which a second pass would read again.
    """
    candidates, lengths = rows.candidates, Lengths()
    places = candidates.places(hashes)
    lengths.add(candidates.instruction_characters[places], candidates.response_characters[places])
    return lengths


# --- selections -----------------------------------------------------------------------------------


def overlaps_of(rows: RunRows) -> list[OverlapFigures]:
    """Each two selections that follow each other."""
    done = [(i, i.curated) for i in rows.records.iterations() if i.curated is not None]
    found = []
    for (first, chosen), (second, chosen_next) in pairwise(done):
        before, after = (rows.selected(each).hashes for each in (chosen, chosen_next))
        groups = [np.intersect1d(before, after), np.setdiff1d(after, before),
                  np.setdiff1d(before, after)]  # fmt: skip
        rated = [rows.folder(each.rated, RatedPair) for each in (first, second)]
        # The smallest hashes: drawn at random, and the same ones on every call.
        examples = [_with_scores(rated, group[:NUM_EXAMPLES]) for group in groups]
        both, gained, lost = map(len, groups)
        found.append(
            OverlapFigures(first.iteration, second.iteration, both, gained, lost, *examples)
        )
    return found


def _with_scores(rated: list[RowFolder], hashes: Hashes) -> list[Selection]:
    """Candidates with their scores before and after."""
    columns = ["instruction", "response", "score"]
    before, after = (
        {row["candidate_id"]: row for row in folder.with_hashes(hashes, columns)}
        for folder in rated
    )
    return [
        Selection(
            name, sample_text("instruction", row["instruction"]),
            sample_text("response", row["response"]), row["score"],
            after[name]["score"] if name in after else None,
        )
        for name, row in before.items()
    ]  # fmt: skip


def raters_of(rows: RunRows, labels: rater_quality.Labels) -> list[RaterFigures]:
    """The rater of each iteration against labels of people."""
    found = []
    for iteration in rows.records.iterations():
        figures = iteration.curated.figures if iteration.curated else {}
        lowest = figures.get("lowest_selected_score")
        rated = rows.folder(iteration.rated, RatedPair)
        labelled = rated.with_ids(labels.by_id, ["score"])
        scores = ((row["candidate_id"], row["score"]) for row in labelled)
        quality = rater_quality.measure(scores, labels, lowest)
        found.append(RaterFigures(iteration.iteration, iteration.rated.path, lowest, quality))
    return found
