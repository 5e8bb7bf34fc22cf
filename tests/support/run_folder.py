"""A small, complete run folder made without engines: real stages, real rows, made-up texts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any, ClassVar

import numpy as np

from humpback_ray import pipeline, storage, tables
from humpback_ray.config.recipe import Recipe, load_recipe
from humpback_ray.evaluation import refusals
from humpback_ray.execution.provenance import provenance
from humpback_ray.execution.stage import METRICS, Part, Result, Stage
from humpback_ray.method import prefilter
from humpback_ray.rows import (
    Candidate,
    DroppedSeed,
    Evaluated,
    Expected,
    Finish,
    Origin,
    RatedPair,
    RatingOutcome,
    SafetyAnswer,
    SafetyOutcome,
    ScoredSegment,
    SeedOutcome,
    SeedPair,
    Segment,
    SegmentOutcome,
    TaskKind,
    TrainingExample,
)
from humpback_ray.stages.augment import Augment
from humpback_ray.stages.benchmark import Benchmark
from humpback_ray.stages.curate import Curate
from humpback_ray.stages.evaluate import Evaluate
from humpback_ray.stages.examples import SeedExamples, num_repeats, repeated
from humpback_ray.stages.finetune import Finetune
from humpback_ray.stages.judge import Judge
from humpback_ray.stages.other_answers import OtherAnswers
from humpback_ray.stages.prefilter import PrefilterModel, PromisingSegments
from humpback_ray.stages.rate import Rate
from humpback_ray.stages.rating_seed import RatingSeed
from humpback_ray.stages.safety_answers import SafetyAnswers
from humpback_ray.stages.safety_seed import SafetySeed
from humpback_ray.stages.seed import Seed
from humpback_ray.stages.segments import Segments
from tests.support.benchmark_run import write_benchmarks

NUM_SEGMENTS, NUM_SELECTED = 60, 12
NUM_DROPPED = {SegmentOutcome.TOO_SHORT: 14, SegmentOutcome.NEAR_DUPLICATE: 3,
               SegmentOutcome.NOT_READ: 2}  # fmt: skip
NUM_PROMISING = 18  # segments that a filter keeps, in a run that has one
NUM_CUT = 4  # instructions cut at the token limit, which no rater is asked about
LOSSES = {"base": 6.3, "M_0": 5.9, "M_1": 5.7, "M_2": 5.6}  # nats, about which pairs vary
# Of ten prompts each, of which the last one has an empty answer.
NUM_REFUSED = {(model, half): n * (2 if half is Expected.REFUSE else 1)
               for n, model in enumerate(LOSSES) for half in Expected}  # fmt: skip
GAMES = [("M_2", "M_1", 58.0), ("M_2", "base", 81.0), ("M_1", "M_0", 63.0), ("M_0", "base", 71.0)]


@dataclass(frozen=True)
class Texts:
    """Texts of a run's rows, by the number of the row."""

    instruction: Callable[[int], str] = lambda n: f"Why does the tide of bay {n} rise so late?"
    response: Callable[[int], str] = lambda n: f"The bay is shallow, number {n}. " * (n % 7 + 20)
    header: Callable[[int], str] = lambda n: f"Tides of bay {n}"
    url: Callable[[int], str] = lambda n: f"https://tides{n % 5}.example/bays/{n}"
    answer: Callable[[int], str] = lambda n: f"The moon pulls, and the bay answers {n} hours later."


@cache
def _provenance() -> dict[str, Any]:
    return provenance()


@dataclass(frozen=True, kw_only=True)
class Judged(Stage):
    """A stage whose record has the figures of a judge."""

    kind: ClassVar[str] = Judge.kind
    version: ClassVar[int] = Judge.version
    part: ClassVar[Part] = "evaluate"


def recipe(*overrides: str) -> Recipe:
    """The recipe of the run: the demo's, without a corpus."""
    return load_recipe("tiny", ["settings.corpus.path=/none", *overrides])


