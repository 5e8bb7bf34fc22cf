"""Estimates of a run before paying: the layout that fits on given GPUs, and its hours.

Arithmetic over published architectures and data sheets, without a GPU, torch, Ray or vLLM. Units
are bytes, tokens and seconds unless a name says otherwise; GiB is 2**30 bytes, GB is 10**9.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from humpback_ray.config.recipe import Recipe
from humpback_ray.config.settings import SelectionSettings
from humpback_ray.errors import UserError
from humpback_ray.evaluation.judging import CONTROLS
from humpback_ray.evaluation.published import num_outputs
from humpback_ray.execution.stage import Source, Stage, StageRecord
from humpback_ray.method import prompts
from humpback_ray.method.schedule import schedule
from humpback_ray.planning.benchmark_work import benchmark_work
from humpback_ray.rows import Direction, SegmentOutcome
from humpback_ray.sizing.architecture import Architecture, architecture_of
from humpback_ray.sizing.hardware import GIB, Hardware
from humpback_ray.sizing.memory import ENGINE_WORKSPACE, fit_training, gib, smallest_engine
from humpback_ray.sizing.time import GenerationWork, generation_seconds, step_seconds
from humpback_ray.stages.augment import Augment
from humpback_ray.stages.base import BaseExamples
from humpback_ray.stages.benchmark import Benchmark
from humpback_ray.stages.curate import Curate
from humpback_ray.stages.examples import SeedExamples
from humpback_ray.stages.finetune import Finetune
from humpback_ray.stages.generating import GeneratingStage
from humpback_ray.stages.judge import Judge
from humpback_ray.stages.prefilter import PromisingSegments, SampledSegments
from humpback_ray.stages.rate import Rate
from humpback_ray.stages.safety_answers import SafetyAnswers
from humpback_ray.stages.segments import Segments

SomeStage = TypeVar("SomeStage", bound=Stage)

# For starting engines or workers, reading weights and writing the result; a guess.
STAGE_START_HOURS = 0.1

# --- the paper's rows, for a run that has none yet ------------------------------------------------

NUM_SEGMENTS = 502_133
NUM_SEED_PAIRS = 3_200
NUM_EVALUATION_PROMPTS = 805  # AlpacaEval
NUM_SAFETY_PROMPTS = 40  # the shipped ones
SELECTED_SHARE = {4.5: 41_821 / NUM_SEGMENTS, 4.0: 195_043 / NUM_SEGMENTS}  # A_5^(2), A_4^(2)
# Mean characters of instruction and response (paper, Table 1).
SEED_CHARACTERS = 148 + 1072
SELECTED_CHARACTERS = 115 + 1663
CANDIDATE_CHARACTERS = (352, 1722)
PROMPT_CHARACTERS_PER_TOKEN = 4  # of the method's own prompts; LLaMA's tokenizer gives 3.98
TEMPLATE_TOKENS = 70  # turn markers, tags and the backward request
RATIONALE_TOKENS = 150  # a guess, like the next one
ANSWER_TOKENS = 400  # of an evaluation


# --- a recipe's stages ----------------------------------------------------------------------------


@dataclass(frozen=True)
class StageEstimate:
    """One stage's estimate for a person. A stage that does not fit has no hours."""

    path: str
    fits: str
    layout: str
    hours: float | None


@dataclass(frozen=True)
class RunEstimate:
    """The stages of a run that use GPUs, in order."""

    stages: list[StageEstimate]
    note: str = ""  # on the use of a probe's result, and on a filter before augmentation


def estimate_stages(
    recipe: Recipe,
    stages: Sequence[Stage],
    records: Mapping[str, StageRecord],
    hardware: Hardware,
    num_rows: int | None = None,
) -> list[StageEstimate]:
    """Estimate every stage that runs on GPUs, in order.

    Args:
        stages: all of the recipe, in the order in which they run.
        records: records of the finished stages by path. A finished stage costs nothing, and its
            number of rows replaces the paper's.
        num_rows: number of segments; replaces the run's or the paper's.

    Raises:
        UserError: the base model's architecture is not known, or there are no rows.
    """
    if num_rows is not None and num_rows < 1:
        raise UserError(f"--rows {num_rows}: at least one segment is needed")
    architecture = architecture_of(recipe)
    estimator = _Estimator(recipe, stages, architecture, records, hardware, num_rows)
    return [
        StageEstimate(stage.path, "done", "-", 0.0)
        if stage.path in records
        else estimator.stage(stage)
        for stage in stages
        if isinstance(stage, GeneratingStage | Finetune | Benchmark)
    ]


