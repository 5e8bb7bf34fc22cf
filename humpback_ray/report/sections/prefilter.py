"""The recall of the filter before augmentation, at several cuts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from humpback_ray.figures.types import RunFigures
from humpback_ray.report.document import Block, Table
from humpback_ray.report.wording import NONE, count, fixed
from humpback_ray.stages.prefilter import PrefilterModel

FIGURES = {"recall", "mean_score_of_cut", "mean_score", "num_scored", "rank_correlation"}


def prefilter(figures: RunFigures) -> Iterator[Block]:
    """A table of what each cut keeps of the best pairs; nothing of a run without a filter."""
    for stage in figures.stages:
        if stage.kind != PrefilterModel.kind or not stage.figures.keys() >= FIGURES:
            continue
        found = stage.figures
        means = found["mean_score_of_cut"]
        # A damaged record may lack a cut in one place.
        groups = found["recall"].values()
        cuts = dict.fromkeys([*means, *(cut for group in groups for cut in group["of_cut"])])
        rows = [
            (f"best {best}", fixed(group["score"]), count(group["num_good"]),
             *(_with_interval(group["of_cut"].get(cut)) for cut in cuts))
            for best, group in found["recall"].items()
        ]  # fmt: skip
        mean = ("mean score", fixed(found["mean_score"]), count(found["num_scored"]))
        yield Table(
            "What the filter before augmentation keeps of the pairs that M_0 rates best",
            ("pairs", "score from", "number", *(f"cut to {cut}" for cut in cuts)),
            [*rows, (*mean, *(fixed(means.get(cut)) for cut in cuts))],
            note=f"Of a sample of {count(found['num_scored'])} pairs, each predicted by a model of "
            f"the others; rank correlation {_correlation(found['rank_correlation'])}. Intervals "
            "are of 95%. A random cut keeps as much of each group as of all.",
        )


def _correlation(found: Sequence[float] | None) -> str:
    if found is None:
        return NONE
    value, low, high = found
    return f"{value:.2f} ({low:.2f} to {high:.2f})"


def _with_interval(kept: Sequence[float] | None) -> str:
    if kept is None:
        return NONE
    value, low, high = kept
    return f"{value:.0%} ({low:.0%} to {high:.0%})"
