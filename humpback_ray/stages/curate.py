"""Self-curation, second half: the examples of M_t, from the seed and the best rated pairs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data

from humpback_ray import storage, tables
from humpback_ray.config.settings import SelectionSettings
from humpback_ray.execution.stage import Context, Part, Result, Stage
from humpback_ray.method import selection
from humpback_ray.rows import Direction, Origin, RatedPair, TrainingExample
from humpback_ray.stages.examples import HumanExamples


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
        rated, rows = context.of(self.rated, "rows"), context.path("rows")
        chosen, figures = ray.get(_choose.remote(rated, self.settings))
        storage.delete(rows)
        _write_selected(rated, rows, chosen, self.web_tag)
        human: dict[str, int] = {}
        if self.settings.with_seed:
            human = self.write_human_examples(context, Direction.FORWARD, self.seed_tag)
        outcomes = tables.count_values(rows, "origin")
        assert outcomes == {**human, Origin.WEB.value: len(chosen)}
        assert outcomes.total() == tables.assert_unique(rows, "example_id")
        return Result(outcomes.total(), outcomes, figures)


@ray.remote
def _choose(rated: str, settings: SelectionSettings) -> tuple[pa.Array, dict[str, Any]]:
    """The ids that are selected, and figures. In a task: the driver holds no list of all pairs."""
    scored = list(scored_pairs(rated))
    eligible = selection.eligible(scored, settings)
    chosen = selection.select(eligible, settings)
    scores = [score for candidate, _, score in scored if candidate in chosen]
    return pa.array(sorted(chosen)), {
        "num_scored": len(scored),
        "num_segments": len(eligible),
        "num_selected": len(chosen),
        "lowest_selected_score": round(min(scores), 4),
        "mean_selected_score": round(sum(scores) / len(scores), 4),
        "mean_score": round(sum(score for _, _, score in scored) / len(scored), 4),
    }


def scored_pairs(rated: str) -> Iterator[tuple[str, str, float]]:
    """(candidate_id, segment_id, score) of every pair with a score, from a rating's rows."""
    for batch in tables.scan(rated, ["candidate_id", "segment_id", "score"]):
        for row in batch.to_pylist():
            if row["score"] is not None:
                yield row["candidate_id"], row["segment_id"], row["score"]


def _write_selected(rated: str, target: str, chosen: pa.Array, tag: str) -> None:
    tables.map_files(rated, partial(_selected, chosen=chosen, tag=tag), target)


def _selected(table: pa.Table, chosen: pa.Array, tag: str) -> pa.Table:
    table = tables.conform(table, RatedPair)
    table = table.filter(pc.is_in(table["candidate_id"], chosen))
    return tables.to_table((_of_web(row, tag) for row in table.to_pylist()), TrainingExample)


def _of_web(row: dict[str, Any], tag: str) -> TrainingExample:
    return TrainingExample(
        f"{Origin.WEB}-{row['candidate_id']}", row["instruction"], tag, row["response"], Origin.WEB
    )
