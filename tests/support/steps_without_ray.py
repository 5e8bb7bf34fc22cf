"""Optimizer steps in one process without Ray, from the same parts as the workers' loop.

`python -m tests.support.steps_without_ray ARGUMENTS`, where ARGUMENTS is JSON with base, examples,
settings, placement, random_seed and num_steps; prints losses and gradient norms as JSON. This
module must not import `tests.support.training`, which needs Ray.
"""

from __future__ import annotations

import json
import os
import sys

import torch
from transformers import AutoTokenizer

from benchmarks.gpu_training import our_engine, steps
from humpback_ray.config.placement import TrainingPlacement
from humpback_ray.config.settings import TrainingSettings
from humpback_ray.training.examples import tokenize
from humpback_ray.training.loss import bad_loss
from humpback_ray.training.task import BaseModel, TrainingJob, TrainingTask


def main() -> None:
    arguments = json.loads(sys.argv[1])
    settings = TrainingSettings(**arguments["settings"])
    placement = TrainingPlacement(**arguments["placement"])
    base = BaseModel(arguments["base"])
    task = TrainingTask(base, arguments["examples"], settings, arguments["random_seed"])
    tokenizer = AutoTokenizer.from_pretrained(base.location)
    examples, *_ = tokenize(task.examples, tokenizer, settings.max_length)
    batch_size, num_steps, capacity = 8, 10, placement.micro_batch_tokens or settings.max_length
    job = TrainingJob(task, placement, "", 1, capacity, batch_size, num_steps, "no-run")

    os.environ["DS_ACCELERATOR"] = "cpu"
    engine = our_engine(job)
    losses: list[float] = []
    norms: list[float] = []
    for loss, speed in steps(engine, job, examples, arguments["num_steps"]):
        losses.append(loss)
        norms.append(float(engine.get_global_grad_norm()))
        assert speed.seconds > 0
        assert not bad_loss(losses, norms[-1])
    torch.distributed.destroy_process_group()
    print("STEPS", json.dumps([losses, norms]))


if __name__ == "__main__":
    main()
