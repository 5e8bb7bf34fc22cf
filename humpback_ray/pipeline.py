"""READ FIRST: instruction backtranslation, as stages that hang together.

    seed D ──────────┬─ reversed ── M_yx ──┐
                     └─ as it is ── M_0 ─┐ │
    corpus ── segments y ───────────────────┴── candidates A = {(x̂, y)}     self-augmentation
                                         │
    for t = 1, 2:    M_(t-1) rates A ── A_k^(t) ── base on D ∪ A_k^(t) = M_t   self-curation

A stage is one class in `stages/`: its fields are what its result depends on. The candidates are
generated once. Every M_t starts from the base model again. A run's folder has one folder for each
stage, and `record.json` in it says that the stage is done (`execution/runner.py`).
(Self-Alignment with Instruction Backtranslation, arXiv 2308.06259, section 2.)
"""

from __future__ import annotations

from typing import Any

from humpback_ray.config.recipe import Recipe
from humpback_ray.config.settings import (
    EvaluationSettings,
    GgufBase,
    JudgeSettings,
    PretrainedBase,
    SamplingSettings,
    Settings,
    TrainingSettings,
)
from humpback_ray.execution.sources import (
    corpus_source,
    file_source,
    gguf_source,
    model_source,
)
from humpback_ray.execution.stage import Source, Stage
from humpback_ray.method import prompts
from humpback_ray.rows import Direction
from humpback_ray.stages.augment import Augment
from humpback_ray.stages.base import BaseExamples, InitialBase
from humpback_ray.stages.converted_base import ConvertedBase
from humpback_ray.stages.curate import Curate
from humpback_ray.stages.evaluate import Evaluate, prompts_source
from humpback_ray.stages.examples import SeedExamples
from humpback_ray.stages.finetune import Finetune
from humpback_ray.stages.judge import Judge, compared_source, reference_source
from humpback_ray.stages.rate import Rate, rating_template
from humpback_ray.stages.seed import Seed
from humpback_ray.stages.segments import Segments

SEGMENTS = "segments"  # path of the stage that a message names before a recipe is known


def stages_of(recipe: Recipe) -> list[Stage]:
    """Every stage of a recipe's run, in the order in which they run.

    A source that is missing is no error here: `Stage.problems` says what the stages wait for.

    Raises:
        UserError: a rating template that is not there or cannot be filled.
    """
    s = recipe.settings
    both_tags = prompts.inference_tags(s.prompts)
    seeded: dict[str, Any] = {"random_seed": s.random_seed}
    trusted: dict[str, Any] = {"trust_remote_code": _trusts_remote_code(s)}
    serving: dict[str, Any] = {
        "context_length": s.context_length,
        "dtype": s.dtype,
        **seeded,
        **trusted,
    }
    stages: list[Stage] = []

    def declare(stage: Stage) -> Stage:
        stages.append(stage)
        return stage

    def finetune(
        path: str,
        examples: Stage,
        settings: TrainingSettings = s.forward_training,
        tags: tuple[str, ...] = both_tags,
        sampling: SamplingSettings = s.evaluation.sampling,
        request: str = "",
    ) -> Stage:
        return declare(
            Finetune(
                path=path, base=base, examples=examples, settings=settings, tags=tags,
                sampling=sampling, request=request, **seeded, **trusted,
            )
        )  # fmt: skip

    # The human pairs D, the unlabelled segments y, the base model.
    file = file_source(s.seed.path, "seed file", "settings.seed.path")
    seed = declare(Seed(path="seed", file=file, settings=s.seed, **seeded))
    corpus = corpus_source(s.corpus.path)
    segments = declare(Segments(path=SEGMENTS, corpus=corpus, settings=s.corpus))
    base = _base(s, segments, stages)

    # M_yx writes instructions, M_0 answers them.
    reversed_pairs = declare(
        SeedExamples(
            path="backward/examples", seed=seed, direction=Direction.BACKWARD,
            tag=s.prompts.seed_tag,
        )
    )  # fmt: skip
    backward = finetune(
        "backward/model", reversed_pairs, settings=s.backward_training,
        tags=(s.prompts.seed_tag,), sampling=s.augmentation,
        request=prompts.BACKWARD_TEMPLATE.template,
    )  # fmt: skip
    pairs = declare(
        SeedExamples(
            path="forward-0/examples", seed=seed, direction=Direction.FORWARD,
            tag=s.prompts.seed_tag,
        )
    )  # fmt: skip
    forward = finetune("forward-0/model", pairs)
    models: dict[str, Stage | Source] = {"base": base, "M_0": forward}

    # Self-augmentation, once; then self-curation and finetuning, again and again.
    candidates = declare(
        Augment(
            path="candidates", segments=segments, model=backward, tag=s.prompts.seed_tag,
            sampling=s.augmentation, num_candidates=s.num_candidates,
            long_prompts=s.long_prompts, **serving,
        )
    )  # fmt: skip
    for t in range(1, s.iterations + 1):
        rated = declare(
            Rate(
                path=f"iter-{t}/rated", candidates=candidates,
                rater=None if s.rating.endpoint else forward, iteration=t, settings=s.rating,
                template=rating_template(s.prompts.rating_template, s.rating.rubric),
                long_prompts=s.long_prompts, **serving,
            )
        )  # fmt: skip
        curated = declare(
            Curate(
                path=f"iter-{t}/examples", seed=seed, rated=rated, settings=s.selection,
                seed_tag=s.prompts.seed_tag, web_tag=s.prompts.web_tag,
            )
        )  # fmt: skip
        forward = finetune(f"iter-{t}/model", curated)
        models[f"M_{t}"] = forward

    # Every model answers the same prompts; a judge compares the answers.
    asked = prompts_source(s.evaluation.prompts)
    evaluations = [
        Evaluate(
            path=f"evaluation/{name}", name=name, model=model, seed=seed, prompts=asked,
            sampling=s.evaluation.sampling, seed_tag=s.prompts.seed_tag,
            web_tag=s.prompts.web_tag, **serving,
        )
        for name, model in models.items()
    ]  # fmt: skip
    stages += evaluations
    if s.evaluation.judge:
        declare(_judgement(s.evaluation, s.evaluation.judge, evaluations, base, serving))
    return stages


