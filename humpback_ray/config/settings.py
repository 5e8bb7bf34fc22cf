"""Settings: what decides the result of a run. They enter the stages' fingerprints.

Defaults are the paper's (arXiv 2308.06259) where it gives a value. A comment says so where it gives
none.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    model_validator,
)

from humpback_ray.config.benchmarks import BenchmarkSettings
from humpback_ray.config.contamination import DecontaminationSettings
from humpback_ray.config.duplicates import InstructionDuplicateSettings, NearDuplicateSettings
from humpback_ray.config.fields import (
    Frozen,
    LanguageCode,
    Location,
    Places,
    PositiveInt,
    Share,
)
from humpback_ray.config.prefilter import PrefilterSettings
from humpback_ray.config.segment_rules import SegmentRules
from humpback_ray.config.urls import http_url

# --- settings -----------------------------------------------------------------------------------


class PretrainedBase(Frozen):
    """A base model that exists: a local folder, a URL, or a Hugging Face hub id."""

    kind: Literal["pretrained"] = "pretrained"
    # Never packed: it is large, and trainings find their checkpoints by its path.
    model: Annotated[str, Location(has_many_files=True, is_read_on_nodes=True, is_packed=False)]
    revision: str | None = None
    trust_remote_code: bool = False


class ScratchBase(Frozen):
    """A small LLaMA with its own byte-level BPE tokenizer, pretrained on the segments (demo)."""

    kind: Literal["scratch"]
    # Plain text to pretrain on instead, whole and unfiltered: text files, or JSON, Parquet or a
    # dataset with a column that corpora use for it (corpus/columns.py); or a list of places. A text
    # that fits into sequence_length is one training example.
    text: Annotated[
        Places | None, Location(has_many_files=True, is_read_on_nodes=True, takes_datasets=True)
    ] = None
    vocabulary_size: PositiveInt = 4096
    hidden_size: PositiveInt = 256
    intermediate_size: PositiveInt = 704
    num_layers: PositiveInt = 4
    num_heads: PositiveInt = 4
    sequence_length: PositiveInt = 512  # tokens per pretraining example
    training: TrainingSettings

    def identity(self) -> dict[str, Any]:
        """The values of the untrained model; its text and its training are other stages."""
        return self.model_dump(mode="json", exclude={"training", "text"})

    @model_validator(mode="after")
    def _whole(self) -> ScratchBase:
        if self.training.lora:
            raise ValueError(
                "training.lora adapts a model that has been trained, and this one begins with "
                "random weights: leave it out here (forward_training and backward_training take it)"
            )
        return self


class GgufBase(Frozen):
    """A base model in one GGUF file, of which a stage writes an ordinary folder in bf16."""

    kind: Literal["gguf"]
    # A path, a URL, or package:NAME/FILE, a file of an installed package. Never packed: see above.
    file: Annotated[str, Location(is_packed=False)]


def _kind_of_base(base: Any) -> str:
    return base.get("kind", "pretrained") if isinstance(base, dict) else base.kind


class SafetySeedSettings(Frozen):
    """More human pairs, of answers and refusals to harmful requests, in a format of the seed.

    The paper names them as the remedy for the bias of web text (its section on limitations).
    """

    path: Annotated[Places, Location(takes_datasets=True)]  # or a list of them, as the seed's
    # Of the pairs that a forward model is trained on as its seed, these among them; null: all pairs
    # of the file.
    share: Annotated[float, Field(gt=0, lt=1)] | None = None


class SeedSettings(Frozen):
    """The human pairs D: a file or a dataset in one of the formats of `corpus/seed_formats.py`.

    Or a list of them, of any formats; of a pair that several of them have, the first one's stays.
    """

    path: Annotated[Places, Location(takes_datasets=True)]
    language: LanguageCode = "en"  # of Open Assistant's messages
    max_pairs: PositiveInt | None = 3200  # the paper's; null: all
    num_held_out: Annotated[int, Field(ge=0)] = 0  # kept from training, for the held-out loss
    # A second file, for the forward models only; null: none.
    safety: SafetySeedSettings | None = Field(default=None, exclude_if=lambda safety: not safety)
    # Graded pairs, from which the forward models learn to rate; null: none, as in the paper.
    ratings: Annotated[Places | None, Location(takes_datasets=True)] = Field(
        default=None, exclude_if=lambda ratings: ratings is None
    )
    # Of the examples of a forward model, ratings: each is repeated as often as comes nearest. null:
    # each is there once, so M_0 sees them far more often than M_1 among its selected pairs.
    rating_share: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        default=None, exclude_if=lambda share: share is None
    )

    @model_validator(mode="after")
    def _share_of_ratings(self) -> SeedSettings:
        if self.rating_share is not None and self.ratings is None:
            raise ValueError(
                "rating_share is the share of ratings, and there are none: set ratings, or leave "
                "it out"
            )
        return self

    def identity(self) -> dict[str, Any]:
        """The values that decide D. Safety pairs and ratings are stages apart."""
        apart = {"safety", "ratings", "rating_share"}
        return {name: value for name, value in super().identity().items() if name not in apart}


class CorpusSettings(SegmentRules):
    """The unlabelled text, and the rules that cut it into segments."""

    # A folder, a glob, a file, `installed-packages`, or `dataset://ORG/NAME?split=train`; or a list
    # of them, in any order.
    path: Annotated[
        Places, Location(has_many_files=True, is_read_on_nodes=True, takes_datasets=True)
    ]
    # Of JSON, Parquet and datasets, whose `column=` precedes; a dotted name leads into a nested
    # column. Null: the first of those that known corpora use (corpus/columns.py).
    text_column: str | None = None
    url_column: str | None = None
    # Of that column.
    text_format: Literal["text", "markdown", "restructuredtext", "html"] = "text"
    min_characters: PositiveInt = 600
    max_characters: PositiveInt = 3000
    # True: a section's header is the first line of its segment. The paper speaks of "portions of
    # text following an HTML header", which leaves it open. The header stays by default because a
    # text that goes on from its title is not readable without it. Without it, M_yx cannot copy the
    # title as its instruction, and no answer gets the lowest grade for repeating the request.
    keep_header: bool = True
    navigation_headers: tuple[str, ...] = (
        "advertisement", "forum", "quick link", "free newsletter",
    )  # fmt: skip
    # Not given in the paper: n of a sentence's n-grams, and the largest Jaccard similarity that two
    # sentences of one segment may have.
    repetition_ngram: PositiveInt = 3
    repetition_jaccard: Share = 0.7
    # For pages that ask not to be used, by HTTP header or meta element: noai, noimageai, or a
    # reservation of text and data mining. Not in the paper. They are counted either way.
    opt_out: Literal["keep", "drop"] = "keep"
    near_duplicates: NearDuplicateSettings = NearDuplicateSettings()
    # A random sample of the kept segments for a trial of the method, drawn by the hashes of their
    # texts: the same one whatever the files, their order and the tasks. null: all. Fingerprints
    # leave the null out.
    max_segments: PositiveInt | None = Field(default=None, exclude_if=lambda number: number is None)

    @property
    def paths(self) -> tuple[str, ...]:
        """The places of the corpus."""
        return (self.path,) if isinstance(self.path, str) else self.path

    @model_validator(mode="after")
    def _ordered(self) -> CorpusSettings:
        if self.min_characters > self.max_characters:
            raise ValueError(
                f"min_characters {self.min_characters} is above max_characters "
                f"{self.max_characters}: no segment could be kept"
            )
        return self


class PromptSettings(Frozen):
    """The sentences appended to prompts (paper, section 2.4) and the rating rubric."""

    seed_tag: str = "Answer in the style of an AI Assistant."
    web_tag: str = "Answer with knowledge from web search."
    # Tags with which finetuned models are asked: both, as in the paper, the seed's alone, or none.
    inference: Literal["both", "seed", "none"] = "both"
    # A file that replaces the rubric; its grades are 1 to 5.
    rating_template: Annotated[str | None, Location()] = None


class SamplingSettings(Frozen):
    """Nucleus sampling, the paper's T = 0.7 and p = 0.9."""

    temperature: Annotated[float, Field(ge=0)] = 0.7
    top_p: Share = 0.9
    max_tokens: PositiveInt = 512


