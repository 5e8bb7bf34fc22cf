"""The funnel: from documents to training examples, with a reason for everything that is dropped."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pyarrow.compute as pc

from humpback_ray.execution.stage import Stage
from humpback_ray.figures.outcome_words import in_words
from humpback_ray.figures.pair_sets import RunRows
from humpback_ray.figures.stage_records import Selected, StageRecords, count_of
from humpback_ray.figures.stage_rows import Hashes, hashes_of, scan
from humpback_ray.figures.types import FactFigures, FunnelStep, StageFigures
from humpback_ray.rows import (
    Candidate,
    Finish,
    InstructionOutcome,
    Origin,
    RatedPair,
    RatingOutcome,
    ScoredSegment,
    SeedOutcome,
    SeedPair,
    Segment,
    SegmentOutcome,
    TrainingExample,
)
from humpback_ray.stages.augment import Augment
from humpback_ray.stages.curate import Curate
from humpback_ray.stages.decontaminate import Decontaminate
from humpback_ray.stages.distinct import Distinct
from humpback_ray.stages.examples import SeedExamples, num_repeats
from humpback_ray.stages.finetune import Finetune
from humpback_ray.stages.prefilter import PromisingSegments
from humpback_ray.stages.rating_seed import RatingSeed
from humpback_ray.stages.safety_seed import SafetySeed
from humpback_ray.stages.seed import Seed
from humpback_ray.stages.segments import Segments

# Of dropped rows that say something about their whole document; the first reason counts.
_OF_DOCUMENTS: dict[str, str] = {
    SegmentOutcome.BLOCKED: "blocked",
    SegmentOutcome.OPTED_OUT: "opted out",
    SegmentOutcome.OLDER_CAPTURE: "older capture",
    SegmentOutcome.NOT_READ: "no document",
    SegmentOutcome.UNREADABLE: "no document",
}
_NONE_KEPT = "no section kept"
FACTS = {"opt_out": "opt-out", "licence": "licence", "truncated": "truncated by the crawler"}


def funnel_of(records: StageRecords) -> list[FunnelStep]:
    """Every step whose stage is done, in the order of the method."""
    steps: list[FunnelStep] = []
    for seed in records.of(Seed)[:1]:
        steps.append(_by_outcome("Seed pairs", seed, "messages", SeedOutcome.KEPT))
    for safety in records.of(SafetySeed)[:1]:
        steps.append(_by_outcome("Safety pairs", safety, "messages", SeedOutcome.KEPT))
    for ratings in records.of(RatingSeed)[:1]:
        steps.append(_by_outcome("Ratings by people", ratings, "rows", SeedOutcome.KEPT))
    for segments in records.of(Segments)[:1]:
        steps.append(_documents(records, segments))
        steps.append(_by_outcome("Segments", segments, "sections", SegmentOutcome.KEPT))
    for promising in records.of(PromisingSegments)[:1]:
        steps.append(_by_outcome("Promising segments", promising, "segments", SegmentOutcome.KEPT))
    for candidates in records.of(Augment)[:1]:
        steps.append(_by_outcome("Instructions", candidates, "candidates", Finish.STOP))
    for clean in records.of(Decontaminate)[:1]:
        steps.append(_by_outcome("Decontaminated instructions", clean, "candidates",
                                 InstructionOutcome.KEPT))  # fmt: skip
    for distinct in records.of(Distinct)[:1]:
        steps.append(_by_outcome("Distinct instructions", distinct, "candidates",
                                 InstructionOutcome.KEPT))  # fmt: skip
    for iteration in records.iterations():
        steps += _self_curation(iteration)
    return steps


def _by_outcome(name: str, stage: StageFigures, what: str, kept: str) -> FunnelStep:
    return _step(name, stage, what, stage.outcomes.get(kept, 0), _without(stage.outcomes, kept))


def _step(
    name: str, stage: StageFigures, what: str, num_kept: int, reasons: Mapping[str, int]
) -> FunnelStep:
    ordered = dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0])))
    shown = {in_words(reason): count for reason, count in ordered.items() if count}
    return FunnelStep(name, stage.path, what, num_kept + sum(shown.values()), num_kept, shown)


def _without(outcomes: Mapping[str, int], kept: str) -> dict[str, int]:
    return {name: count for name, count in outcomes.items() if name != kept}


def _documents(records: StageRecords, segments: StageFigures) -> FunnelStep:
    """Documents by their best section: one that is kept, one that is dropped, or none at all."""
    none = np.empty(0, np.uint64)
    counted = kept = _documents_by(lambda _: "", records.folder(segments, "rows")).get("", none)
    dropped = _documents_by(_reason_of, records.folder(segments, "dropped"))
    reasons: dict[str, int] = {}
    for reason in dict.fromkeys((_NONE_KEPT, *_OF_DOCUMENTS.values())):
        new = np.setdiff1d(dropped.get(reason, none), counted)
        reasons[reason] = len(new)
        counted = np.union1d(counted, new)
    return _step("Documents", segments, "documents, files and links", len(kept), reasons)


def _reason_of(outcome: str) -> str:
    return _OF_DOCUMENTS.get(outcome, _NONE_KEPT)


def _documents_by(group: Callable[[str], str], folder: str) -> dict[str, Hashes]:
    """Hashes of different documents, 8 bytes each, by the groups of their rows' outcomes."""
    found: defaultdict[str, list[Hashes]] = defaultdict(list)
    for batch in scan(folder, Segment, ["document_id", "outcome"]):
        for outcome in batch["outcome"].unique().to_pylist():
            rows = batch.filter(pc.equal(batch["outcome"], outcome))
            found[group(outcome)].append(hashes_of(pc.unique(rows["document_id"])))
    return {name: np.unique(np.concatenate(parts)) for name, parts in found.items()}


