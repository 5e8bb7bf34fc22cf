"""One finetuning: a base model and a table of examples become a model folder."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from humpback_ray.config.settings import SamplingSettings, TrainingSettings
from humpback_ray.execution.gauges import OF_TRAINING, Gauges
from humpback_ray.execution.metrics import TensorBoard
from humpback_ray.execution.stage import Context, Result

CPU_WORKERS_START_SECONDS = 20.0  # of two workers on two cores, up to the first step


def run(
    context: Context,
    *,
    examples: str,
    base_model: str,
    revision: str | None,
    trust_remote_code: bool,
    settings: TrainingSettings,
    random_seed: int,
    chat_tags: tuple[str, ...],
    sampling: SamplingSettings | None,
) -> Result:
    """Finetune `base_model` into this stage's own folder, which transformers and vLLM then load."""
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
            examples=examples,
            base_model=base_model,
            output=context.folder,
            settings=settings,
            placement=context.placement.training,
            random_seed=random_seed,
            chat_tags=chat_tags,
            scratch_folder=context.path("_training"),
            on_step=show,
            on_notice=context.progress.note,
            revision=revision,
            trust_remote_code=trust_remote_code,
            generation={"temperature": sampling.temperature, "top_p": sampling.top_p}
            if sampling
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