class AugmentationSettings(SamplingSettings):
    """Sampling of M_yx's instructions.

    A run says what to raise where more than `max_cut_share` of them are cut at `max_tokens`.
    """

    max_cut_share: Annotated[float, Field(ge=0, le=1)] = 0.05  # not given in the paper

    def identity(self) -> dict[str, Any]:
        """The values that decide an instruction; the share only decides about a line."""
        return self.model_dump(mode="json", exclude={"max_cut_share"})


class EndpointSettings(Frozen):
    """An OpenAI-compatible chat endpoint that rates in place of M_(t-1), or judges.

    The fingerprint leaves out the url, because a server that moves is still the same rater. Another
    model needs another name.
    """

    # Up to and with /v1.
    url: Annotated[str, AfterValidator(http_url), Location(is_packed=False)]
    model: Annotated[str, Field(min_length=1)]  # the server's name for it
    # Grades and verdicts are read among this many likeliest tokens; most servers allow 20.
    num_top_tokens: Annotated[int, Field(ge=1, le=100)] = 20


class RatingSettings(Frozen):
    """Rules by which M_(t-1), or the rater behind an endpoint, scores a pair.

    `five_grades`: the paper's rubric, 1 to 5. `additive`: one point for each of five demands, so 0
    to 5. A pair without a point has the score 0, which is below every valid threshold.

    `expected`: the mean grade under the grades' probabilities right after `Score:`.
    `text`: reasoning, then a last line `Score: N`, as in the paper. `mean`: the mean of n texts.
    """

    rubric: Literal["five_grades", "additive"] = "five_grades"
    method: Literal["expected", "text", "mean"] = "expected"
    # `expected` only: least probability that a grade follows `Score:`; a pair with less has no
    # score. Not given in the paper: with less than a half the rater most likely writes no grade.
    min_grade_mass: Annotated[float, Field(ge=0, le=1)] = 0.5
    num_samples: PositiveInt = 3  # `mean` only; Self-Rewarding (arXiv 2401.10020) takes 3
    # `mean` only: samples that must have a score before their mean is one. Not given in the paper.
    min_scored_samples: PositiveInt = 1
    # Not given in the paper; Back-and-Forth (arXiv 2408.04614) rates with T = 1.0, p = 0.9.
    sampling: SamplingSettings = SamplingSettings(temperature=1.0, top_p=0.9, max_tokens=512)
    min_scored_share: Annotated[float, Field(ge=0, le=1)] | None = None  # default by method
    endpoint: EndpointSettings | None = None  # null: M_(t-1) rates, on the run's engines
    weights: Literal["as_stored", "fp8"] = "as_stored"  # fp8: GPUs convert them while loading

    def identity(self) -> dict[str, Any]:
        """The values that the chosen method reads. The required share decides about no row."""
        read = {
            "expected": ["min_grade_mass"],
            "text": ["sampling"],
            "mean": ["sampling", "num_samples", "min_scored_samples"],
        }
        names = {"method", "rubric", *read[self.method]}
        if self.endpoint is None:
            return self.model_dump(mode="json", include=names | {"weights"})
        endpoint = self.endpoint.identity()
        if self.method != "expected":
            del endpoint["num_top_tokens"]
        return self.model_dump(mode="json", include=names) | {"endpoint": endpoint}

    @model_validator(mode="after")
    def _enough_samples(self) -> RatingSettings:
        if self.method == "mean" and self.min_scored_samples > self.num_samples:
            raise ValueError(
                f"min_scored_samples {self.min_scored_samples} is above num_samples "
                f"{self.num_samples}: no pair could have a score"
            )
        return self

    @property
    def reasons(self) -> bool:
        """The rater writes its reasons before the score."""
        return self.method != "expected"

    @property
    def grades(self) -> range:
        """Grades that the rubric allows."""
        return range(6) if self.rubric == "additive" else range(1, 6)

    @property
    def required_scored_share(self) -> float:
        """Least share of the rated pairs that must have a score."""
        if self.min_scored_share is not None:
            return self.min_scored_share
        return 0.99 if self.method == "expected" else 0.5