def _judgement(
    evaluation: EvaluationSettings,
    settings: JudgeSettings,
    evaluations: list[Evaluate],
    base: Stage | Source,
    serving: dict[str, Any],
) -> Stage:
    """The games between all models and published outputs."""
    judge: Stage | Source | None = None  # behind an endpoint
    if settings.model == "base":
        judge = base
    elif settings.model is not None:
        judge = model_source(settings.model, None, "settings.evaluation.judge.model", "judge")
    context_length = settings.context_length or serving["context_length"]
    return Judge(
        path="judgement", evaluations=tuple(evaluations), judge=judge, settings=settings,
        reference=reference_source(evaluation.reference),
        compared=compared_source(evaluation.compared),
        **{**serving, "context_length": context_length},
    )  # fmt: skip


def _base(s: Settings, segments: Stage, stages: list[Stage]) -> Stage | Source:
    """The base model: one that exists, as it is or out of a GGUF file, or one from scratch."""
    if isinstance(s.base, PretrainedBase):
        return model_source(s.base.model, s.base.revision)
    asking: dict[str, Any] = {
        "tags": prompts.inference_tags(s.prompts),
        "sampling": s.evaluation.sampling,
    }
    if isinstance(s.base, GgufBase):
        stages.append(
            converted := ConvertedBase(path="base/model", file=gguf_source(s.base.file), **asking)
        )
        return converted
    seeded: dict[str, Any] = {"random_seed": s.random_seed}
    initial = InitialBase(
        path="base/initial", segments=segments, settings=s.base,
        context_length=s.context_length, **seeded,
    )  # fmt: skip
    text = BaseExamples(
        path="base/examples", segments=segments, initial=initial,
        sequence_length=s.base.sequence_length,
    )  # fmt: skip
    model = Finetune(
        path="base/model", base=initial, examples=text, settings=s.base.training,
        **asking, **seeded,
    )  # fmt: skip
    stages += [initial, text, model]
    return model


def _trusts_remote_code(s: Settings) -> bool:
    return isinstance(s.base, PretrainedBase) and s.base.trust_remote_code
