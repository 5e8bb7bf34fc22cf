"""Candidates without those whose instruction has words of an evaluation prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from humpback_ray import storage, tables
from humpback_ray.config.contamination import DecontaminationSettings
from humpback_ray.config.settings import Settings
from humpback_ray.execution.stage import Context, Part, Result, Source, Stage
from humpback_ray.execution.tasks import run_tasks
from humpback_ray.method.contamination import PromptIndex
from humpback_ray.rows import Candidate, ContaminatedCandidate, Finish, InstructionOutcome
from humpback_ray.stages.evaluate import prompt_index, prompts_source

ROWS_PER_TASK = 20_000  # about 40 MB of candidates


@dataclass(frozen=True, kw_only=True)
class Decontaminate(Stage):
    """Candidates whose instructions share no n-gram with a prompt.

    Their segments were compared before; M_yx may write a prompt that no segment has in it.
    """

    kind: ClassVar[str] = "decontaminate"
    version: ClassVar[int] = 1
    part: ClassVar[Part] = "augment"

    candidates: Stage
    decontamination: DecontaminationSettings
    prompts: Source

    def run(self, context: Context) -> Result:
        """Write candidates to `rows` (kept) or `dropped` (contaminated).

        A candidate without a whole instruction stays: its rating says why it has no score.
        """
        source = context.of(self.candidates, "rows")
        index = prompt_index(self.prompts.places, self.decontamination.ngram)
        rows, dropped = context.path("rows"), context.path("dropped")
        for folder in (rows, dropped):  # of an attempt that divided the candidates otherwise
            storage.delete(folder)
        work = partial(_divide, source, rows, dropped, index)
        groups = enumerate(tables.groups_of_files(source, ROWS_PER_TASK))
        items = [(files, f"part-{number:06}") for number, files in groups]
        run_tasks(context.progress, "instructions compared", work, items)
        outcomes = {
            InstructionOutcome.KEPT.value: tables.num_rows(rows),
            InstructionOutcome.CONTAMINATED.value: tables.num_rows(dropped),
        }
        assert sum(outcomes.values()) == tables.num_rows(source)
        return Result(sum(outcomes.values()), outcomes)


def decontaminated(settings: Settings) -> dict[str, Any]:
    """The fields of stages that drop contaminated rows; empty where a run has none of them."""
    asked = settings.decontamination
    if asked is None:
        return {}
    key = "settings.decontamination.prompts"
    source = (
        prompts_source(asked.prompts, key)
        if asked.prompts
        else prompts_source(settings.evaluation.prompts)
    )
    return {"decontamination": asked, "prompts": source}


def _divide(
    source: str, kept: str, dropped: str, index: PromptIndex, files: Sequence[str], name: str
) -> None:
    filesystem, _ = storage.arrow_filesystem(source)
    table = pa.concat_tables(tables.read_file(filesystem, file) for file in files)
    hits = [
        index.hit(instruction) if finish == Finish.STOP else None
        for instruction, finish in zip(
            table["instruction"].to_pylist(), table["finish"].to_pylist(), strict=True
        )
    ]
    is_hit = pa.array([hit is not None for hit in hits], pa.bool_())
    tables.write_table(kept, tables.conform(table.filter(pc.invert(is_hit)), Candidate), name)
    found = [hit for hit in hits if hit]
    outcomes = [InstructionOutcome.CONTAMINATED.value] * len(found)
    table = table.filter(is_hit).append_column("outcome", pa.array(outcomes, pa.string()))
    table = table.append_column("prompt_id", pa.array([h.prompt_id for h in found], pa.string()))
    table = table.append_column("shared_ngram", pa.array([h.ngram for h in found], pa.string()))
    tables.write_table(dropped, tables.conform(table, ContaminatedCandidate), name)