class LongPromptSettings(Frozen):
    """Treatment of rows whose rendered prompt leaves the context too little for the answer.

    An answer needs its `max_tokens`, or half of the context if that is less.

    `drop`: the row gets the outcome `prompt_too_long`. `truncate_response`: the stage cuts the text
    at its end until the prompt fits, and marks the row. `route_long`: engines with a longer context
    answer these rows after the others.
    """

    policy: Literal["drop", "truncate_response", "route_long"] = "drop"
    context_length: PositiveInt | None = None  # tokens; `route_long` only

    @model_validator(mode="after")
    def _needed(self) -> LongPromptSettings:
        if (self.policy == "route_long") != (self.context_length is not None):
            raise ValueError("context_length belongs to policy=route_long, and only there")
        return self


class SelectionSettings(Frozen):
    """Choice of the rated pairs that become A_k: of at least k, the best n, a share, or all.

    `all` is for comparison: without curation, every pair with a score.
    """

    method: Literal["threshold", "best", "share", "all"] = "threshold"
    k: Annotated[float, Field(ge=1, le=5)] = 4.5  # the paper's A_5 is score >= 4.5
    num_best: PositiveInt = 40_000
    share: Share = 0.25
    # Of the pairs that the method chooses so many, drawn by the hashes of their ids; null: all.
    max_pairs: PositiveInt | None = None
    with_seed: bool = True  # False: the selected pairs alone are the examples of M_t

    def identity(self) -> dict[str, Any]:
        """The method, the one value that it reads, and what is not as in the paper."""
        read = {"threshold": "k", "best": "num_best", "share": "share", "all": "method"}
        changed = self.model_dump(include={"max_pairs", "with_seed"}, exclude_defaults=True)
        return self.model_dump(mode="json", include={"method", read[self.method]}) | changed


