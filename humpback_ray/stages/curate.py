"""Self-curation, second half: the examples of M_t, from the seed and the best rated pairs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import pyarrow as pa

from humpback_ray import storage, tables
from humpback_ray.config.settings import SelectionSettings
from humpback_ray.execution.stage import Context, Part, Result, Stage
from humpback_ray.execution.tasks import run_tasks
from humpback_ray.rows import Direction, Origin, TrainingExample
from humpback_ray.stages.choosing import compared
from humpback_ray.stages.examples import HumanExamples

WORK = "_choice"  # folder of the files between the steps


@dataclass(frozen=True, kw_only=True)
class Curate(HumanExamples):
    """Examples of M_t: the seed with tag S_a and the selected pairs A_k^(t) with tag S_w.

    Safety pairs and ratings count as the seed's.
    """

    kind: ClassVar[str] = "curate"
    version: ClassVar[int] = 1
    part: ClassVar[Part] = "finetune"

    rated: Stage
    settings: SelectionSettings
    seed_tag: str
    web_tag: str

    def run(self, context: Context) -> Result:
        """Write the examples, of several candidates of a segment at most one."""
        rated, rows, work = context.of(self.rated, "rows"), context.path("rows"), context.path(WORK)
        if not storage.exists(work):
            storage.delete(rows)
        pairs = compared(rated, work, self.settings, partial(run_tasks, context.progress))
        figures = pairs.write(rows, partial(_of_web, tag=self.web_tag))
        human: dict[str, int] = {}
        if self.settings.with_seed:
            human = self.write_human_examples(
                context, Direction.FORWARD, self.seed_tag, num_web=figures["num_selected"]
            )
        outcomes = tables.count_values(rows, "origin")
        assert outcomes == {**human, Origin.WEB.value: figures["num_selected"]}
        storage.delete(work)
        return Result(outcomes.total(), outcomes, figures)


def _of_web(pairs: pa.Table, tag: str) -> pa.Table:
    examples = (
        TrainingExample(
            f"{Origin.WEB}-{row['candidate_id']}", row["instruction"], tag, row["response"],
            Origin.WEB,
        )
        for row in pairs.to_pylist()
    )  # fmt: skip
    return tables.to_table(examples, TrainingExample)
