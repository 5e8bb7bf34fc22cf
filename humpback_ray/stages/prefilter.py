"""Rate little, score everything: the stages that cut the segments before M_yx sees them.

segments ── sample ── M_yx ── candidates ── M_0 ── ratings ── linear model
    └──────────────────────────────────────────────────────────────┴── promising segments
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray

from humpback_ray import storage, tables
from humpback_ray.config.settings import Settings
from humpback_ray.corpus.smallest_keys import Division, divide
from humpback_ray.errors import UserError
from humpback_ray.execution.stage import Context, Part, Result, Source, Stage
from humpback_ray.execution.tasks import run_tasks, user_error
from humpback_ray.method import prefilter
from humpback_ray.rows import RatingOutcome, ScoredSegment, Segment, SegmentOutcome
from humpback_ray.stages.augment import Augment
from humpback_ray.stages.rate import Rate, rating_template

WORK = "_keys"  # folder of the files between the steps
WEIGHTS = "weights"


@dataclass(frozen=True, kw_only=True)
class SampledSegments(Stage):
    """Some of the segments, drawn by hashes of their ids."""

    kind: ClassVar[str] = "sampled-segments"
    version: ClassVar[int] = 1
    part: ClassVar[Part] = "augment"

    segments: Stage | Source
    num_rated: int
    random_seed: int

    def run(self, context: Context) -> Result:
        """Write the sample to `rows`.

        Raises:
            UserError: the run has no more segments than the sample asks for.
        """
        source = context.of(self.segments, "rows")
        num_segments = tables.num_rows(source)
        if self.num_rated >= num_segments:
            raise UserError(
                f"settings.prefilter.num_rated={self.num_rated} is not below the run's "
                f"{num_segments} segments, so the filter saves nothing: lower it, or leave out "
                "settings.prefilter"
            )
        keys = partial(_draw_keys, random_seed=self.random_seed)
        division = Division(
            source, context.path(WORK), context.path("rows"), None, keys, _as_sampled
        )
        num_kept = divide(division, self.num_rated, partial(run_tasks, context.progress))
        assert num_kept == tables.num_rows(context.path("rows")) >= self.num_rated
        storage.delete(context.path(WORK))
        return Result(
            num_kept, {SegmentOutcome.KEPT.value: num_kept}, {"num_segments": num_segments}
        )


def _draw_keys(table: pa.Table, random_seed: int) -> np.ndarray:
    return prefilter.draw_keys(table["segment_id"].to_pylist(), random_seed)


def _as_sampled(table: pa.Table, keys: np.ndarray, is_kept: bool) -> pa.Table:
    return tables.conform(table, Segment)


class SampleCandidates(Augment):
    """A candidate for each segment of the sample."""

    kind: ClassVar[str] = "sample-candidates"


class SampleRatings(Rate):
    """Ratings of the sample's candidates by M_0, or by the model behind an endpoint."""

    kind: ClassVar[str] = "sample-ratings"


@dataclass(frozen=True, kw_only=True)
class PrefilterModel(Stage):
    """A linear model of the sample's scores, and its recall at several cuts.

    It knows nothing of the cut that a recipe asks for, so that a person may choose it afterwards.
    """

    kind: ClassVar[str] = "prefilter-model"
    version: ClassVar[int] = 1
    part: ClassVar[Part] = "augment"

    rated: Stage | Source

    def run(self, context: Context) -> Result:
        """Write the weights, and print the recall.

        Raises:
            UserError: too few scores, or scores that are all equal.
        """
        rated = context.of(self.rated, "rows")
        try:
            weights, measured = ray.get(_learn.remote(rated))
        except ray.exceptions.RayTaskError as error:
            raise user_error(error) from error
        tables.write_table(context.path(WEIGHTS), pa.table({"weight": weights}), "part-0")
        for line in measured.lines:
            context.progress.note(line)
        num_rows = tables.num_rows(rated)
        outcomes = {
            RatingOutcome.SCORED.value: measured.num_scored,
            "no_score": num_rows - measured.num_scored,
        }
        return Result(num_rows, outcomes, measured.figures)


@ray.remote
def _learn(rated: str) -> tuple[np.ndarray, prefilter.Measured]:
    """The model's weights and its measures; the order of the rows does not count."""
    table = tables.read_table(rated, ["segment_id", "response", "score"])
    table = table.filter(pc.is_valid(table["score"])).sort_by("segment_id")
    scores = table["score"].to_numpy()
    model, predicted = prefilter.learn(table["response"].to_pylist(), scores)
    return model.weights, prefilter.measure(scores, predicted)