def filter_note(
    stages: Sequence[Stage], records: Mapping[str, StageRecord], num_rows: int | None = None
) -> str:
    """The costs and savings of the filter before augmentation in one line; empty without one."""
    promising = next((stage for stage in stages if isinstance(stage, PromisingSegments)), None)
    if promising is None:
        return ""
    num_segments = num_segments_of(stages, records, num_rows)
    num_asked = [
        num_segments_read(each, num_segments) for each in stages if isinstance(each, Augment)
    ]
    line = (
        f"settings.prefilter: engines see {num_asked[0]:,} segments of a sample and "
        f"{num_asked[1]:,} promising ones in place of {num_segments:,}; selections are estimated "
        f"as if the cut were random. See {promising.model.path} for its recall"
    )
    if sum(num_asked) >= num_segments:
        line += ". It costs more than it saves: lower num_rated and share, or leave it out"
    return line


def num_segments_of(
    stages: Sequence[Stage], records: Mapping[str, StageRecord], num_rows: int | None
) -> int:
    """Number of a run's segments: as asked for, else those that are there, else the paper's."""
    segments = next(stage for stage in stages if isinstance(stage, Segments))
    record = records.get(segments.path)
    kept = record.outcomes.get(SegmentOutcome.KEPT.value) if record else None
    return num_rows or kept or NUM_SEGMENTS


def seed_model(stages: Sequence[Stage]) -> tuple[Finetune, SeedExamples]:
    """M_0, the model that is trained on the seed pairs as they are, and its examples."""
    return next(
        (stage, stage.examples)
        for stage in stages
        if isinstance(stage, Finetune)
        and isinstance(stage.examples, SeedExamples)
        and stage.examples.direction is Direction.FORWARD
    )


