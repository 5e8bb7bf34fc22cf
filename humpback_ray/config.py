"""Recipes: what decides the result (settings) and where and how it runs (placement).

Only settings enter a stage's fingerprint. Changing placement never changes which rows come out or
which examples a training step sees. Importing this module loads neither torch nor vllm nor ray.

Defaults are the paper's (arXiv 2308.06259) where it gives a value. A comment says so where the
value is ours because the paper gives none.
"""

from __future__ import annotations

import difflib
import re
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

PositiveInt = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(gt=0, le=1)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


# --- settings -----------------------------------------------------------------------------------


class PretrainedBase(_Frozen):
    """A base model that exists: a local folder, a URL, or a Hugging Face hub id."""

    kind: Literal["pretrained"] = "pretrained"
    model: str
    revision: str | None = None
    trust_remote_code: bool = False


class ScratchBase(_Frozen):
    """A small LLaMA with its own byte-level BPE tokenizer, pretrained on the segments (demo)."""

    kind: Literal["scratch"]
    vocabulary_size: PositiveInt = 4096
    hidden_size: PositiveInt = 256
    intermediate_size: PositiveInt = 704
    num_layers: PositiveInt = 4
    num_heads: PositiveInt = 4
    sequence_length: PositiveInt = 512  # tokens per pretraining example
    training: TrainingSettings

    @model_validator(mode="after")
    def _whole(self) -> ScratchBase:
        if self.training.lora:
            raise ValueError(
                "training.lora adapts a model that has been trained, and this one begins with "
                "random weights: leave it out here (forward_training and backward_training take it)"
            )
        return self


def _kind_of_base(base: Any) -> str:
    return base.get("kind", "pretrained") if isinstance(base, dict) else base.kind


class SeedSettings(_Frozen):
    """The human pairs D: an Open Assistant export of message rows (JSONL, .jsonl.gz or Parquet)."""

    path: str
    language: str = "en"
    max_pairs: PositiveInt | None = None  # the paper keeps 3,200
    num_held_out: Annotated[int, Field(ge=0)] = 0  # kept from training, for the held-out loss


class CorpusSettings(_Frozen):
    """The unlabelled text and the rules by which it is cut into segments."""

    path: str  # folder, glob, file, or `installed-packages`
    text_column: str = "text"  # of JSONL and Parquet files
    text_format: Literal["text", "markdown", "html"] = "text"  # of that column
    url_column: str | None = None  # of JSONL and Parquet files
    min_characters: PositiveInt = 600
    max_characters: PositiveInt = 3000
    navigation_headers: tuple[str, ...] = (
        "advertisement", "forum", "quick link", "free newsletter",
    )  # fmt: skip
    # Not given in the paper: how alike two sentences of a segment may be, and n of the n-grams.
    repetition_ngram: PositiveInt = 3
    repetition_jaccard: Share = 0.7
    # Not given in the paper: near-duplicates between documents. A word 5-gram Jaccard of 0.8 is
    # what large corpora commonly use.
    near_duplicate_ngram: PositiveInt = 5
    near_duplicate_jaccard: Share = 0.8
    num_permutations: PositiveInt = 128

    @model_validator(mode="after")
    def _ordered(self) -> CorpusSettings:
        if self.min_characters > self.max_characters:
            raise ValueError(
                f"min_characters {self.min_characters} is above max_characters "
                f"{self.max_characters}: no segment could be kept"
            )
        return self


class PromptSettings(_Frozen):
    """The sentences appended to prompts (paper, section 2.4) and the rating rubric."""

    seed_tag: str = "Answer in the style of an AI Assistant."
    web_tag: str = "Answer with knowledge from web search."
    rating_template: str | None = None  # file that replaces the rubric; its grades are 1 to 5


class SamplingSettings(_Frozen):
    """Nucleus sampling, the paper's T = 0.7 and p = 0.9."""

    temperature: Annotated[float, Field(ge=0)] = 0.7
    top_p: Share = 0.9
    max_tokens: PositiveInt = 512


class EndpointSettings(_Frozen):
    """A rater served elsewhere, in place of M_(t-1): an OpenAI-compatible chat endpoint.

    As with other locations, what counts is not where it is: a server that has moved is the same
    rater, so the url is left out of the fingerprint, and another model needs another name.
    """

    url: Annotated[str, Field(pattern=r"^https?://")]  # up to and with /v1
    model: Annotated[str, Field(min_length=1)]  # as the server names it
    # `expected` reads the grades among this many likeliest tokens; most servers allow 20.
    num_top_tokens: Annotated[int, Field(ge=1, le=100)] = 20


