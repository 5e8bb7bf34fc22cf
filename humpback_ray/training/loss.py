"""The loss of a micro-batch, and the losses that end a training."""

from __future__ import annotations

import math
from typing import Any

import torch

from humpback_ray.method.schedule import has_diverged
from humpback_ray.training.batches import MicroBatch


def completion_loss(engine: Any, batch: MicroBatch) -> torch.Tensor:
    """Sum of the negative log-likelihoods of a micro-batch's target tokens, in nats, in fp32."""
    logits = engine(**batch.to(engine.device), use_cache=False).logits  # (B, P, vocabulary)
    return torch.nn.functional.cross_entropy(
        logits.float().flatten(0, 1), batch.labels.to(engine.device).flatten(), reduction="sum"
    )


def bad_loss(losses: list[float], gradient_norm: float) -> str:
    """The reason why a training must stop; empty if it may continue."""
    step = len(losses)
    if not (math.isfinite(losses[-1]) and math.isfinite(gradient_norm)):
        return (
            f"step {step} has loss {losses[-1]} and gradient norm {gradient_norm}: lower the "
            "training's learning_rate or max_gradient_norm, or look for broken examples"
        )
    if has_diverged(losses):
        return (
            f"the loss diverges: it was {losses[0]:.3f} at the first step and is {losses[-1]:.3f} "
            f"at step {step}: lower the training's learning_rate"
        )
    return ""