@dataclass(frozen=True)
class _Estimator:
    recipe: Recipe
    stages: Sequence[Stage]
    architecture: Architecture
    records: Mapping[str, StageRecord]
    hardware: Hardware
    num_rows: int | None

    def stage(self, stage: GeneratingStage | Finetune | Benchmark) -> StageEstimate:
        return self.training(stage) if isinstance(stage, Finetune) else self.generation(stage)

    def generation(self, stage: GeneratingStage | Benchmark) -> StageEstimate:
        engine = self.recipe.placement.engine
        if isinstance(stage, Benchmark) and self.recipe.placement.benchmarks.backend == "hf":
            fits = "not estimated: lm-eval's hf backend; try it with benchmarks.limit"
            return StageEstimate(stage.path, fits, "1 GPU", 0.0)
        if not stage.uses_engines:
            verb = "judged" if isinstance(stage, Judge) else "rated"
            return StageEstimate(stage.path, f"{verb} elsewhere, at the endpoint's price", "-", 0.0)
        is_fp8 = isinstance(stage, Rate) and stage.settings.weights == "fp8"
        dtype = "fp8" if is_fp8 else stage.dtype
        fit = smallest_engine(
            self.architecture, self.hardware, dtype=dtype,
            context_length=stage.context_length,
            gpu_memory_utilization=engine.gpu_memory_utilization,
        )  # fmt: skip
        hardware = self.hardware
        if fit.num_kv_tokens < stage.context_length:
            layout = f"an engine on {fit.num_gpus} GPUs"
            return self.too_large(stage, layout, fit.weight_bytes + ENGINE_WORKSPACE)
        num_engines = hardware.gpus_per_node // fit.tensor_parallel_size
        num_engines *= hardware.num_nodes // fit.pipeline_parallel_size
        if isinstance(stage, Benchmark):
            num_engines = 1  # one process of lm-eval
        seconds = generation_seconds(
            self.architecture, hardware.gpu, fit, num_engines=num_engines,
            work=self.work(stage), dtype=dtype,
            max_sequences=engine.max_num_seqs,
        )  # fmt: skip
        pipeline = fit.pipeline_parallel_size
        sequences = fit.num_kv_tokens // stage.context_length
        return StageEstimate(
            stage.path,
            f"weights {fit.weight_bytes / GIB:.1f} + KV {fit.kv_bytes / GIB:.1f} of "
            f"{hardware.gpu.memory_gib} GiB; {sequences} x {stage.context_length} tokens",
            f"{num_engines} engines x TP{fit.tensor_parallel_size}"
            + (f" PP{pipeline}" if pipeline > 1 else ""),
            seconds / 3600 + STAGE_START_HOURS,
        )

    def training(self, stage: Finetune) -> StageEstimate:
        settings = stage.settings
        num_examples, tokens = self.examples(stage)
        batch_size, num_steps = schedule(num_examples, settings)
        checkpointing = self.recipe.placement.training.gradient_checkpointing
        fit = fit_training(
            self.architecture, self.hardware, batch_size=batch_size,
            max_length=settings.max_length, gradient_checkpointing=checkpointing,
            lora=settings.lora,
        )  # fmt: skip
        if fit.needed_bytes > self.hardware.gpu.memory:
            layout = f"ZeRO-{fit.zero_stage} of batches of {batch_size} on {fit.num_workers} GPUs"
            return self.too_large(stage, layout, fit.needed_bytes)
        length = min(tokens, settings.max_length)
        step = step_seconds(
            self.architecture, self.hardware, fit, batch_size=batch_size,
            sequence_length=length, lora=settings.lora,
        )  # fmt: skip
        return StageEstimate(
            stage.path,
            f"states {fit.state_bytes / GIB:.1f} + activations {fit.activation_bytes / GIB:.1f} "
            f"of {self.hardware.gpu.memory_gib} GiB",
            f"ZeRO-{fit.zero_stage} x {fit.num_workers} GPUs, micro-batch "
            f"{fit.micro_batch_size * settings.max_length:,} tokens, {num_steps} steps, "
            f"{batch_size * length / step:,.0f} tokens/s",
            num_steps * step / 3600 + STAGE_START_HOURS,
        )

    def too_large(self, stage: Stage, layout: str, num_bytes: float) -> StageEstimate:
        fits = (
            f"does not fit: {layout} needs {gib(num_bytes)} of {self.hardware.gpu.memory_gib} GiB"
        )
        return StageEstimate(stage.path, fits, "-", None)

    def num_segments(self) -> int:
        return num_segments_of(self.stages, self.records, self.num_rows)

    def num_candidates(self, stage: Stage) -> int:
        """Number of candidates that a stage writes or reads; all stages that drop some drop few."""
        augment = first_origin(stage, Augment)
        return num_segments_read(augment, self.num_segments()) * augment.num_candidates

    def work(self, stage: GeneratingStage | Benchmark) -> GenerationWork:
        if isinstance(stage, Benchmark):
            return benchmark_work(stage.settings)
        instruction, response = (
            n / self.architecture.characters_per_token for n in CANDIDATE_CHARACTERS
        )
        settings = self.recipe.settings
        if isinstance(stage, Augment):
            output = min(instruction, stage.sampling.max_tokens)
            num_candidates = self.num_candidates(stage)
            return GenerationWork(num_candidates, TEMPLATE_TOKENS + response, output)
        if isinstance(stage, Rate):
            rating = stage.settings
            output = min(RATIONALE_TOKENS, rating.sampling.max_tokens)
            return GenerationWork(
                self.num_candidates(stage) * (rating.num_samples if rating.method == "mean" else 1),
                TEMPLATE_TOKENS + instruction + response,
                1 if rating.method == "expected" else output,
                rubric_tokens(stage),
            )
        if isinstance(stage, Judge):
            # As if the judge had the base's size, because no other model's is known here.
            num_questions = 2 * (
                NUM_EVALUATION_PROMPTS * num_games(stage)
                + len(CONTROLS) * stage.settings.num_control_prompts
            )
            return GenerationWork(num_questions, TEMPLATE_TOKENS + 2 * ANSWER_TOKENS, 1)
        # Every other stage is taken for one that answers the evaluation's prompts.
        output = min(ANSWER_TOKENS, settings.evaluation.sampling.max_tokens)
        is_safety = isinstance(stage, SafetyAnswers)
        num_prompts = NUM_SAFETY_PROMPTS if is_safety else NUM_EVALUATION_PROMPTS
        return GenerationWork(num_prompts, 2 * TEMPLATE_TOKENS, output)

    def num_rows_of(self, stage: Stage | Source) -> int | None:
        """Number of rows of a finished stage."""
        record = self.records.get(stage.path) if isinstance(stage, Stage) else None
        return record.num_rows if record else None

    def examples(self, stage: Finetune) -> tuple[int, float]:
        """Number of examples of a training, and their mean tokens."""
        examples, finished = stage.examples, self.num_rows_of(stage.examples)
        if isinstance(examples, BaseExamples):
            return finished or self.num_segments(), examples.sequence_length
        num_seed = self.recipe.settings.seed.max_pairs or NUM_SEED_PAIRS
        _, seed_examples = seed_model(self.stages)
        num_seed = self.num_rows_of(seed_examples) or num_seed
        num_chosen = 0
        if isinstance(examples, Curate):
            augment = first_origin(examples, Augment)
            num_segments = num_segments_read(augment, self.num_segments())
            num_chosen = num_selected(examples.settings, num_segments)
            num_seed = num_seed if examples.settings.with_seed else 0
            if finished:
                num_chosen = finished - num_seed
        characters = num_seed * SEED_CHARACTERS + num_chosen * SELECTED_CHARACTERS
        num_examples = num_seed + num_chosen
        tokens = characters / num_examples / self.architecture.characters_per_token
        return num_examples, tokens + TEMPLATE_TOKENS