@dataclass(frozen=True, kw_only=True)
class PromisingSegments(Stage):
    """The segments whose pairs M_0 would rate highest, as the linear model predicts it."""

    kind: ClassVar[str] = "promising-segments"
    version: ClassVar[int] = 1
    part: ClassVar[Part] = "augment"

    segments: Stage | Source
    model: PrefilterModel
    share: float

    def run(self, context: Context) -> Result:
        """Write every segment with its predicted score to `rows` (kept) or `dropped`."""
        source, rows = context.of(self.segments, "rows"), context.path("rows")
        weights = tables.read_named(context.of(self.model, WEIGHTS), "part-0")["weight"]
        model = prefilter.LinearModel(weights.to_numpy())
        keys = partial(_rank_keys, model=model)
        dropped = context.path("dropped")
        division = Division(source, context.path(WORK), rows, dropped, keys, _as_scored)
        num_segments = tables.num_rows(source)
        wanted = max(round(self.share * num_segments), 1)
        num_kept = divide(division, wanted, partial(run_tasks, context.progress))
        num_dropped = num_segments - num_kept
        assert num_kept == tables.num_rows(rows) >= wanted
        assert num_dropped == tables.num_rows(dropped)
        storage.delete(context.path(WORK))
        outcomes = {
            SegmentOutcome.KEPT.value: num_kept,
            SegmentOutcome.NOT_PROMISING.value: num_dropped,
        }
        return Result(num_segments, outcomes, _score_figures(rows))


def _rank_keys(table: pa.Table, model: prefilter.LinearModel) -> np.ndarray:
    scores = model.scores(table["text"].to_pylist())
    return prefilter.rank_keys(scores, table["segment_id"].to_pylist())


def _as_scored(table: pa.Table, keys: np.ndarray, is_kept: bool) -> pa.Table:
    outcome = SegmentOutcome.KEPT if is_kept else SegmentOutcome.NOT_PROMISING
    scores = prefilter.scores_of(keys).astype(np.float64)
    table = table.drop_columns(["outcome"])
    table = table.append_column("outcome", pa.array([outcome.value] * len(table), pa.string()))
    return tables.conform(table.append_column("score", pa.array(scores)), ScoredSegment)


def _score_figures(rows: str) -> dict[str, Any]:
    """The lowest and the mean predicted score of the kept segments."""
    lowest, total, number = np.inf, 0.0, 0
    for batch in tables.scan(rows, ["score"]):
        scores = batch["score"].to_numpy()
        lowest, total = min(lowest, scores.min(initial=np.inf)), total + scores.sum()
        number += len(scores)
    return {"lowest_score": round(float(lowest), 4), "mean_score": round(total / number, 4)}


def prefiltered(
    s: Settings,
    segments: Stage | Source,
    backward: Stage | Source,
    forward: Stage | Source,
    serving: dict[str, Any],
) -> list[Stage]:
    """The stages of the filter, the promising segments last; none where the recipe asks for none.

    Args:
        segments: all of them.
        backward: M_yx.
        forward: M_0.
        serving: fields of stages that generate.
    """
    if s.prefilter is None:
        return []
    sample = SampledSegments(
        path="prefilter/sample", segments=segments, num_rated=s.prefilter.num_rated,
        random_seed=s.random_seed,
    )  # fmt: skip
    candidates = SampleCandidates(
        path="prefilter/candidates", segments=sample, model=backward, tag=s.prompts.seed_tag,
        sampling=s.augmentation, num_candidates=1, long_prompts=s.long_prompts, **serving,
    )  # fmt: skip
    rated = SampleRatings(
        path="prefilter/rated", candidates=candidates,
        rater=None if s.rating.endpoint else forward, iteration=0, settings=s.rating,
        template=rating_template(s.prompts.rating_template, s.rating.rubric),
        long_prompts=s.long_prompts, **serving,
    )  # fmt: skip
    model = PrefilterModel(path="prefilter/model", rated=rated)
    promising = PromisingSegments(
        path="prefilter/segments", segments=segments, model=model, share=s.prefilter.share
    )
    return [sample, candidates, rated, model, promising]