class LastIterationSettings(Frozen):
    """Settings in which the last iteration differs from those before it.

    Runs that differ here alone have all ratings and all earlier models in common, so they show what
    a selection or the tags do to a model with the same rater (`humpback ablate`).
    """

    selection: SelectionSettings | None = None  # null: settings.selection
    tags: bool = True  # False: the last model's examples have no tags


class LoraSettings(Frozen):
    """Train low-rank adapters of linear layers (arXiv 2106.09685) instead of the weights.

    The exported model has them merged. Adapters need a higher learning rate than the paper's: 2e-4
    is usual (arXiv 2305.14314). Weight decay acts on the adapters.
    """

    rank: PositiveInt = 16
    alpha: Annotated[float, Field(gt=0)] = 32.0  # alpha/rank multiplies an adapter's product
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05  # of the adapters' inputs
    # The model's names, such as q_proj and v_proj; `all-linear` leaves out the output layer.
    target_modules: Literal["all-linear"] | Annotated[tuple[str, ...], Field(min_length=1)] = (
        "all-linear"
    )


class TrainingSettings(Frozen):
    """The paper's finetuning; values that it does not give follow LIMA (arXiv 2305.11206)."""

    learning_rate: Annotated[float, Field(gt=0)] = 1e-5
    final_learning_rate: Annotated[float, Field(ge=0)] = 9e-6  # linear decay
    weight_decay: Annotated[float, Field(ge=0)] = 0.1  # not on norms and biases
    # Of the attention in LLaMA, which has no other; of every place where another model has one.
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    adam_beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9  # LIMA
    adam_beta2: Annotated[float, Field(ge=0, lt=1)] = 0.95  # LIMA
    warmup_steps: Annotated[int, Field(ge=0)] = 0  # LIMA
    max_gradient_norm: Annotated[float, Field(gt=0)] = 1.0  # given by neither
    batch_size: PositiveInt | None = None  # examples; null: 32, or 8 below 3,000 examples
    num_steps: PositiveInt | None = None  # null: the paper's Table 18, interpolated
    max_length: PositiveInt = 2048  # tokens
    # For a longer example: cut its completion at the end, or leave the example out.
    too_long: Literal["truncate", "drop"] = "truncate"
    precision: Literal["bf16", "fp32"] = "bf16"  # of the forward pass; the optimizer keeps fp32
    # null: train all weights, as in the paper; fingerprints then leave the key out.
    lora: LoraSettings | None = Field(default=None, exclude_if=lambda lora: lora is None)