class RatingSettings(_Frozen):
    """How M_(t-1), or the rater behind an endpoint, scores a pair.

    `five_grades`: the paper's, 1 to 5. `additive`: a point for each of five demands, so 0 to 5. A
    pair without a point has the score 0, below every threshold that can be set.

    `expected`: the mean grade under the grades' probabilities right after `Score:`.
    `text`: reasoning, then a last line `Score: N`, the paper's way. `mean`: the mean of n of those.
    """

    rubric: Literal["five_grades", "additive"] = "five_grades"
    method: Literal["expected", "text", "mean"] = "expected"
    num_samples: PositiveInt = 3  # `mean` only; Self-Rewarding (arXiv 2401.10020) takes 3
    # Not given in the paper; Back-and-Forth (arXiv 2408.04614) rates with T = 1.0, p = 0.9.
    sampling: SamplingSettings = SamplingSettings(temperature=1.0, top_p=0.9, max_tokens=512)
    min_scored_share: Annotated[float, Field(ge=0, le=1)] | None = None  # default by method
    endpoint: EndpointSettings | None = None  # null: the rater is M_(t-1), on our own engines
    weights: Literal["as_stored", "fp8"] = "as_stored"  # fp8: made at loading, on GPUs

    @property
    def grades(self) -> range:
        """What the rubric lets the rater give."""
        return range(6) if self.rubric == "additive" else range(1, 6)

    @property
    def required_scored_share(self) -> float:
        """Share of the pairs put to the rater that must come back with a score."""
        if self.min_scored_share is not None:
            return self.min_scored_share
        return 0.99 if self.method == "expected" else 0.5


class LongPromptSettings(_Frozen):
    """What becomes of rows whose rendered prompt leaves no room for an answer in the context.

    `drop`: a row with the outcome `prompt_too_long`. `truncate_response`: the text is cut at its
    end until the prompt fits, and the row says so. `route_long`: engines with a longer context
    answer these rows after the others.
    """

    policy: Literal["drop", "truncate_response", "route_long"] = "drop"
    context_length: PositiveInt | None = None  # tokens; `route_long` only

    @model_validator(mode="after")
    def _needed(self) -> LongPromptSettings:
        if (self.policy == "route_long") != (self.context_length is not None):
            raise ValueError("context_length belongs to policy=route_long, and only there")
        return self


class SelectionSettings(_Frozen):
    """Which rated pairs become A_k: all of at least k, the best n, or the best share."""

    method: Literal["threshold", "best", "share"] = "threshold"
    k: Annotated[float, Field(ge=1, le=5)] = 4.5  # the paper's A_5 is score >= 4.5
    num_best: PositiveInt = 40_000
    share: Share = 0.25


class LoraSettings(_Frozen):
    """Train low-rank adapters of linear layers (arXiv 2106.09685) instead of the weights.

    The exported model has them merged. They want a higher learning rate than the paper's: 2e-4 is
    usual (arXiv 2305.14314). Weight decay acts on the adapters.
    """

    rank: PositiveInt = 16
    alpha: Annotated[float, Field(gt=0)] = 32.0  # an adapter's product is multiplied by alpha/rank
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.05  # of the adapters' inputs
    # Names as in the model, such as q_proj and v_proj, or all linear layers but the output layer.
    target_modules: Literal["all-linear"] | Annotated[tuple[str, ...], Field(min_length=1)] = (
        "all-linear"
    )


class TrainingSettings(_Frozen):
    """The paper's finetuning; what it does not give follows LIMA (arXiv 2305.11206)."""

    learning_rate: Annotated[float, Field(gt=0)] = 1e-5
    final_learning_rate: Annotated[float, Field(ge=0)] = 9e-6  # reached linearly
    weight_decay: Annotated[float, Field(ge=0)] = 0.1  # not on norms and biases
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1  # attention; LLaMA has no other
    adam_beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9  # LIMA
    adam_beta2: Annotated[float, Field(ge=0, lt=1)] = 0.95  # LIMA
    warmup_steps: Annotated[int, Field(ge=0)] = 0  # LIMA
    max_gradient_norm: Annotated[float, Field(gt=0)] = 1.0  # ours
    batch_size: PositiveInt | None = None  # examples; null: 32, or 8 below 3,000 examples
    num_steps: PositiveInt | None = None  # null: the paper's Table 18, interpolated
    max_length: PositiveInt = 2048  # tokens
    # An example that is longer: its completion is cut at its end, or the example is left out.
    too_long: Literal["truncate", "drop"] = "truncate"
    precision: Literal["bf16", "fp32"] = "bf16"  # of the forward pass; the optimizer keeps fp32
    # null: all weights are trained, as in the paper. Left out of fingerprints then, which are as
    # old as the first runs.
    lora: LoraSettings | None = Field(default=None, exclude_if=lambda lora: lora is None)


