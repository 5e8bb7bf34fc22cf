"""One finetuning: a base model and a table of examples in, a model folder out."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import ClassVar

from humpback_ray.config.settings import SamplingSettings, TrainingSettings
from humpback_ray.execution.gauges import OF_TRAINING, Gauges
from humpback_ray.execution.metrics import TensorBoard
from humpback_ray.execution.stage import NOT_HASHED, Context, Part, Result, Source, Stage
from humpback_ray.method import prompts
from humpback_ray.method.schedule import passes_line
from humpback_ray.training.records import StepRecord
from humpback_ray.training.task import BaseModel, TrainingTask
from humpback_ray.training.wrapping import Wrapping, write_wrapping

CPU_WORKERS_START_SECONDS = 20.0  # two workers on two cores, up to the first step


@dataclass(frozen=True, kw_only=True)
class Finetune(Stage):
    """A model folder that transformers and vLLM load: the base's weights trained on examples.

    The identity covers the weights alone. The chat template and the default sampling only change
    how a caller asks the model, so `refresh` rewrites them without another training.
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

    @property
    def uses_workers(self) -> bool:
        """True: Ray Train's."""
        return True

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
            board.add(figures)
            gauges.set(figures)

        placement = context.placement.training
        start_seconds = CPU_WORKERS_START_SECONDS if placement.device == "cpu" else None
        context.progress.say("starting the training workers", start_seconds)
        board = TensorBoard(context.path("tensorboard"))
        gauges = Gauges(OF_TRAINING, context.run, context.stage)
        try:
            result = finetune(
                self.task(context),
                placement=placement,
                output=context.folder,
                scratch_folder=context.path("_training"),
                on_step=show,
                on_notice=context.progress.note,
            )
        finally:
            board.close()
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

    def refresh(self, context: Context) -> None:
        """Rewrite the chat template and the sampling defaults if they differ from the fields."""
        sampling = self.sampling or SamplingSettings()
        template = prompts.chat_template(*self.tags)
        wrapping = Wrapping(template, sampling.temperature, sampling.top_p)
        write_wrapping(context.folder, wrapping)
