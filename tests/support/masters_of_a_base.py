"""The optimizer's fp32 weights and the exported ones of an fp16 base, before any step; one step.

`python -m tests.support.masters_of_a_base ARGUMENTS RANK NUM_WORKERS RENDEZVOUS`, once for each
rank, where ARGUMENTS is JSON with base, settings and placement. Rank 0 prints the names of the
weights that differ from the base's files as JSON: in the optimizer, in the export.
"""

from __future__ import annotations

import json
import os
import sys

import torch
from safetensors.torch import load_file

from humpback_ray.config.placement import TrainingPlacement
from humpback_ray.config.settings import TrainingSettings
from humpback_ray.training import loop, masters
from humpback_ray.training.deepspeed_engine import build_engine, gathered_weights
from humpback_ray.training.task import BaseModel, TrainingJob, TrainingTask


def main() -> None:
    torch.set_num_threads(1)  # ranks that share two cores
    arguments, rank, num_workers = json.loads(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    settings = TrainingSettings(**arguments["settings"])
    placement = TrainingPlacement(**arguments["placement"])
    base = arguments["base"]
    task = TrainingTask(BaseModel(base), "", settings, 0)
    job = TrainingJob(task, placement, "", placement.zero_stage or 1, 160, 8, 10, "no-run")
    os.environ |= {
        "DS_ACCELERATOR": "cpu", "LOCAL_RANK": str(rank), "RANK": str(rank),
        "WORLD_SIZE": str(num_workers),
    }  # fmt: skip
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{sys.argv[4]}", rank=rank, world_size=num_workers
    )
    engine = build_engine(job, num_workers)
    from deepspeed.utils import safe_get_full_fp32_param

    if arguments["starts_exactly"]:
        assert masters.start_exactly(engine, job) == ""
    files = load_file(f"{base}/model.safetensors")
    started, exported = [], []
    for name, parameter in engine.module.named_parameters():
        if parameter.requires_grad and name in files:
            value = safe_get_full_fp32_param(parameter).view(files[name].shape)
            if not torch.equal(value, files[name].float()):
                started.append(name)
    for name, value in gathered_weights(engine.module, masters.stored_weights(engine.module, job)):
        if not torch.equal(value.to(files[name].dtype), files[name]):
            exported.append(name)
    # The check of the dropout leaves the engine fit for a step.
    assert loop.refuse_dropout(engine, settings.dropout) == ""
    ids = torch.arange(2, 18)[None]
    engine.backward(engine(input_ids=ids, labels=ids, use_cache=False).loss)
    engine.step()
    assert engine.global_steps == 1
    torch.distributed.destroy_process_group()
    if rank == 0:
        print("MASTERS", json.dumps([started, exported]))


if __name__ == "__main__":
    main()