class EvaluationSettings(_Frozen):
    """The small evaluation of a run: held-out seed loss, and answers to prompts."""

    prompts: str  # AlpacaEval's JSON format: a list of {"dataset", "instruction"}
    sampling: SamplingSettings = SamplingSettings(max_tokens=512)


class Settings(_Frozen):
    """Everything that decides the result of a run, and nothing else."""

    random_seed: int = 0
    base: Annotated[
        Annotated[PretrainedBase, Tag("pretrained")] | Annotated[ScratchBase, Tag("scratch")],
        Discriminator(_kind_of_base),
    ]
    seed: SeedSettings
    corpus: CorpusSettings
    prompts: PromptSettings = PromptSettings()
    backward_training: TrainingSettings = TrainingSettings()
    forward_training: TrainingSettings = TrainingSettings()
    augmentation: SamplingSettings = SamplingSettings()
    num_candidates: PositiveInt = 1  # instructions per segment; the best rated is selected
    long_prompts: LongPromptSettings = LongPromptSettings()
    rating: RatingSettings = RatingSettings()
    selection: SelectionSettings = SelectionSettings()
    iterations: PositiveInt = 2
    context_length: PositiveInt = 2048  # tokens, of every engine
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = "auto"  # of the engines' arithmetic
    evaluation: EvaluationSettings

    @model_validator(mode="after")
    def _one_rubric(self) -> Settings:
        if self.prompts.rating_template and self.rating.rubric != "five_grades":
            raise ValueError(
                f"settings.rating.rubric={self.rating.rubric} and settings.prompts.rating_template "
                "both say what is rated by: leave one of them out (a template of yours is for the "
                "grades 1 to 5)"
            )
        return self


# --- placement ----------------------------------------------------------------------------------


class ClusterPlacement(_Frozen):
    """The Ray cluster: `RAY_ADDRESS` or `address` joins one, otherwise one is started here."""

    address: str | None = None
    local_cpus: PositiveInt = 8  # logical CPUs of the cluster started here
    autoscaling: bool = False  # nodes come when engines ask for them: wait instead of refusing


class EnginePlacement(_Frozen):
    """One pool of vLLM engines, shared by augmentation, rating and evaluation."""

    device: Literal["cpu", "gpu"] = "gpu"
    min_engines: PositiveInt = 1
    max_engines: PositiveInt = 1
    tensor_parallel_size: PositiveInt = 1
    pipeline_parallel_size: PositiveInt = 1
    accelerator_type: str | None = None  # as Ray names it: A100, H100, ...
    enforce_eager: bool = False
    max_num_seqs: PositiveInt | None = None  # null: vLLM's default for the device
    gpu_memory_utilization: Share = 0.9
    cpu_kv_cache_gib: PositiveInt = 1
    # Rate the first iteration while the candidates come, each on a pool of this many engines.
    one_stream: bool = False
    across_nodes: bool = False  # let one engine's devices lie on several nodes
    rows_per_batch: PositiveInt = 256  # one task and one file: what a killed engine does again
    max_concurrent_batches: PositiveInt = 4  # in one engine at a time
    max_restarts: Annotated[int, Field(ge=0)] = 10  # of engines, with no batch finished between
    # An engine that holds rows and has not run its model for so long is ended and started again.
    stall_seconds: Annotated[float, Field(gt=0)] = 300.0
    # So long may an engine take to start, with a model that is fetched and compiled.
    start_seconds: Annotated[float, Field(gt=0)] = 1800.0

    @model_validator(mode="after")
    def _ordered(self) -> EnginePlacement:
        if self.min_engines > self.max_engines:
            raise ValueError(
                f"min_engines {self.min_engines} is above max_engines {self.max_engines}"
            )
        return self