def first_origin(stage: Stage, kind: type[SomeStage]) -> SomeStage:
    """The stage itself, or the nearest one of this class whose result it needs."""
    behind: list[Stage] = [stage]
    for each in behind:
        if isinstance(each, kind):
            return each
        behind += [origin for origin in each.inputs.values() if isinstance(origin, Stage)]
    raise AssertionError(f"{stage.path} needs no {kind.__name__}")


def num_segments_read(stage: Augment, num_segments: int) -> int:
    """Number of segments that an augmentation reads, of a run with so many."""
    if isinstance(stage.segments, SampledSegments):
        return min(stage.segments.num_rated, num_segments)
    if isinstance(stage.segments, PromisingSegments):
        return max(round(stage.segments.share * num_segments), 1)
    return num_segments


def num_games(stage: Judge) -> int:
    """Number of a judgement's games: the last model's, and everybody's against the reference."""
    reference, compared = (
        source.location if source and source.identity else None
        for source in (stage.reference, stage.compared)
    )
    num_published = num_outputs(reference, compared)
    num_models = len(stage.evaluations) + len(stage.others) + num_published
    return max(num_models * 2 - 3, 1)


def rubric_tokens(stage: Rate) -> float:
    """Tokens that a stage's rating prompts begin with, which the prefix cache computes once."""
    shared = prompts.shared_rating_text(
        string.Template(stage.template), reasoning=stage.settings.method != "expected"
    )
    return len(shared) / PROMPT_CHARACTERS_PER_TOKEN


def num_selected(selection: SelectionSettings, num_segments: int) -> int:
    """Number of pairs that self-curation selects; by threshold, at the paper's shares."""
    share = {"all": 1.0}.get(selection.method, selection.share)
    if selection.method == "threshold":
        share = next((s for k, s in SELECTED_SHARE.items() if selection.k >= k), 1.0)
    chosen = selection.num_best if selection.method == "best" else round(share * num_segments)
    return min(chosen, num_segments, selection.max_pairs or num_segments)