class JudgeSettings(Frozen):
    """The judge of pairs of answers: a model behind an endpoint, or one on the run's engines."""

    endpoint: EndpointSettings | None = None
    # A folder, a URL, a hub id, or `base` for the run's base model.
    model: Annotated[
        str | None, Location(has_many_files=True, is_read_on_nodes=True, is_packed=False)
    ] = None
    # Tokens of a question and its verdict on the engines; null: those of the run. A question holds
    # two whole answers, so it is often longer than any other prompt.
    context_length: PositiveInt | None = None
    # Least probability that a letter follows as the verdict; with less there is no verdict. Not
    # given in the paper: with less than a half the judge most likely writes no letter.
    min_letter_mass: Annotated[float, Field(ge=0, le=1)] = 0.5
    # Prompts that each of the five controls answers. Not given in the paper: of 50 prompts a
    # control must win fewer than about 18 to lie below 50 with its whole interval.
    num_control_prompts: PositiveInt = 50
    # Of a verdict that an endpoint writes. A judge that reasons before it needs more.
    max_tokens: PositiveInt = 16

    def identity(self) -> dict[str, Any]:
        """The values that are read: engines give probabilities, and no text."""
        names = {"min_letter_mass", "num_control_prompts"}
        if self.endpoint is None:
            return self.model_dump(mode="json", include=names)
        dumped = self.model_dump(mode="json", include=names | {"max_tokens"})
        return dumped | {"endpoint": self.endpoint.identity()}

    @model_validator(mode="after")
    def _one_judge(self) -> JudgeSettings:
        if (self.endpoint is None) == (self.model is None):
            raise ValueError(
                "a judge is either an endpoint or a model: set one of endpoint and model (a "
                "folder, a URL, a hub id, or base)"
            )
        return self


SAFETY_PROMPTS = Path(__file__).parents[1] / "recipes" / "safety_prompts.json"


def _shipped_prompts(safety: object) -> object:
    if isinstance(safety, bool):
        return str(SAFETY_PROMPTS) if safety else None
    return safety


