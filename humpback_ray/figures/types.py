"""Every figure of a run as types: what `report.json` holds, and what page and comparison read.

A figure that a run cannot give is None, and `NotComputed` has the reason. An
interval is of 95%, and `n` beside a figure is the number of things that it is of.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from humpback_ray.evaluation.alpaca_length import AlpacaLength
from humpback_ray.evaluation.estimates import Estimate
from humpback_ray.evaluation.people.results import PeopleResults
from humpback_ray.evaluation.rater_quality import RaterQuality
from humpback_ray.evaluation.refusals import ModelRefusals
from humpback_ray.figures.benchmark_types import BenchmarkFigures
from humpback_ray.figures.diversity_types import (
    DiversityFigures,
    LanguageFigures,
    SourceFigures,
    VerbFigures,
)

MAX_TEXT = 2_000  # characters of a row's text that a report holds
FORMAT = 1  # of report.json; raise it when a name or a meaning changes


@dataclass(frozen=True)
class NotComputed:
    """A figure that this run does not have."""

    what: str
    why: str


@dataclass(frozen=True)
class StageFigures:
    """A stage of the run as its record tells it. An unfinished one has no rows yet."""

    path: str
    kind: str  # empty for a stage that has not begun
    state: str  # done, running, started, to do
    fingerprint: str = ""
    inputs: Mapping[str, str] = field(default_factory=dict)  # path of a stage, or a fingerprint
    version: int | None = None  # of the stage's code that made the result
    version_now: int | None = None  # of this program's code; None: it knows no such stage
    num_rows: int | None = None
    outcomes: Mapping[str, int] = field(default_factory=dict)
    seconds: float | None = None
    finished_at: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    figures: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_of_other_version(self) -> bool:
        """True for a result that this program's code would not make again."""
        return self.version_now is not None and self.version != self.version_now


@dataclass(frozen=True)
class FunnelStep:
    """A step on the way from documents to training examples; the counts add up."""

    name: str
    stage: str  # path of the stage whose record or rows have the counts
    what: str  # the things that come in
    num_in: int
    num_kept: int
    reasons: Mapping[str, int]  # against the others, the most frequent first

    def __post_init__(self) -> None:
        assert self.num_in == self.num_kept + sum(self.reasons.values()), self


@dataclass(frozen=True)
class FactFigures:
    """The number of documents with a fact, whether they are kept or not."""

    fact: str
    value: str
    num_documents: int
    num_all: int  # documents

    @property
    def share(self) -> float:
        return self.num_documents / self.num_all


@dataclass(frozen=True)
class Moments:
    """Mean and standard deviation of a number over rows; None without rows, or with one."""

    n: int
    mean: float | None
    deviation: float | None


@dataclass(frozen=True)
class ScoreFigures:
    """Scores of an iteration's rater."""

    iteration: int
    stage: str
    num_pairs: int
    scores: Moments
    tenths: Mapping[str, int]  # pairs by the first score of a bin that is 0.1 wide
    num_selected: int | None  # None: nothing is selected yet
    lowest_selected: float | None


@dataclass(frozen=True)
class SampleText:
    """The beginning of a text of a row."""

    name: str
    text: str  # at most MAX_TEXT characters
    num_characters: int  # of the whole text


def sample_text(name: str, text: str) -> SampleText:
    """The beginning of a text, however long it is."""
    return SampleText(name, text[:MAX_TEXT], len(text))


@dataclass(frozen=True)
class Selection:
    """A pair in the selection of one iteration or of both, with its scores."""

    candidate_id: str
    instruction: SampleText
    response: SampleText
    before: float | None
    after: float | None


@dataclass(frozen=True)
class OverlapFigures:
    """The selections of two iterations, one after the other."""

    before: int  # number of the iteration
    after: int
    num_both: int
    num_gained: int
    num_lost: int
    both: list[Selection]  # examples, like the next two
    gained: list[Selection]
    lost: list[Selection]


@dataclass(frozen=True)
class ModelLoss:
    """A model's loss on the held-out seed answers, in nats per token."""

    model: str
    loss: Estimate  # n: pairs
    num_tokens: int
    # This model's loss less that of the model before it, on the same pairs.
    change: Estimate | None
    before: str  # that model; empty for the first
    num_answers: int
    mean_answer_characters: float | None


@dataclass(frozen=True)
class TrainingFigures:
    """One training: its loss by step, and its speed."""

    stage: str
    model: str
    num_examples: int | None
    num_steps: int | None
    losses: list[tuple[int, float]]  # (step, mean loss of the steps up to it)
    tokens_per_second: float | None  # median over steps
    peak_memory_gib: float | None
    mfu: float | None