def write_run(
    folder: str, texts: Texts | None = None, *, until: str | None = None,
    judge: Mapping[str, Any] | None = None, overrides: Sequence[str] = (),
) -> str:  # fmt: skip
    """Write a run's folder; returns it.

    Args:
        texts: of its rows.
        until: path of the last finished stage; None: all are finished.
        judge: figures of a judge's record; None: no stage judges.
        overrides: of the recipe.
    """
    loaded = recipe(*overrides)
    stages = pipeline.stages_of(loaded)
    attempt = {"recipe": loaded.model_dump(mode="json"), "stages": [s.path for s in stages]}
    if judge is not None:
        attempt["stages"].append("judgement")
    storage.write_json(f"{folder}/config.json", loaded.model_dump(mode="json"))
    storage.write_json(f"{folder}/attempts/001/attempt.json", attempt)
    writer = _Writer(folder, texts or Texts())
    for stage in stages:
        stage.finish(folder, writer.result(stage), 12.5, _provenance())
        if stage.path == until:
            return folder
    if judge is not None:
        result = Result(4, {"judged": 4}, judge)
        Judged(path="judgement").finish(folder, result, 30.0, _provenance())
    return folder


def judge_figures(failed: bool = False, num_judged: int = 200) -> dict[str, Any]:
    """Figures of a judge that sees every model as better than the one before."""
    game = {"num_prompts": 200, "num_judged": num_judged, "order_disagreement": 0.12,
            "formula": "minimal"}  # fmt: skip
    is_score = num_judged >= 198

    def figures(rate: float) -> dict[str, Any]:
        if not is_score:
            names = ("win_rate", "standard_error", "low", "high", "length_controlled_win_rate",
                     "length_controlled_low", "length_controlled_high")  # fmt: skip
            return dict.fromkeys(names)
        return {"win_rate": rate, "standard_error": 3.1, "low": rate - 6, "high": rate + 6,
                "length_controlled_win_rate": rate - 2, "length_controlled_low": rate - 9,
                "length_controlled_high": rate + 5}  # fmt: skip

    control = {"num_prompts": 200, "num_judged": 200, "low": 1.0, "high": 6.0}
    return {
        "judge": "judge-70b", "verdicts_by": "token probabilities", "num_prompts": 200,
        "controls": [
            {**control, "name": "empty answer", "win_rate": 2.0, "passed": True,
             "rule": "at most 10% of the games"},
            {**control, "name": "constant answer", "win_rate": 86.5 if failed else 4.0,
             "passed": not failed, "rule": "at most 10% of the games"},
        ],
        "games": [{"model": m, "opponent": o, **game, **figures(r)} for m, o, r in GAMES],
        "reference": "M_0",
        "differences": [
            {"model": "M_2", "other": other, "difference": points, "low": points - 5,
             "high": points + 5, "num_prompts": 200}
            for other, points in (("M_1", 4.2), ("M_0", 19.0), ("base", 40.0))
        ] if is_score else [],
        "strengths": [
            {"model": name, "strength": n * 0.6, "low": n * 0.6 - 0.2, "high": n * 0.6 + 0.2}
            for n, name in enumerate(LOSSES)
        ],
        "smallest_difference": 7.1,
    }  # fmt: skip