def facts_of(records: StageRecords) -> list[FactFigures]:
    """The facts that documents of the corpus state, with the numbers in the segments' record."""
    return [
        FactFigures(name, value, number, num_documents)
        for segments in records.of(Segments)[:1]
        for fact, name in FACTS.items()
        for value, number in segments.figures.get(fact, {}).items()
        if (num_documents := count_of(segments, "num_documents"))
    ]


def _self_curation(iteration: Selected) -> Iterator[FunnelStep]:
    t, curated, trained = iteration.iteration, iteration.curated, iteration.trained
    yield _by_outcome(f"Scores, iteration {t}", iteration.rated, "pairs", RatingOutcome.SCORED)
    if curated is None:
        return
    num_scored, num_segments, num_selected = (
        count_of(curated, name) for name in ("num_scored", "num_segments", "num_selected")
    )
    reasons = {
        "better candidate of the segment": num_scored - num_segments,
        "score too low": num_segments - num_selected,
    }
    yield _step(f"Selection, iteration {t}", curated, "pairs with a score", num_selected, reasons)
    if trained is not None:
        more = [each.value for each in (Origin.SAFETY, Origin.RATING) if curated.outcomes.get(each)]
        human = ", ".join(["seed", *more])
        yield _training(f"Examples of M_{t}", trained, f"{human} and selected pairs")


def _training(name: str, trained: StageFigures, what: str) -> FunnelStep:
    """Truncated examples are trained on, as far as the context reaches."""
    dropped = trained.outcomes.get("dropped", 0)
    num_kept = sum(trained.outcomes.values()) - dropped
    return _step(name, trained, what, num_kept, {"too long": dropped})


def mismatches(run: RunRows) -> list[str]:
    """A line for each place where the counts of a run's records and rows do not fit together."""
    records, lines = run.records, list[str]()

    def compare(what: str, found: int, expected: int, source: str) -> None:
        if found != expected:
            lines.append(f"{what}: {found:,}, and {source} has {expected:,}")

    for stage in records.stages:
        if stage.num_rows is not None and (total := sum(stage.outcomes.values())):
            compare(f"outcomes in {stage.path}/record.json", total, stage.num_rows, "num_rows")
    row_types: dict[type[Stage], type] = {
        Seed: SeedPair, SafetySeed: SeedPair, RatingSeed: TrainingExample, Segments: Segment,
        PromisingSegments: ScoredSegment,
    }  # fmt: skip
    for kind, row_type in row_types.items():
        for stage in records.of(kind):
            rows = run.folder(stage, row_type).num_rows
            compare(f"rows in {stage.path}", rows, stage.outcomes.get("kept", 0), "its record")
    for promising, segments in zip(
        records.of(PromisingSegments), records.of(Segments), strict=False
    ):
        kept = segments.outcomes.get(SegmentOutcome.KEPT, 0)
        compare(f"segments in {promising.path}", promising.num_rows or 0, kept, segments.path)
    for stage in records.of(Augment):
        rows = run.folder(stage, Candidate).num_rows
        compare(f"rows in {stage.path}", rows, stage.num_rows or 0, "its record")
    for kind, origin in ((SafetySeed, Origin.SAFETY), (RatingSeed, Origin.RATING)):
        for source in records.of(kind):
            for stage in (*records.of(SeedExamples), *records.of(Curate)):
                if source.path in stage.inputs.values():
                    found = stage.outcomes.get(origin, 0)
                    kept = source.outcomes.get(SeedOutcome.KEPT, 0)
                    if origin is Origin.RATING:
                        num_others = sum(stage.outcomes.values()) - found
                        kept *= num_repeats(kept, num_others, stage.settings.get("rating_share"))
                    compare(f"{origin} examples in {stage.path}", found, kept, source.path)
    for iteration in records.iterations():
        _compare_iteration(run, iteration, compare)
    for stage in records.of(Finetune):
        examples = next((s for s in records.stages if s.path == stage.inputs.get("examples")), None)
        if examples is not None and examples.num_rows is not None:
            compare(f"examples of {stage.path}", stage.num_rows or 0, examples.num_rows,
                    examples.path)  # fmt: skip
    return lines


def _compare_iteration(
    run: RunRows, iteration: Selected, compare: Callable[[str, int, int, str], None]
) -> None:
    rated, curated = iteration.rated, iteration.curated
    rows = run.folder(rated, RatedPair).num_rows
    compare(f"rows in {rated.path}", rows, rated.num_rows or 0, "its record")
    kinds = (Distinct, Decontaminate, Augment)
    for candidates in [stage for kind in kinds for stage in run.records.of(kind)][:1]:
        # A stage that drops candidates counts its kept rows; the other one has kept all of them.
        expected = candidates.outcomes.get(InstructionOutcome.KEPT, candidates.num_rows or 0)
        compare(f"pairs in {rated.path}", rated.num_rows or 0, expected, candidates.path)
    if curated is not None:
        scored = rated.outcomes.get(RatingOutcome.SCORED, 0)
        num_scored = count_of(curated, "num_scored")
        compare(f"pairs with a score in {curated.path}", num_scored, scored, rated.path)
        rows = run.folder(curated, TrainingExample).num_rows
        compare(f"rows in {curated.path}", rows, curated.num_rows or 0, "its record")