@dataclass(frozen=True)
class GenerationFigures:
    """The work of engines or of an endpoint in one stage, as record and metrics tell it."""

    stage: str
    num_rows: int
    seconds: float
    rows_per_second: float | None
    prompt_tokens: int | None
    generated_tokens: int | None
    prefix_cache_share: float | None
    # Of the engines; None behind an endpoint, and where the record has none.
    num_engines: int | None
    num_restarts: int | None
    start_seconds: float | None
    occupation: float | None  # share of the engines' time at work before the last rows
    tail_seconds: float | None  # from 98% of the rows to the last line of metrics


@dataclass(frozen=True)
class LengthFigures:
    """Lengths in characters, as in the paper's Table 1."""

    name: str
    instructions: Moments
    responses: Moments
    response_bins: Mapping[str, int]  # by the first length of a bin that is 250 wide
    paper: PaperLengths | None


@dataclass(frozen=True)
class PaperLengths:
    """A row of the paper's Table 1: count, and mean and deviation of x and of y."""

    name: str
    n: int
    x_mean: int
    x_deviation: int
    y_mean: int
    y_deviation: int


@dataclass(frozen=True)
class Sample:
    """A row for a person to read."""

    row_id: str
    title: str
    texts: list[SampleText]
    source: str  # URL or file; empty where the row has none


@dataclass(frozen=True)
class SampleFigures:
    """Rows of a stage, drawn by the hash of their ids."""

    stage: str
    how: str
    num_rows: int  # from which they are drawn
    rows: list[Sample]


@dataclass(frozen=True)
class Control:
    """A control of a judge: an answer whose win rate is known beforehand."""

    name: str
    win_rate: float | None
    low: float | None
    high: float | None
    num_prompts: int
    num_judged: int
    passed: bool
    rule: str


@dataclass(frozen=True)
class Game:
    """A model's answers against an opponent's, by a judge. Win rates run from 0 to 100."""

    model: str
    opponent: str
    win_rate: float | None  # None: too few of the prompts are judged
    standard_error: float | None
    low: float | None
    high: float | None
    num_prompts: int
    num_judged: int
    order_disagreement: float | None
    length_controlled_win_rate: float | None
    length_controlled_low: float | None
    length_controlled_high: float | None
    formula: str


@dataclass(frozen=True)
class Strength:
    """A model's strength over all games (Bradley-Terry), the base's being 0."""

    model: str
    strength: float
    low: float | None  # None: one prompt alone says nothing about the others
    high: float | None


@dataclass(frozen=True)
class Difference:
    """The last model's win rate less another's, against one reference and paired by prompt."""

    model: str
    other: str
    difference: float  # in percentage points
    low: float
    high: float
    num_prompts: int  # judged for both


@dataclass(frozen=True)
class JudgeFigures:
    """A judge's figures about the models."""

    stage: str
    judge: str
    verdicts_by: str
    num_prompts: int
    controls: list[Control]
    games: list[Game]
    reference: str  # whose answers every model plays against
    differences: list[Difference]
    strengths: list[Strength]
    smallest_difference: float | None
    # AlpacaEval's own length-controlled win rates; None in records of before there were any.
    alpaca_eval: AlpacaLength | None = None

    @property
    def failed_controls(self) -> list[str]:
        """Names of the controls that the judge fails; its win rates say nothing then."""
        return [control.name for control in self.controls if not control.passed]


@dataclass(frozen=True)
class RaterFigures:
    """The rater of an iteration against labels of people."""

    iteration: int
    stage: str
    selected_from: float | None
    quality: RaterQuality


@dataclass(frozen=True)
class RunFigures:
    """A run in figures."""

    run: str
    folder: str
    state: str
    attempt: int
    recipe: str
    headline: str  # is the last model better? in a sentence or two
    basis: str  # judge, held-out loss, or nothing
    settings: Mapping[str, Any]  # by dotted key
    versions: Mapping[str, list[str]]  # of libraries and of this program; several after an update
    stages: list[StageFigures]
    funnel: list[FunnelStep]
    facts: list[FactFigures]  # of the corpus's documents
    scores: list[ScoreFigures]
    overlaps: list[OverlapFigures]
    losses: list[ModelLoss]
    judges: list[JudgeFigures]
    trainings: list[TrainingFigures]
    generations: list[GenerationFigures]
    lengths: list[LengthFigures]
    diversity: list[DiversityFigures]
    languages: list[LanguageFigures]
    verbs: list[VerbFigures]
    sources: list[SourceFigures]
    raters: list[RaterFigures]
    people: list[PeopleResults]  # one, or none without votes
    benchmarks: list[BenchmarkFigures]  # one, or none without benchmarks
    refusals: list[ModelRefusals]
    samples: list[SampleFigures]
    problems: list[str]  # of records and rows that do not fit together
    not_computed: list[NotComputed]
    format: int = FORMAT