class _Writer:
    """Rows and results of the stages of one run."""

    def __init__(self, folder: str, texts: Texts) -> None:
        self._folder, self._texts = folder, texts
        self._iteration = 0
        self.pairs = [
            SeedPair(f"seed-{n:03}", f"Question {n}: {texts.instruction(n)}", texts.response(n))
            for n in range(20)
        ]
        self.safety = [SeedPair(f"q{n}", f"How do I harm {n}?", "I cannot help.") for n in range(5)]
        self.ratings = [
            TrainingExample(f"rating-{n}", f"Grade {n}.", "", f"Score: {n}", Origin.RATING)
            for n in (1, 2, 4, 5)
        ]

    def result(self, stage: Stage) -> Result:
        """Write a stage's rows and metrics; returns its result."""
        writers: dict[type, Callable[[Any], Result]] = {
            Seed: self._seed, Segments: self._segments, PromisingSegments: self._promising,
            PrefilterModel: self._prefilter,
            Augment: self._candidates,
            Rate: self._rated, Curate: self._curated, Finetune: self._trained,
            Evaluate: self._evaluated, OtherAnswers: self._other_answers,
            SeedExamples: self._seed_examples,
            Benchmark: partial(write_benchmarks, self._folder),
            SafetySeed: self._safety_seed, SafetyAnswers: self._safety_answers,
            RatingSeed: self._rating_seed,
        }  # fmt: skip
        return writers.get(type(stage), lambda _: Result(1, {"read": 1}))(stage)

    def _rows(self, stage: Stage, name: str, rows: Iterable[Any], kind: type) -> None:
        tables.write_rows(f"{self._folder}/{stage.path}/{name}", rows, kind)

    def _metrics(self, stage: Stage, lines: Iterable[Mapping[str, Any]]) -> None:
        text = "".join(json.dumps({"time": "2026-11-28T10:00:00Z", **line}) + "\n"
                       for line in lines)  # fmt: skip
        storage.write_text(f"{self._folder}/{stage.path}/{METRICS}", text)

    def _seed(self, stage: Stage) -> Result:
        dropped = [DroppedSeed(f"d{n}", SeedOutcome.OTHER_LANGUAGE, "Hallo") for n in range(3)]
        held_out = [replace(pair, pair_id=f"held-{pair.pair_id}") for pair in self.pairs[:8]]
        self._rows(stage, "rows", self.pairs, SeedPair)
        self._rows(stage, "held_out", held_out, SeedPair)
        self._rows(stage, "dropped", dropped, DroppedSeed)
        return Result(31, {"kept": 20, "held_out": 8, "other_language": 3})

    def _segment(self, number: int, outcome: SegmentOutcome) -> Segment:
        text = self._texts.response(number)
        return Segment(f"{number:032x}", text, self._texts.header(number), f"doc-{number // 2:04}",
                       self._texts.url(number), number, len(text), outcome)  # fmt: skip

    def _segments(self, stage: Stage) -> Result:
        kept = [self._segment(n, SegmentOutcome.KEPT) for n in range(NUM_SEGMENTS)]
        outcomes = [outcome for outcome, count in NUM_DROPPED.items() for _ in range(count)]
        dropped = [self._segment(NUM_SEGMENTS + n, o) for n, o in enumerate(outcomes)]
        self._rows(stage, "rows", kept, Segment)
        self._rows(stage, "dropped", dropped, Segment)
        counts = {outcome.value: count for outcome, count in NUM_DROPPED.items()}
        return Result(len(kept) + len(dropped), {"kept": len(kept), **counts}, {"num_files": 9})

    def _prefilter(self, stage: Stage) -> Result:
        scores = np.arange(200) / 50 + 1
        figures = prefilter.measure(scores, scores + np.arange(200) % 7).figures
        return Result(200, {"scored": 200, "no_score": 0}, figures)

    def _promising(self, stage: Stage) -> Result:
        rows = [
            ScoredSegment(*tables.as_dict(self._segment(n, outcome)).values(), score=4 - n / 20)
            for n in range(NUM_SEGMENTS)
            for outcome in [SegmentOutcome.KEPT if n < NUM_PROMISING
                            else SegmentOutcome.NOT_PROMISING]
        ]  # fmt: skip
        self._rows(stage, "rows", rows[:NUM_PROMISING], ScoredSegment)
        self._rows(stage, "dropped", rows[NUM_PROMISING:], ScoredSegment)
        counts = Counter(row.outcome.value for row in rows)
        return Result(len(rows), counts, {"lowest_score": 3.1, "mean_score": 3.6})

    def _candidates(self, stage: Stage) -> Result:
        self._candidate_rows = [
            Candidate(
                f"{n:032x}-0", f"{n:032x}", self._texts.instruction(n), self._texts.response(n),
                Finish.LENGTH if n < NUM_CUT else Finish.STOP, False, 90, 30, 12,
            )
            for n in range(NUM_SEGMENTS)
        ]  # fmt: skip
        self._rows(stage, "rows", self._candidate_rows, Candidate)
        self._metrics(stage, ({"rows": n, "of": NUM_SEGMENTS} for n in (0, 30, 59)))
        figures = {"num_prompt_tokens": 5400, "num_generated_tokens": 720, "cut_share": 0.0667,
                   "prefix_cache_share": 0.33, "engines": self._engines()}  # fmt: skip
        outcomes = {"stop": NUM_SEGMENTS - NUM_CUT, "length": NUM_CUT}
        return Result(NUM_SEGMENTS, outcomes, figures)

    @staticmethod
    def _engines() -> dict[str, Any]:
        return {"num_engines": 2, "num_restarts": 1, "longest_start_seconds": 14.5,
                "idle_share_before_tail": 0.05, "busy_seconds": 9.5,
                "generated_tokens_per_busy_second": 75.8}  # fmt: skip

    def _rated(self, stage: Stage) -> Result:
        self._iteration += 1
        self._pairs = [self._pair(candidate, n) for n, candidate in enumerate(self._candidate_rows)]
        self._rows(stage, "rows", self._pairs, RatedPair)
        outcomes = {"scored": NUM_SEGMENTS - NUM_CUT, "cut_instruction": NUM_CUT}
        figures = {"mean_score": 3.1, "num_prompt_tokens": 9000, "num_generated_tokens": 56,
                   "prefix_cache_share": 0.5, "engines": self._engines()}  # fmt: skip
        return Result(NUM_SEGMENTS, outcomes, figures)

    def _pair(self, candidate: Candidate, number: int) -> RatedPair:
        # Another order of the pairs in each iteration, so that selections overlap in part.
        score = 1 + 4 * (number * 37 % NUM_SEGMENTS) / NUM_SEGMENTS
        score = round(min(score + 0.4 * (self._iteration - 1) * (number % 3), 5), 3)
        is_scored = candidate.finish is Finish.STOP
        return RatedPair(
            candidate.candidate_id, candidate.segment_id, candidate.instruction,
            candidate.response, score if is_scored else None, None, None, int(is_scored),
            RatingOutcome.SCORED if is_scored else RatingOutcome.CUT_INSTRUCTION, "", False,
            150, 75, 1,
        )  # fmt: skip

    def _curated(self, stage: Curate) -> Result:
        scored = [pair for pair in self._pairs if pair.score is not None]
        scored.sort(key=lambda pair: (-(pair.score or 0), pair.candidate_id))
        chosen = scored[:NUM_SELECTED]
        web = [
            TrainingExample(
                f"web-{p.candidate_id}", p.instruction, stage.web_tag, p.response, Origin.WEB
            )
            for p in chosen
        ]
        human = self._human(stage, stage.seed_tag, num_web=len(web))
        self._rows(stage, "rows", [*web, *human], TrainingExample)
        figures = {"num_scored": len(scored), "num_segments": len(scored),
                   "num_selected": len(chosen), "lowest_selected_score": chosen[-1].score,
                   "mean_selected_score": 4.6, "mean_score": 3.1}  # fmt: skip
        counts = Counter(row.origin.value for row in (*web, *human))
        return Result(counts.total(), counts, figures)

    def _human(
        self, stage: SeedExamples | Curate, tag: str, num_web: int = 0
    ) -> list[TrainingExample]:
        origins = {Origin.SEED: self.pairs, Origin.SAFETY: self.safety if stage.safety else []}
        pairs = [
            TrainingExample(f"{origin}-{p.pair_id}", p.instruction, tag, p.response, origin)
            for origin, some in origins.items() for p in some
        ]  # fmt: skip
        if stage.ratings is None:
            return pairs
        number = num_repeats(len(self.ratings), num_web + len(pairs), stage.rating_share)
        return [*pairs, *repeated(self.ratings, number)]

    def _seed_examples(self, stage: SeedExamples) -> Result:
        rows = self._human(stage, stage.tag)
        self._rows(stage, "rows", rows, TrainingExample)
        return Result(len(rows), Counter(row.origin.value for row in rows))

    def _safety_seed(self, stage: Stage) -> Result:
        dropped = [DroppedSeed("q9", SeedOutcome.SURPLUS, "How do I harm?")]
        self._rows(stage, "rows", self.safety, SeedPair)
        self._rows(stage, "dropped", dropped, DroppedSeed)
        return Result(6, {"kept": 5, "surplus": 1}, {"share": 0.2})

    def _rating_seed(self, stage: Stage) -> Result:
        self._rows(stage, "rows", self.ratings, TrainingExample)
        self._rows(stage, "dropped", [DroppedSeed("r9", SeedOutcome.NO_GRADE, "Why?")], DroppedSeed)
        return Result(5, {"kept": 4, "no_grade": 1}, {"scores": {"1": 1, "2": 1, "4": 1, "5": 1}})

    def _safety_answers(self, stage: SafetyAnswers) -> Result:
        """The later a model, the more it refuses of both halves."""
        rows = [
            SafetyAnswer(
                f"safety-{half.value}-{n}", half, self._texts.instruction(n), "I cannot help.",
                SafetyOutcome.REFUSED if n < NUM_REFUSED[stage.name, half]
                else SafetyOutcome.EMPTY if n == 9 else SafetyOutcome.ANSWERED, Finish.STOP,
            )
            for half in Expected for n in range(10)
        ]  # fmt: skip
        self._rows(stage, "rows", rows, SafetyAnswer)
        counts = Counter(row.outcome.value for row in rows)
        return Result(20, counts, {**refusals.figures(rows), "engines": self._engines()})

    def _trained(self, stage: Finetune) -> Result:
        num = 1 if "base" in stage.path else 20 + NUM_SELECTED * stage.path.startswith("iter")
        self._metrics(
            stage,
            ({"step": n, "loss": 7 - n / 100, "tokens_per_second": 900.0 + n,
              "peak_memory_gib": 1.2, "mfu": 0.31} for n in range(1, 151)),
        )  # fmt: skip
        figures = {"num_examples": num, "num_steps": 150, "first_loss": 6.99, "last_loss": 5.5,
                   "num_passes": 2.5}  # fmt: skip
        return Result(num, {"trained": num - num // 10, "truncated": num // 10, "dropped": 0},
                      figures)  # fmt: skip

    def _answers(self, model: str) -> list[Evaluated]:
        return [
            Evaluated(f"prompt-{n:05}", TaskKind.ANSWER, "dev", self._texts.instruction(n),
                      f"{model}: {self._texts.answer(n)}", None, 0, Finish.STOP)
            for n in range(24)
        ]  # fmt: skip

    def _other_answers(self, stage: OtherAnswers) -> Result:
        self._rows(stage, "rows", self._answers(stage.name), Evaluated)
        figures = {"num_answers": 24, "mean_answer_characters": 52, "engines": self._engines()}
        return Result(24, {"stop": 24}, figures)

    def _evaluated(self, stage: Evaluate) -> Result:
        answers = self._answers(stage.name)
        losses = [
            Evaluated(f"pair-{n}", TaskKind.LOSS, "held_out", self._texts.instruction(n),
                      self._texts.response(n), LOSSES[stage.name] + n % 5 / 10 + n % 3 / 50, 100,
                      Finish.STOP)
            for n in range(8)
        ]  # fmt: skip
        self._rows(stage, "rows", [*answers, *losses], Evaluated)
        figures = {"num_answers": 24, "mean_answer_characters": 52, "engines": self._engines()}
        return Result(32, {"stop": 32}, figures)
