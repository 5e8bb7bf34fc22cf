"""One finetuning: a base model and a table of examples become a model folder."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from humpback_ray.config.settings import SamplingSettings, TrainingSettings
from humpback_ray.execution.gauges import OF_TRAINING, Gauges
from humpback_ray.execution.metrics import TensorBoard
from humpback_ray.execution.stage import NOT_HASHED, Context, Part, Result, Source, Stage
from humpback_ray.method import prompts

CPU_WORKERS_START_SECONDS = 20.0  # of two workers on two cores, up to the first step


@dataclass(frozen=True, kw_only=True)
class Finetune(Stage):
    """A model folder that transformers and vLLM load: the base's weights trained on examples.

    The identity is that of the weights. What only changes how the model is asked, its chat template
    and default sampling, is rewritten by `refresh` and never trains it again.
    """

    kind: ClassVar[str] = "finetune"
    version: ClassVar[int] = 2
    part: ClassVar[Part] = "finetune"
    trains: ClassVar[bool] = True

    base: Stage | Source
    examples: Stage | Source
    settings: TrainingSettings
    random_seed: int
    trust_remote_code: bool = field(default=False, metadata=NOT_HASHED)
    tags: tuple[str, ...] = field(default=(), metadata=NOT_HASHED)
    sampling: SamplingSettings | None = field(default=None, metadata=NOT_HASHED)

    def wording(self) -> dict[str, str]:
        """The turn markers around a prompt."""
        return {"template": prompts.render("")}

    def run(self, context: Context) -> Result:
        """Finetune the base into this stage's own folder."""
        from humpback_ray.training.finetune import finetune

        def show(step: dict[str, Any]) -> None:
            detail = f"steps, loss {step['loss']:.3f}, {step['tokens_per_second']:,.0f} tokens/s"
            context.progress.update(step["step"], step["num_steps"], detail)
            context.metrics.add(**step)
            board.add(step)
            gauges.set(step)

        on_cpu = context.placement.training.device == "cpu"
        context.progress.say(
            "starting the training workers", CPU_WORKERS_START_SECONDS if on_cpu else None
        )
        board = TensorBoard(context.path("tensorboard"))
        gauges = Gauges(OF_TRAINING, context.run, context.stage)
        try:
            result = finetune(
                examples=context.of(self.examples, "rows"),
                base_model=context.of(self.base),
                output=context.folder,
                settings=self.settings,
                placement=context.placement.training,
                random_seed=self.random_seed,
                chat_tags=self.tags,
                scratch_folder=context.path("_training"),
                on_step=show,
                on_notice=context.progress.note,
                revision=self.base.revision if isinstance(self.base, Source) else None,
                trust_remote_code=self.trust_remote_code,
                generation={
                    "temperature": self.sampling.temperature,
                    "top_p": self.sampling.top_p,
                }
                if self.sampling
                else None,
            )
        finally:
            board.close()
        outcomes = {
            "trained": result.num_examples - result.num_truncated,
            "truncated": result.num_truncated,
            "dropped": result.num_dropped,
        }
        return Result(sum(outcomes.values()), outcomes, asdict(result))