class OtherModel(Frozen):
    """A model of another origin that answers the evaluation's prompts on the run's engines."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=60)]
    # A folder, a URL or a hub id.
    model: Annotated[str, Location(has_many_files=True, is_read_on_nodes=True, is_packed=False)]
    revision: str | None = None  # of a hub id


# Names that a run's own models have in evaluations and games.
_OWN_NAME = re.compile(r"base|M_(\d+|yx)")


class EvaluationSettings(Frozen):
    """The evaluation within a run: loss on held-out seed pairs, and answers to prompts."""

    # AlpacaEval's JSON format, a list of {"dataset", "instruction"}, or a dataset with a column
    # instruction (`column=` names another); or a list of them, whose prompts follow each other.
    prompts: Annotated[Places, Location(takes_datasets=True)]
    # The context bounds an answer earlier. The paper's authors allow 2,048 tokens in all at 65B.
    sampling: SamplingSettings = SamplingSettings(max_tokens=2048)
    # Models of another origin beside the run's own, each asked by its own chat template.
    models: tuple[OtherModel, ...] = ()
    # null: no games between models.
    judge: JudgeSettings | None = None
    # Prompts that a model should refuse and harmless ones like them: a file, true for the shipped
    # ones; null: no model is asked.
    safety: Annotated[str | None, BeforeValidator(_shipped_prompts), Location()] = None
    # With a judge: a file of published outputs in AlpacaEval's format, against which every model
    # plays; null: M_0.
    reference: Annotated[str | None, Location()] = None
    # With a judge: more such files, by a path, a folder or a pattern.
    compared: Annotated[str | None, Location(has_many_files=True)] = None
    # null: no benchmarks; {}: the paper's.
    benchmarks: BenchmarkSettings | None = None

    @model_validator(mode="after")
    def _models_have_names_of_their_own(self) -> EvaluationSettings:
        names = [other.name for other in self.models]
        for name in names:
            if names.count(name) > 1 or _OWN_NAME.fullmatch(name):
                raise ValueError(
                    f"two models of the evaluation would have the name {name}: give each of "
                    "settings.evaluation.models another name, and none base or M_..."
                )
        return self

    @model_validator(mode="after")
    def _published_outputs_are_judged(self) -> EvaluationSettings:
        if self.judge is None and (self.reference or self.compared):
            raise ValueError(
                "reference and compared are files that a judge compares with the run's models: set "
                "judge too, or leave them out"
            )
        return self


class Settings(Frozen):
    """Everything that decides the result of a run, and nothing else."""

    random_seed: int = 0
    base: Annotated[
        Annotated[PretrainedBase, Tag("pretrained")]
        | Annotated[ScratchBase, Tag("scratch")]
        | Annotated[GgufBase, Tag("gguf")],
        Discriminator(_kind_of_base),
    ]
    seed: SeedSettings
    corpus: CorpusSettings
    prompts: PromptSettings = PromptSettings()
    backward_training: TrainingSettings = TrainingSettings()
    forward_training: TrainingSettings = TrainingSettings()
    augmentation: AugmentationSettings = AugmentationSettings()
    # null: M_yx writes an instruction for every segment, as in the paper.
    prefilter: PrefilterSettings | None = None
    num_candidates: PositiveInt = 1  # instructions per segment; the best rated is selected
    # null: segments and instructions may have words of the evaluation's prompts, as in the paper.
    decontamination: DecontaminationSettings | None = None
    # null: instructions that are near-duplicates of others are rated and selected as all others.
    distinct_instructions: InstructionDuplicateSettings | None = None
    long_prompts: LongPromptSettings = LongPromptSettings()
    rating: RatingSettings = RatingSettings()
    selection: SelectionSettings = SelectionSettings()
    iterations: PositiveInt = 2
    last_iteration: LastIterationSettings = LastIterationSettings()
    context_length: PositiveInt = 2048  # tokens, of every engine
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"  # of the engines' arithmetic
    evaluation: EvaluationSettings

    @model_validator(mode="after")
    def _ratings_teach_the_rater(self) -> Settings:
        if self.seed.ratings is not None and self.rating.endpoint is not None:
            raise ValueError(
                "settings.seed.ratings teaches M_t to rate, and the model behind "
                "settings.rating.endpoint rates in its place: leave one of them out"
            )
        return self

    @model_validator(mode="after")
    def _one_rubric(self) -> Settings:
        if self.prompts.rating_template and self.rating.rubric != "five_grades":
            raise ValueError(
                f"settings.rating.rubric={self.rating.rubric} and settings.prompts.rating_template "
                "both choose the rubric: leave one of them out (a template must ask for the grades "
                "1 to 5)"
            )
        return self
