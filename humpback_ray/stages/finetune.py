"""One finetuning: a base model and a table of examples in, a model folder out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from humpback_ray import storage
from humpback_ray.config.placement import Placement
from humpback_ray.config.settings import SamplingSettings, TrainingSettings
from humpback_ray.execution.gauges import OF_TRAINING, Gauges
from humpback_ray.execution.stage import (
    NOT_HASHED,
    Context,
    Part,
    Result,
    Source,
    Stage,
    read_record,
)
from humpback_ray.execution.trackers import Boards, check_trackers, tracked_run
from humpback_ray.method import prompts
from humpback_ray.method.schedule import passes_line
from humpback_ray.models.card import (
    Base,
    ModelCard,
    licence_of,
    licence_of_gguf,
    write_model_card,
)
from humpback_ray.models.wrapping import Wrapping, write_wrapping
from humpback_ray.training.records import StepRecord
from humpback_ray.training.task import BaseModel, TrainingTask

CPU_WORKERS_START_SECONDS = 20.0  # two workers on two cores, up to the first step


@dataclass(frozen=True, kw_only=True)
class Finetune(Stage):
    """A model folder that transformers and vLLM load: the base's weights trained on examples.

    The identity covers the weights alone. The chat template and the default sampling only change
    how a caller asks the model, so `refresh` rewrites them, and the model card, without another
    training.
    """

    kind: ClassVar[str] = "finetune"
    version: ClassVar[int] = 4
    part: ClassVar[Part] = "finetune"

    base: Stage | Source
    examples: Stage | Source
    settings: TrainingSettings
    random_seed: int
    trust_remote_code: bool = field(default=False, metadata=NOT_HASHED)
    tags: tuple[str, ...] = field(default=(), metadata=NOT_HASHED)
    sampling: SamplingSettings | None = field(default=None, metadata=NOT_HASHED)
    # Template with $response that asks M_yx for a request; empty for a model that answers.
    request: str = field(default="", metadata=NOT_HASHED)

    @property
    def uses_workers(self) -> bool:
        """True: Ray Train's."""
        return True

    def check(self, placement: Placement) -> None:
        """Refuse trackers that the run cannot use."""
        check_trackers(placement.tracking)

    def wording(self) -> dict[str, str]:
        """The turn markers around a prompt."""
        return {"template": prompts.render("")}

    def run(self, context: Context) -> Result:
        """Finetune the base into this stage's folder."""
        from humpback_ray.training.finetune import finetune

        def show(record: StepRecord) -> None:
            rate = record.speed.tokens_per_second
            detail = f"steps, loss {record.loss:.3f}, {rate:,.0f} tokens/s"
            context.progress.update(record.step, record.num_steps, detail)
            figures = record.as_dict()
            context.metrics.add(**figures)
            boards.add(figures)
            gauges.set(figures)

        placement = context.placement.training
        start_seconds = CPU_WORKERS_START_SECONDS if placement.device == "cpu" else None
        context.progress.say("starting the training workers", start_seconds)
        gauges = Gauges(OF_TRAINING, context.run, context.stage)
        tracking, tracked = context.placement.tracking, tracked_run(context, self)
        boards = Boards(context.path("tensorboard"), tracking, tracked, context.progress.note)
        with boards:
            result = finetune(
                self.task(context),
                placement=placement,
                output=context.folder,
                scratch_folder=context.path("_training"),
                on_step=show,
                on_notice=context.progress.note,
            )
        outcomes = {
            "trained": result.num_examples - result.num_truncated,
            "truncated": result.num_truncated,
            "dropped": result.num_dropped,
        }
        figures = asdict(result) | {"num_passes": round(result.num_passes, 4)}
        context.progress.note(passes_line(result.num_examples, result.batch_size, result.num_steps))
        return Result(sum(outcomes.values()), outcomes, figures)

    def task(self, context: Context) -> TrainingTask:
        """Everything that decides the weights."""
        revision = self.base.revision if isinstance(self.base, Source) else None
        base = BaseModel(context.of(self.base), revision, self.trust_remote_code)
        examples = context.of(self.examples, "rows")
        return TrainingTask(base, examples, self.settings, self.random_seed)

    def refresh(self, context: Context, figures: Mapping[str, Any]) -> None:
        """Rewrite the chat template, the sampling defaults and the card where they differ."""
        wrapping = wrapping_of(self.tags, self.sampling)
        write_wrapping(context.folder, wrapping)
        examples = read_record(context.of(self.examples))
        card = ModelCard(
            name=f"{context.run}: {self.path}",
            base=self._base_for_card(),
            examples=examples.outcomes if examples else {},
            sources=dict(_sources_behind(self.examples)),
            settings=self.settings,
            figures=figures,
            tags=self.tags,
            request=self.request,
            wrapping=wrapping,
        )
        write_model_card(context.folder, card)

    def _base_for_card(self) -> Base:
        base = self.base
        if isinstance(base, Stage):
            file = base.inputs.get("file")  # of a base that is converted from a GGUF file
            if isinstance(file, Source):
                licence = licence_of_gguf(file.location) if file.identity else None
                return Base(storage.name(file.location), licence=licence)
            return Base(base.path, is_made_here=True)
        if (base.identity or "").startswith("hub:"):
            return Base(base.location, hub_id=base.location, revision=base.revision)
        return Base(storage.name(base.location), licence=licence_of(base.location))


# Fields of stages that name the seed and the corpus, as the card calls them.
_DATA = {
    "file": "seed",
    "safety_file": "safety seed",
    "ratings_file": "ratings",
    "corpus": "corpus",
}


def _sources_behind(origin: Stage | Source) -> Iterator[tuple[str, str]]:
    """The files behind a stage's rows, by what they are: a base model is none of them."""
    for name, source in origin.inputs.items() if isinstance(origin, Stage) else ():
        if isinstance(source, Stage):
            yield from _sources_behind(source)
        elif name in _DATA:
            yield _DATA[name], ", ".join(storage.name(place) for place in source.places)


def wrapping_of(tags: tuple[str, ...], sampling: SamplingSettings | None) -> Wrapping:
    """The chat template and the sampling with which a model of the run is asked."""
    sampling = sampling or SamplingSettings()
    return Wrapping(prompts.chat_template(*tags), sampling.temperature, sampling.top_p)
