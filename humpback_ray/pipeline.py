"""READ FIRST: instruction backtranslation, as stages that hang together.

    seed D ──────────┬─ reversed ── M_yx ──┐
                     └─ as it is ── M_0 ─┐ │
    corpus ── segments y ───────────────────┴── candidates A = {(x̂, y)}     self-augmentation
                                         │
    for t = 1, 2:    M_(t-1) rates A ── A_k^(t) ── base on D ∪ A_k^(t) = M_t   self-curation

The candidates are generated once. Every M_t starts from the base model again. The run's folder has
one folder for each stage, and `record.json` in it says that the stage is done.
(Self-Alignment with Instruction Backtranslation, arXiv 2308.06259, section 2.)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from humpback_ray import storage
from humpback_ray.config.recipe import Recipe
from humpback_ray.config.settings import (
    PretrainedBase,
    SamplingSettings,
    Settings,
    TrainingSettings,
)
from humpback_ray.corpus.documents import CorpusFile
from humpback_ray.corpus.files import content_identity, list_files
from humpback_ray.errors import UserError
from humpback_ray.execution.stage import Source, Stage
from humpback_ray.method import prompts
from humpback_ray.rows import Direction
from humpback_ray.serving.generate import GenerationPass
from humpback_ray.serving.requests import ServedModel
from humpback_ray.stages import (
    augment,
    base,
    curate,
    evaluate,
    examples,
    finetune,
    rate,
    seed,
    segments,
)


def stages_of(recipe: Recipe, run_folder: str, missing: list[str] | None = None) -> list[Stage]:
    """Every stage of a recipe's run, in the order in which they run.

    Args:
        recipe: settings and placement.
        run_folder: absolute path or URL; stages read each other's folders below it.
        missing: takes one line for each source that is not there, instead of an error; the
            fingerprints of the stages behind it are then not known.

    Raises:
        UserError: the corpus, the seed file, the base model or a template is not there.
    """
    return _Method(recipe.settings, run_folder, missing).stages()


class _Method:
    """The method over one recipe's settings; each function below declares one kind of stage."""

    def __init__(self, settings: Settings, run_folder: str, missing: list[str] | None) -> None:
        self.settings = settings
        self.run_folder = run_folder
        self.missing = missing
        self.declared: list[Stage] = []
        self.trust_remote_code = (
            isinstance(settings.base, PretrainedBase) and settings.base.trust_remote_code
        )

    def stages(self) -> list[Stage]:
        settings = self.settings
        seed_pairs = self.seed()
        segmented = self.segments()
        base_model = self.base(segmented)

        reversed_pairs = self.seed_examples("backward/examples", seed_pairs, Direction.BACKWARD)
        backward = self.finetune(
            "backward/model", base_model, reversed_pairs, settings.backward_training,
            sampling=settings.augmentation,
        )  # fmt: skip
        pairs = self.seed_examples("forward-0/examples", seed_pairs, Direction.FORWARD)
        forward = self.finetune("forward-0/model", base_model, pairs, settings.forward_training)
        models = {"base": base_model, "M_0": forward}

        candidates = self.augment(segmented, backward, forward)
        for t in range(1, settings.iterations + 1):
            rated = self.rate(t, candidates, rater=forward)
            curated = self.curate(t, seed_pairs, rated)
            forward = self.finetune(
                f"iter-{t}/model", base_model, curated, settings.forward_training
            )
            models[f"M_{t}"] = forward

        for name, model in models.items():
            self.evaluate(name, model, seed_pairs)
        return self.declared

    def seed(self) -> Stage:
        settings = self.settings.seed
        return self.declare(
            "seed",
            kind="seed",
            settings={**_dump(settings, "path"), "random_seed": self.settings.random_seed},
            inputs={
                "file": self.source(_file_source, settings.path, "seed file", "settings.seed.path")
            },
            run=partial(seed.run, settings=settings, random_seed=self.settings.random_seed),
        )

    def segments(self) -> Stage:
        settings = self.settings.corpus
        return self.declare(
            "segments",
            kind="segments",
            settings=_dump(settings, "path"),
            inputs={"corpus": self.source(_corpus_source, settings.path)},
            run=partial(segments.run, settings=settings),
        )

    def base(self, segmented: Stage) -> Stage | Source:
        settings = self.settings.base
        if isinstance(settings, PretrainedBase):
            return self.source(_model_source, settings.model, settings.revision)
        initial = self.declare(
            "base/initial",
            kind="base-initial",
            settings={**_dump(settings, "training"), "random_seed": self.settings.random_seed,
                      "context_length": self.settings.context_length},
            inputs={"segments": segmented},
            run=partial(
                base.run_initial, segments=self.folder(segmented, "rows"), settings=settings,
                context_length=self.settings.context_length,
                random_seed=self.settings.random_seed,
            ),
        )  # fmt: skip
        text = self.declare(
            "base/examples",
            kind="base-examples",
            settings={"sequence_length": settings.sequence_length},
            inputs={"segments": segmented, "initial": initial},
            run=partial(
                base.run_examples, segments=self.folder(segmented, "rows"),
                initial=self.folder(initial), sequence_length=settings.sequence_length,
            ),
        )  # fmt: skip
        return self.finetune("base/model", initial, text, settings.training)

    def seed_examples(self, path: str, seed_pairs: Stage, direction: Direction) -> Stage:
        tags = self.settings.prompts
        template = prompts.BACKWARD_TEMPLATE.template if direction is Direction.BACKWARD else ""
        return self.declare(
            path,
            kind="seed-examples",
            settings={"direction": direction.value, "tag": tags.seed_tag, "template": template},
            inputs={"seed": seed_pairs},
            run=partial(
                examples.run_seed, seed=self.folder(seed_pairs, "rows"), direction=direction,
                tags=tags,
            ),
        )  # fmt: skip

    def finetune(
        self,
        path: str,
        base_model: Stage | Source,
        training_examples: Stage,
        training: TrainingSettings,
        sampling: SamplingSettings | None = None,
    ) -> Stage:
        sampling = sampling or self.settings.evaluation.sampling
        tags: tuple[str, ...] = prompts.inference_tags(self.settings.prompts)
        if path == "backward/model":
            tags = (self.settings.prompts.seed_tag,)
        pretrained = self.settings.base if isinstance(base_model, Source) else None
        revision = pretrained.revision if isinstance(pretrained, PretrainedBase) else None
        return self.declare(
            path,
            kind="finetune",
            settings={
                **_dump(training),
                "random_seed": self.settings.random_seed,
                "chat_template": prompts.chat_template(*tags),
                "sampling": _dump(sampling, "max_tokens"),
            },
            inputs={"base": base_model, "examples": training_examples},
            run=partial(
                finetune.run,
                examples=self.folder(training_examples, "rows"),
                base_model=self.folder(base_model),
                revision=revision,
                trust_remote_code=self.trust_remote_code,
                settings=training,
                random_seed=self.settings.random_seed,
                chat_tags=tags,
                sampling=sampling,
            ),
        )

    def augment(self, segmented: Stage, backward: Stage, first_rater: Stage) -> Stage:
        settings = self.settings
        return self.declare(
            "candidates",
            kind="augment",
            settings={
                "sampling": _dump(settings.augmentation),
                "num_candidates": settings.num_candidates,
                "template": prompts.render(
                    prompts.BACKWARD_TEMPLATE.template, settings.prompts.seed_tag
                ),
                **self.generation_settings(),
            },
            inputs={"segments": segmented, "model": backward},
            run=partial(
                augment.run,
                work=augment.candidates_of(
                    self.folder(segmented, "rows"),
                    target=self.path("candidates", "rows"),
                    backward_model=self.served(backward),
                    tag=settings.prompts.seed_tag,
                    sampling=settings.augmentation,
                    num_candidates=settings.num_candidates,
                    long_prompts=settings.long_prompts,
                    random_seed=settings.random_seed,
                ),
                rating=self.rating(1, self.path("candidates", "rows"), first_rater),
                begin_rating=partial(self.begin, "iter-1/rated"),
            ),
        )

    def rate(self, t: int, candidates: Stage, rater: Stage) -> Stage:
        settings = self.settings.rating
        return self.declare(
            f"iter-{t}/rated",
            kind="rate",
            settings={
                # The share of scores that is asked for decides whether a run goes on, not its rows.
                **_rating_settings(settings),
                "iteration": t,
                "template": prompts.render(self.rating_template()),
                "answer_format": prompts.SCORE_ONLY
                if settings.method == "expected"
                else prompts.REASON_THEN_SCORE,
                **self.generation_settings(),
            },
            inputs={"candidates": candidates}
            # Elsewhere, the endpoint's model rates.
            | ({} if settings.endpoint else {"rater": rater}),
            run=partial(
                rate.run,
                work=self.rating(t, self.folder(candidates, "rows"), rater),
                settings=settings,
            ),
        )

    def rating(self, t: int, candidates: str, rater: Stage) -> GenerationPass:
        settings = self.settings.rating
        quantization = None if settings.weights == "as_stored" else settings.weights
        return rate.ratings_of(
            candidates,
            target=self.path(f"iter-{t}/rated", "samples" if settings.method == "mean" else "rows"),
            rater=replace(self.served(rater), quantization=quantization),
            template=self.rating_template(),
            settings=settings,
            long_prompts=self.settings.long_prompts,
            iteration=t,
            random_seed=self.settings.random_seed,
        )

    def rating_template(self) -> str:
        return _rating_template(self.settings.prompts.rating_template, self.settings.rating.rubric)

    def curate(self, t: int, seed_pairs: Stage, rated: Stage) -> Stage:
        settings = self.settings.selection
        tags = self.settings.prompts
        return self.declare(
            f"iter-{t}/examples",
            kind="curate",
            settings={
                **_selection_settings(settings),
                "seed_tag": tags.seed_tag,
                "web_tag": tags.web_tag,
            },
            inputs={"seed": seed_pairs, "rated": rated},
            run=partial(
                curate.run_curated,
                seed=self.folder(seed_pairs, "rows"),
                rated=self.folder(rated, "rows"),
                tags=tags,
                settings=settings,
            ),
        )

    def evaluate(self, name: str, model: Stage | Source, seed_pairs: Stage) -> Stage:
        settings = self.settings.evaluation
        return self.declare(
            f"evaluation/{name}",
            kind="evaluate",
            settings={
                "name": name,
                "sampling": _dump(settings.sampling),
                "template": prompts.render("", *prompts.inference_tags(self.settings.prompts)),
                **self.generation_settings(),
            },
            inputs={
                "model": model,
                "seed": seed_pairs,
                "prompts": self.source(
                    _file_source,
                    settings.prompts,
                    "evaluation prompts",
                    "settings.evaluation.prompts",
                ),
            },
            run=partial(
                evaluate.run,
                name=name,
                evaluated_model=self.served(model),
                prompts_file=settings.prompts,
                held_out=self.folder(seed_pairs, "held_out"),
                tags=self.settings.prompts,
                sampling=settings.sampling,
                random_seed=self.settings.random_seed,
            ),
        )

    def generation_settings(self) -> dict[str, Any]:
        return {
            "context_length": self.settings.context_length,
            "dtype": self.settings.dtype,
            "long_prompts": _dump(self.settings.long_prompts),
            "random_seed": self.settings.random_seed,
        }

    def served(self, model: Stage | Source) -> ServedModel:
        return ServedModel(
            self.folder(model),
            self.settings.context_length,
            self.settings.dtype,
            self.trust_remote_code,
        )

    def folder(self, source: Stage | Source, *parts: str) -> str:
        return source.location if isinstance(source, Source) else self.path(source.path, *parts)

    def path(self, *parts: str) -> str:
        return storage.join(self.run_folder, *parts)

    def begin(self, path: str) -> None:
        """Mark a stage as begun whose rows are written by an earlier one."""
        (stage,) = [stage for stage in self.declared if stage.path == path]
        stage.begin(self.run_folder)

    def source(self, find: Callable[..., Source], location: str, *arguments: Any) -> Source:
        try:
            return find(location, *arguments)
        except UserError as error:
            if self.missing is None:
                raise
            if str(error) not in self.missing:
                self.missing.append(str(error))
            return Source(location, identity=None)

    def declare(
        self,
        path: str,
        *,
        kind: str,
        settings: dict[str, Any],
        inputs: Mapping[str, Stage | Source],
        run: Callable[..., Any],
    ) -> Stage:
        stage = Stage(path, kind, VERSIONS[kind], settings, inputs, run)
        self.declared.append(stage)
        return stage


