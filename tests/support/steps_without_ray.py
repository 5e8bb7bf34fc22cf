"""Optimizer steps in one process without Ray, from the same parts as the workers' loop.

`python -m tests.support.steps_without_ray ARGUMENTS`, where ARGUMENTS is JSON with base, examples,
settings, placement, random_seed and num_steps; prints losses and gradient norms as JSON. This
module must not import `tests.support.training`, which needs Ray.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile

import torch
from transformers import AutoTokenizer

from humpback_ray.config.placement import TrainingPlacement
from humpback_ray.config.settings import TrainingSettings
from humpback_ray.method.schedule import batch_indices, learning_rate
from humpback_ray.training import batches
from humpback_ray.training.deepspeed_engine import build_engine
from humpback_ray.training.examples import tokenize
from humpback_ray.training.loss import bad_loss, completion_loss
from humpback_ray.training.packing import plan_step
from humpback_ray.training.speed import Speed
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

    os.environ |= {"DS_ACCELERATOR": "cpu", "LOCAL_RANK": "0", "RANK": "0", "WORLD_SIZE": "1"}
    with tempfile.NamedTemporaryFile() as rendezvous:
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{rendezvous.name}", rank=0, world_size=1
        )
        engine = build_engine(job, 1)
    speed = Speed(engine, job)
    losses: list[float] = []
    norms: list[float] = []
    for step in range(1, arguments["num_steps"] + 1):
        speed.begin()
        batch = batch_indices(step, batch_size, examples.num_examples, task.random_seed)
        num_target_tokens = examples.num_target_tokens(batch)
        (plan,) = plan_step(examples.lengths[batch].tolist(), 1, capacity, packed=True)
        for group in engine.optimizer.param_groups:
            group["lr"] = learning_rate(step, num_steps, settings)
        total = 0.0
        for places in plan:
            micro_batch = batches.packed(examples, [batch[place] for place in places], 0)
            with speed.phase("forward"):
                micro_sum = completion_loss(engine, micro_batch)
            with speed.phase("backward"):
                engine.backward(micro_sum / num_target_tokens)
            total += micro_sum.item()
        with speed.phase("optimizer"):
            engine.step()
        losses.append(total / num_target_tokens)
        norms.append(float(engine.get_global_grad_norm()))
        assert speed.end(examples.lengths[batch], num_target_tokens, 1).seconds > 0
        assert not bad_loss(losses, norms[-1])
    torch.distributed.destroy_process_group()
    print("STEPS", json.dumps([losses, norms]))


if __name__ == "__main__":
    main()
