"""Candidates without those whose instruction repeats another one's."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa

from humpback_ray import storage
from humpback_ray.config.duplicates import InstructionDuplicateSettings
from humpback_ray.corpus.duplicate_steps import Columns
from humpback_ray.execution.stage import Context, Part, Result, Stage
from humpback_ray.method.filters import segment_id
from humpback_ray.rows import Candidate, DroppedCandidate, Finish, InstructionOutcome
from humpback_ray.stages.searching import WORK, Searched, drop_duplicates, duplicate_figures


@dataclass(frozen=True, kw_only=True)
class Distinct(Stage):
    """Candidates with different instructions; the paper rates and selects them all."""

    kind: ClassVar[str] = "distinct"
    version: ClassVar[int] = 1
    part: ClassVar[Part] = "augment"

    candidates: Stage
    settings: InstructionDuplicateSettings

    def run(self, context: Context) -> Result:
        """Write candidates to `rows` (kept) or `dropped` (exact and near-duplicates).

        A candidate without a whole instruction stays: its rating says why it has no score.
        """
        searched = Searched(
            context.of(self.candidates, "rows"), "finish", Finish.STOP.value, Candidate,
            DroppedCandidate, Columns("instruction_id", "instruction", ("candidate_id",)),
            _with_instruction_id, _kept,
        )  # fmt: skip
        found = drop_duplicates(context, searched, self.settings)
        storage.delete(context.path(WORK))
        return Result(found.outcomes.total(), found.outcomes, duplicate_figures(found))


def _with_instruction_id(table: pa.Table) -> pa.Table:
    ids = [segment_id(text) for text in table["instruction"].to_pylist()]
    return table.append_column("instruction_id", pa.array(ids, pa.string()))


def _kept(table: pa.Table) -> tuple[pa.Table, Counter[str]]:
    table = _with_instruction_id(table)
    outcomes = pa.array([InstructionOutcome.KEPT.value] * len(table), pa.string())
    return table.append_column("outcome", outcomes), Counter()
