"""READ FIRST: instruction backtranslation, as stages that hang together.

    seed D ──────────┬─ reversed ── M_yx ──┐
                     └─ as it is ── M_0 ─┐ │     with safety pairs and ratings, if there are any
    corpus ── segments y ───────────────────┴── candidates A = {(x̂, y)}     self-augmentation
                                         │
    for t = 1, 2:    M_(t-1) rates A ── A_k^(t) ── base on D ∪ A_k^(t) = M_t   self-curation

A stage is one class in `stages/`: its fields are what its result depends on. The candidates are
generated once, of all segments or of those that a filter lets through (`stages/prefilter.py`).
Every M_t starts from the base model again. A run's folder has one folder for each
stage, and `record.json` in it says that the stage is done (`execution/runner.py`).
(Self-Alignment with Instruction Backtranslation, arXiv 2308.06259, section 2.)
"""

from __future__ import annotations

from typing import Any

from humpback_ray.config.recipe import Recipe
from humpback_ray.config.settings import LastIterationSettings, SamplingSettings, TrainingSettings
from humpback_ray.execution.sources import corpus_source, file_source
from humpback_ray.execution.stage import Source, Stage
from humpback_ray.method import prompts
from humpback_ray.rows import Direction
from humpback_ray.stages.augment import Augment
from humpback_ray.stages.base import base_model, trusts_remote_code
from humpback_ray.stages.benchmark import benchmarks
from humpback_ray.stages.curate import Curate
from humpback_ray.stages.decontaminate import Decontaminate, decontaminated
from humpback_ray.stages.distinct import Distinct
from humpback_ray.stages.evaluate import Evaluate, prompts_source
from humpback_ray.stages.examples import SeedExamples
from humpback_ray.stages.finetune import Finetune
from humpback_ray.stages.judge import judgement
from humpback_ray.stages.other_answers import other_answers
from humpback_ray.stages.prefilter import prefiltered
from humpback_ray.stages.rate import Rate, rating_template
from humpback_ray.stages.rating_seed import rating_seed
from humpback_ray.stages.safety_answers import safety_answers
from humpback_ray.stages.safety_seed import safety_seed
from humpback_ray.stages.seed import Seed
from humpback_ray.stages.segments import Segments, block_list_source

SEGMENTS = "segments"  # path of the stage that a message names before a recipe is known


def stages_of(recipe: Recipe, corpus: Source | None = None) -> list[Stage]:
    """Every stage of a recipe's run, in the order in which they run.

    A source that is missing is no error here: `Stage.problems` says what the stages wait for.

    Args:
        corpus: that of `settings.corpus.path`, where the caller has its content's identity already.

    Raises:
        UserError: a rating template that is not there or cannot be filled.
    """
    s = recipe.settings
    asked_tags = prompts.inference_tags(s.prompts)
    seeded: dict[str, Any] = {"random_seed": s.random_seed}
    trusted: dict[str, Any] = {"trust_remote_code": trusts_remote_code(s.base)}
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
        tags: tuple[str, ...] = asked_tags,
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
    safety = safety_seed(s, seed)
    rubric = rating_template(s.prompts.rating_template, s.rating.rubric)
    ratings = rating_seed(s, rubric)
    stages += [stage for stage in (safety, ratings) if stage]
    corpus = corpus or corpus_source(s.corpus.path)
    clean = decontaminated(s)
    segments = declare(
        Segments(
            path=SEGMENTS, corpus=corpus, settings=s.corpus,
            blocked_file=block_list_source(s.corpus.blocked_file), **clean,
        )
    )  # fmt: skip
    base, made = base_model(s, segments)
    stages += made

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
            tag=s.prompts.seed_tag, safety=safety, ratings=ratings,
            rating_share=s.seed.rating_share,
        )
    )  # fmt: skip
    forward = finetune("forward-0/model", pairs)
    models: dict[str, Stage | Source] = {"base": base, "M_0": forward}

    # Where a recipe asks for it, only the promising segments go on: M_0's ratings of a sample say
    # which ones they are.
    filtering = prefiltered(s, segments, backward, forward, serving)
    stages += filtering
    promising = filtering[-1] if filtering else segments

    # Self-augmentation, once; then self-curation and finetuning, again and again.
    candidates = declare(
        Augment(
            path="candidates", segments=promising, model=backward, tag=s.prompts.seed_tag,
            sampling=s.augmentation, num_candidates=s.num_candidates,
            long_prompts=s.long_prompts, **serving,
        )
    )  # fmt: skip
    if clean:
        candidates = declare(Decontaminate(path="decontaminated", candidates=candidates, **clean))
    if s.distinct_instructions:
        candidates = declare(
            Distinct(path="distinct", candidates=candidates, settings=s.distinct_instructions)
        )
    for t in range(1, s.iterations + 1):
        differs = s.last_iteration if t == s.iterations else LastIterationSettings()
        rated = declare(
            Rate(
                path=f"iter-{t}/rated", candidates=candidates,
                rater=None if s.rating.endpoint else forward, iteration=t, settings=s.rating,
                template=rubric, long_prompts=s.long_prompts, **serving,
            )
        )  # fmt: skip
        curated = declare(
            Curate(
                path=f"iter-{t}/examples", seed=seed, rated=rated,
                settings=differs.selection or s.selection,
                seed_tag=s.prompts.seed_tag if differs.tags else "",
                web_tag=s.prompts.web_tag if differs.tags else "", safety=safety, ratings=ratings,
                rating_share=s.seed.rating_share,
            )
        )  # fmt: skip
        forward = finetune(f"iter-{t}/model", curated)
        models[f"M_{t}"] = forward

    # Every model answers the same prompts, those of another origin too; a judge compares them.
    asked = prompts_source(s.evaluation.prompts)
    evaluations = [
        Evaluate(
            path=f"evaluation/{name}", name=name, model=model, seed=seed, prompts=asked,
            sampling=s.evaluation.sampling, seed_tag=asked_tags[0], web_tag=asked_tags[1],
            **serving,
        )
        for name, model in models.items()
    ]  # fmt: skip
    others = list(other_answers(s.evaluation, asked, serving))
    stages += [*evaluations, *others]
    stages += safety_answers(s.evaluation, models, asked_tags, serving)
    if s.evaluation.judge:
        declare(judgement(s.evaluation, s.evaluation.judge, evaluations, base, serving, others))
    if s.evaluation.benchmarks:
        stages += benchmarks(s.evaluation.benchmarks, models, serving)
    return stages