class TrainingPlacement(_Frozen):
    """Ray Train workers and DeepSpeed ZeRO. None of it changes which examples a step sees."""

    device: Literal["cpu", "gpu"] = "gpu"
    num_workers: PositiveInt = 8
    # Go on with as few as this when nodes are lost, and with more again when they are back.
    min_workers: PositiveInt | None = None  # null: always num_workers
    cpus_per_worker: PositiveInt = 1
    accelerator_type: str | None = None
    zero_stage: Literal[1, 2, 3] | None = None  # null: the lowest that fits
    offload_optimizer: Literal["cpu", "nvme"] | None = None
    offload_parameters: Literal["cpu", "nvme"] | None = None  # ZeRO-3 only
    nvme_path: str | None = None  # a folder on each node's own disk
    # Tokens of one forward pass of one worker; null: as many as fit. Never below one example.
    micro_batch_tokens: PositiveInt | None = None
    # Examples one after the other in a row, without padding; false: for a model that mixes them.
    packing: bool = True
    gradient_checkpointing: bool = False
    # liger: fused kernels for norms, rotary embeddings and MLPs, on GPUs, from the `gpu` extra.
    kernels: Literal["torch", "liger"] = "torch"
    checkpoint_every: PositiveInt = 100  # steps
    max_failures: Annotated[int, Field(ge=0)] = 3  # restarts of the worker group

    @model_validator(mode="after")
    def _gpu_kernels(self) -> TrainingPlacement:
        if self.kernels == "liger" and self.device == "cpu":
            raise ValueError(
                "Liger's kernels are for GPUs: set placement.training.kernels to torch, or "
                "placement.training.device to gpu"
            )
        return self

    @model_validator(mode="after")
    def _offload(self) -> TrainingPlacement:
        if self.offload_parameters and self.zero_stage not in (None, 3):
            raise ValueError(
                f"offload_parameters is set with zero_stage {self.zero_stage}, which does not "
                "partition parameters: set placement.training.zero_stage to 3"
            )
        uses_nvme = "nvme" in (self.offload_optimizer, self.offload_parameters)
        if uses_nvme != (self.nvme_path is not None):
            raise ValueError(
                "placement.training.nvme_path belongs to an offload to nvme, and only there"
            )
        if self.min_workers is not None and self.min_workers > self.num_workers:
            raise ValueError(
                f"min_workers {self.min_workers} is above num_workers {self.num_workers}"
            )
        return self


class EndpointPlacement(_Frozen):
    """How requests go to `settings.rating.endpoint`: from one process, at one rate."""

    # Name of the environment variable that holds the key, where the run is started. Never the key.
    api_key_variable: str | None = None
    requests_per_second: Annotated[float, Field(gt=0)] | None = None  # retries too; null: no limit
    max_in_flight: PositiveInt = 64  # requests
    timeout_seconds: Annotated[float, Field(gt=0)] = 300.0  # of one request
    max_retries: Annotated[int, Field(ge=0)] = 5  # of one row
    first_retry_seconds: Annotated[float, Field(gt=0)] = 1.0  # doubled for each further retry
    max_failures_in_a_row: PositiveInt = 200  # rows; then the run stops, because the server is gone

    @field_validator("api_key_variable")
    @classmethod
    def _is_a_name(cls, name: str | None) -> str | None:
        # The value is not shown: somebody may have written the key itself here.
        if name is not None and not re.fullmatch(r"[A-Z_][A-Z0-9_]*", name):
            raise ValueError(
                "the name of an environment variable is wanted, such as OPENAI_API_KEY, never the "
                "key itself: export the key under that name and write the name here"
            )
        return name


class Placement(_Frozen):
    """Where and how a run executes. Never part of a fingerprint."""

    cluster: ClusterPlacement = ClusterPlacement()
    engine: EnginePlacement = EnginePlacement()
    training: TrainingPlacement = TrainingPlacement()
    endpoint: EndpointPlacement = EndpointPlacement()