# Raised by hand when the meaning of a stage's code changes, so that old folders are refused.
VERSIONS = {
    "seed": 1,
    "segments": 1,
    "base-initial": 1,
    "base-examples": 1,
    "seed-examples": 1,
    "finetune": 1,
    "augment": 2,
    "rate": 2,
    "curate": 2,
    "evaluate": 2,
}


# --- what settings and inputs are made of -------------------------------------------------------


def _dump(settings: Any, *excluded: str) -> dict[str, Any]:
    return settings.model_dump(mode="json", exclude=set(excluded))


def _rating_settings(settings: Any) -> dict[str, Any]:
    """Only what the chosen method reads: another number of samples changes nothing elsewhere."""
    names = {"expected": [], "text": ["sampling"], "mean": ["sampling", "num_samples"]}
    included = {"method", "rubric", "weights", *names[settings.method]}
    found = settings.model_dump(mode="json", include=included)
    if settings.endpoint is not None:
        found["endpoint"] = settings.endpoint.model_dump(mode="json", exclude={"url"})
    return found


def _selection_settings(settings: Any) -> dict[str, Any]:
    names = {"threshold": "k", "best": "num_best", "share": "share"}
    return settings.model_dump(mode="json", include={"method", names[settings.method]})


def _rating_template(path: str | None, rubric: str) -> str:
    if path is None:
        return prompts.RUBRICS[rubric].template
    text = storage.read_text(path, "rating template", "settings.prompts.rating_template")
    try:
        return prompts.rating_template(text).template
    except UserError as error:
        raise UserError(f"rating template {path}: {error}") from error


def _file_source(path: str, what: str, key: str) -> Source:
    """A single file by its content: its name and place do not matter."""
    file = CorpusFile(path, what, storage.size(path, what, key))
    return Source(path, content_identity([file]))


def _corpus_source(path: str) -> Source:
    return Source(path, content_identity(list_files(path)))


def _model_source(model: str, revision: str | None) -> Source:
    """A base model: a folder or URL by its content, a hub id by its name and revision."""
    if "://" not in model and not os.path.exists(os.path.expanduser(model)):
        if model.startswith((".", "/", "~")) or model.count("/") > 1:
            raise UserError(
                f"no model folder {model}: set settings.base.model to a folder with config.json "
                "and safetensors weights, a URL of one, or a Hugging Face hub id"
            )
        return Source(model, f"hub:{model}@{revision or 'main'}")
    model = storage.absolute(model)
    files = list_files(model, (".json", ".safetensors", ".model", ".txt"))
    return Source(model, content_identity(files))