class Recipe(_Frozen):
    """A named pair of settings and placement: one YAML file."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
    description: str = ""
    settings: Settings
    placement: Placement = Placement()

    @model_validator(mode="after")
    def _one_stream(self) -> Recipe:
        policy, method = self.settings.long_prompts.policy, self.settings.rating.method
        if self.placement.engine.one_stream and (policy == "route_long" or method == "mean"):
            raise ValueError(
                "placement.engine.one_stream asks about each candidate once, as it comes: it goes "
                "neither with long_prompts.policy=route_long nor with rating.method=mean"
            )
        return self

    @model_validator(mode="after")
    def _batches_divide(self) -> Recipe:
        workers = self.placement.training.num_workers
        trainings = [self.settings.backward_training, self.settings.forward_training]
        if isinstance(self.settings.base, ScratchBase):
            trainings.append(self.settings.base.training)
        for training in trainings:
            # Below 3,000 examples a null batch is 8: that is known, and checked, at run time.
            batch = training.batch_size or 32
            if batch % workers:
                raise ValueError(
                    f"a batch of {batch} examples does not divide among {workers} training "
                    f"workers: set placement.training.num_workers to a divisor of {batch}, "
                    f"or the batch_size of the training to a multiple of {workers}"
                )
        return self


# --- loading ------------------------------------------------------------------------------------


def recipe_names() -> list[str]:
    """Names of the recipes shipped with the package."""
    folder = resources.files("humpback_ray") / "recipes"
    return sorted(
        p.name.removesuffix(".yaml") for p in folder.iterdir() if p.name.endswith(".yaml")
    )


def load_recipe(name_or_path: str, overrides: list[str] | None = None) -> Recipe:
    """Load a shipped recipe by name or a YAML file by path, with `a.b=c` overrides applied.

    File paths inside the recipe that exist neither from the working folder nor as a URL are looked
    up beside the recipe file, so that a recipe and its data can travel together.

    Raises:
        ValueError: unknown recipe, unknown key (with the nearest valid one), wrong type or value.
    """
    path = _find_recipe(name_or_path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"recipe {path} is not YAML: {_one_line(error)}") from error
    if not isinstance(content, dict):
        raise ValueError(f"recipe {path} must be a mapping with name, settings and placement")
    for override in overrides or []:
        _apply_override(content, override)
    try:
        recipe = Recipe.model_validate(content)
    except ValidationError as error:
        raise ValueError(f"recipe {name_or_path}: {_explain(error)}") from error
    return _resolve_shipped_files(recipe, path.parent)


def _find_recipe(name_or_path: str) -> Path:
    if name_or_path in recipe_names():
        return Path(str(resources.files("humpback_ray") / "recipes" / f"{name_or_path}.yaml"))
    path = Path(name_or_path)
    if path.is_file():
        return path
    hint = _nearest(name_or_path, recipe_names())
    raise ValueError(
        f"no recipe {name_or_path!r}: it is neither a YAML file nor one of "
        f"{', '.join(recipe_names())}{hint}"
    )


def _apply_override(content: dict[str, Any], override: str) -> None:
    keys, separator, value = override.partition("=")
    if not separator or not all(keys.split(".")):
        raise ValueError(f"--set takes a.b=c, not {override!r}")
    *parents, last = keys.split(".")
    node = content
    for key in parents:
        child = node.setdefault(key, {})
        if not isinstance(child, dict):
            raise ValueError(f"--set {override}: {key!r} is a value, not a section")
        # A YAML anchor makes one section of two: only the one that is named may change.
        node[key] = node = dict(child)
    try:
        node[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ValueError(f"--set {override}: {_one_line(error)}") from error


def _resolve_shipped_files(recipe: Recipe, folder: Path) -> Recipe:
    settings = recipe.settings

    def resolve(value: str) -> str:
        if "://" in value or Path(value).exists() or not (folder / value).exists():
            return value
        return str(folder / value)

    template = settings.prompts.rating_template
    changes: dict[str, Any] = {
        "seed": settings.seed.model_copy(update={"path": resolve(settings.seed.path)}),
        "corpus": settings.corpus.model_copy(update={"path": resolve(settings.corpus.path)}),
        "evaluation": settings.evaluation.model_copy(
            update={"prompts": resolve(settings.evaluation.prompts)}
        ),
        "prompts": settings.prompts.model_copy(
            update={"rating_template": resolve(template) if template else None}
        ),
    }
    return recipe.model_copy(update={"settings": settings.model_copy(update=changes)})


def _explain(error: ValidationError) -> str:
    """One line: every wrong key with its rule, and the nearest valid key for a misspelt one."""
    problems = []
    for problem in error.errors():
        where = ".".join(str(p) for p in problem["loc"] if p not in ("pretrained", "scratch"))
        if problem["type"] == "extra_forbidden":
            parent, _, key = where.rpartition(".")
            problems.append(f"unknown key {where}{_nearest(key, _keys_of(parent))}")
        elif problem["type"] == "missing":
            problems.append(f"{where} is missing")
        else:
            value = f" (it is {problem['input']!r})" if problem["type"] != "value_error" else ""
            rule = problem["msg"].removeprefix("Value error, ")
            problems.append(f"{where}: {rule}{value}".removeprefix(": "))
    return "; ".join(problems)


def _keys_of(section: str) -> list[str]:
    """Valid keys of a dotted section of a recipe."""
    models: list[type[BaseModel]] = [Recipe]
    for part in filter(None, section.split(".")):
        models = [m for model in models if part in model.model_fields
                  for m in _models_in(model.model_fields[part].annotation)]  # fmt: skip
    return [key for model in models for key in model.model_fields]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for part in getattr(annotation, "__args__", ()) for m in _models_in(part)]


def _nearest(word: str, valid: list[str]) -> str:
    close = difflib.get_close_matches(word, valid, n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else f" (valid: {', '.join(valid)})"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
