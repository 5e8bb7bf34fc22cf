"""The trainings of `gpu_check.py`: a model and examples of random words, our engine, a plain step.

Nothing here needs Ray but `with_ray_train`, and nothing is downloaded.
"""

from __future__ import annotations

import os
import random
import string
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from humpback_ray.config.placement import TrainingPlacement
from humpback_ray.config.settings import TrainingSettings
from humpback_ray.rows import Origin, TrainingExample
from humpback_ray.sizing import memory
from humpback_ray.sizing.architecture import Architecture
from humpback_ray.sizing.hardware import GpuModel, Hardware
from humpback_ray.sizing.time import step_seconds
from humpback_ray.training.task import BaseModel, TrainingJob, TrainingTask

TAG = "Answer in the style of an AI Assistant."
NUM_STEPS, NUM_WARM_UP = 10, 3  # all steps, and those whose times are not counted
SEED = 0


@dataclass(frozen=True)
class TrainingCase:
    """One model with its examples and settings on one device."""

    name: str
    device: str  # cpu or gpu
    architecture: Architecture
    precision: str
    max_length: int
    batch_size: int
    micro_batch_tokens: int
    folder: Path

    @property
    def settings(self) -> TrainingSettings:
        return TrainingSettings(
            # High enough that ten steps lower the loss by far more than rounding does.
            learning_rate=1e-3, final_learning_rate=1e-3, dropout=0.0, batch_size=self.batch_size,
            num_steps=NUM_STEPS, max_length=self.max_length, precision=self.precision,
        )  # fmt: skip

    def job(self, output: str = "", **placement: Any) -> TrainingJob:
        """The job of one worker; `placement` has what differs from ZeRO 1 with torch's kernels."""
        placed = TrainingPlacement(
            device=self.device, num_workers=1, micro_batch_tokens=self.micro_batch_tokens,
            **{"zero_stage": 1} | placement,
        )  # fmt: skip
        task = TrainingTask(BaseModel(self.base()), "", self.settings, SEED)
        assert placed.zero_stage is not None
        return TrainingJob(
            task, placed, output, placed.zero_stage, self.micro_batch_tokens, self.batch_size,
            NUM_STEPS, "check",
        )  # fmt: skip

    def base(self) -> str:
        """The folder of the random model, written by the first part that asks for it."""
        folder = self.folder / self.name
        if not folder.exists():
            write_model(self.architecture, self.precision, self.device, folder)
        return str(folder)

    def examples(self) -> list[TrainingExample]:
        """Answers from an eighth of the length to more than all of it."""
        draw = random.Random(SEED)
        return [
            TrainingExample(
                f"{number:05}",
                text(draw, self.max_length // 16),
                TAG,
                text(draw, draw.randint(self.max_length // 8, self.max_length)),
                Origin.SEED,
            )
            for number in range(self.batch_size * NUM_STEPS)
        ]

    def tokenized(self) -> Any:
        """The examples' ids, the same as `training.examples.tokenize` reads from Parquet files."""
        import numpy
        from transformers import AutoTokenizer

        from humpback_ray.method.tokens import example_ids
        from humpback_ray.training.batches import TokenizedSet

        tokenizer = AutoTokenizer.from_pretrained(self.base())
        found = [
            example_ids(tokenizer, e.prompt, e.tag, e.completion, self.max_length)
            for e in self.examples()
        ]
        kept = [example for example in found if example is not None]
        assert len(kept) == len(found)
        return TokenizedSet(
            numpy.concatenate([numpy.array(e.ids, numpy.int32) for e in kept]),
            numpy.cumsum([0, *(len(e.ids) for e in kept)], dtype=numpy.int64),
            numpy.array([e.num_prompt for e in kept], numpy.int32),
        )


# --- data ---------------------------------------------------------------------------------------


@cache
def words(count: int = 30_000) -> tuple[str, ...]:
    """Different random words; the first are drawn most."""
    draw = random.Random(SEED)
    letters = string.ascii_lowercase
    return tuple(
        dict.fromkeys("".join(draw.choices(letters, k=draw.randint(2, 8))) for _ in range(count))
    )


@cache
def _weights() -> tuple[float, ...]:
    """Zipf's law: a model that has learnt it has a far lower loss than an untrained one."""
    return tuple(1 / rank for rank in range(1, len(words()) + 1))


def text(draw: random.Random, num_words: int) -> str:
    return " ".join(draw.choices(words(), _weights(), k=max(num_words, 1)))


def write_model(architecture: Architecture, precision: str, device: str, folder: Path) -> None:
    """Random weights and a tokenizer whose vocabulary fits them."""
    import torch
    from transformers import LlamaForCausalLM

    torch.manual_seed(SEED)
    # Under its name only when it is whole: a part that its time limit kills may leave a piece.
    partial = Path(tempfile.mkdtemp(dir=folder.parent))
    config = _write_config(architecture, precision, partial)
    with torch.device("cuda" if device == "gpu" else "cpu"):
        model = LlamaForCausalLM(config).to(config.dtype)
    model.save_pretrained(partial)
    partial.rename(folder)


def write_config(architecture: Architecture, precision: str, folder: Path) -> None:
    """A configuration and a tokenizer: all that an engine with dummy weights reads."""
    partial = Path(tempfile.mkdtemp(dir=folder.parent))
    _write_config(architecture, precision, partial)
    partial.rename(folder)


def _write_config(architecture: Architecture, precision: str, folder: Path) -> Any:
    import torch
    from transformers import LlamaConfig

    from humpback_ray.training.scratch_model import train_tokenizer

    tokenizer = train_tokenizer([" ".join(words())], architecture.vocabulary_size)
    assert len(tokenizer) == architecture.vocabulary_size, "the vocabularies must agree"
    config = LlamaConfig(
        architectures=["LlamaForCausalLM"], vocab_size=architecture.vocabulary_size,
        hidden_size=architecture.hidden_size,
        intermediate_size=architecture.intermediate_size,
        num_hidden_layers=architecture.num_layers, num_attention_heads=architecture.num_heads,
        num_key_value_heads=architecture.num_kv_heads, head_dim=architecture.head_size,
        max_position_embeddings=2048, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    config.dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return config


# --- sides --------------------------------------------------------------------------------------


class PlainEngine:
    """A step in plain PyTorch: the weights, fp32 masters of them, clipping and fused AdamW.

    It has the members of a DeepSpeed engine that a step uses, so both run in the same loop.
    """

    def __init__(self, case: TrainingCase, device: str, attention: str) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        from humpback_ray.training.deepspeed_engine import build_optimizer

        self.device = torch.device("cuda", 0) if device == "gpu" else torch.device("cpu")
        dtype = torch.bfloat16 if case.precision == "bf16" else torch.float32
        self.module = AutoModelForCausalLM.from_pretrained(
            case.base(), dtype=dtype, attn_implementation=attention
        )
        self.module.to(self.device).train()
        self._weights = list(self.module.parameters())
        self._masters = torch.nn.ParameterList(weight.detach().float() for weight in self._weights)
        self.optimizer = build_optimizer(self._masters, case.job())
        self._max_norm = case.settings.max_gradient_norm

    def __call__(self, **inputs: Any) -> Any:
        return self.module(**inputs)

    def backward(self, loss: Any) -> None:
        loss.backward()
        for weight, master in zip(self._weights, self._masters, strict=True):
            gradient, weight.grad = weight.grad.float(), None
            master.grad = gradient if master.grad is None else master.grad.add_(gradient)

    def step(self) -> None:
        import torch

        torch.nn.utils.clip_grad_norm_(self._masters.parameters(), self._max_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        for weight, master in zip(self._weights, self._masters, strict=True):
            weight.data.copy_(master.data)


def our_engine(job: TrainingJob) -> Any:
    """The DeepSpeed engine as a worker builds it, with this process as the only rank."""
    import torch

    from humpback_ray.training.deepspeed_engine import build_engine, refuse_kernels

    assert not (refusal := refuse_kernels(job)), refusal
    on_gpu = job.placement.device == "gpu"
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    if on_gpu:
        torch.cuda.set_device(0)
    rendezvous = Path(tempfile.mkdtemp()) / "rendezvous"
    torch.distributed.init_process_group(
        "nccl" if on_gpu else "gloo", init_method=f"file://{rendezvous}", rank=0, world_size=1
    )
    return build_engine(job, 1)


def train(engine: Any, job: TrainingJob, examples: Any) -> dict[str, Any]:
    """Make the ten steps; returns their figures."""
    losses, speeds = zip(*steps(engine, job, examples, NUM_STEPS), strict=True)
    return figures(list(losses), list(speeds))


def steps(
    engine: Any, job: TrainingJob, examples: Any, num_steps: int
) -> Iterator[tuple[float, Any]]:
    """Make the first steps as `training/loop.py` does; yields the loss and speed of each."""
    import torch

    from humpback_ray.method.schedule import batch_indices, learning_rate
    from humpback_ray.training import batches
    from humpback_ray.training.loss import completion_loss
    from humpback_ray.training.packing import plan_step
    from humpback_ray.training.speed import Speed

    speed = Speed(engine, job)
    for step in range(1, num_steps + 1):
        speed.begin()
        batch = batch_indices(step, job.batch_size, examples.num_examples, job.task.random_seed)
        num_target_tokens = examples.num_target_tokens(batch)
        lengths = examples.lengths[batch]
        (plan,) = plan_step(lengths.tolist(), 1, job.micro_batch_tokens, packed=True)
        for group in engine.optimizer.param_groups:
            group["lr"] = learning_rate(step, job.num_steps, job.settings)
        total = torch.zeros((), device=engine.device)
        for places in plan:
            micro_batch = batches.packed(examples, [batch[place] for place in places], 0)
            with speed.phase("forward"):
                micro_sum = completion_loss(engine, micro_batch)
            with speed.phase("backward"):
                engine.backward(micro_sum / num_target_tokens)
            total += micro_sum.detach()
        with speed.phase("optimizer"):
            engine.step()
        yield total.item() / num_target_tokens, speed.end(lengths, num_target_tokens, 1)


def figures(losses: list[float], speeds: list[Any]) -> dict[str, Any]:
    """Losses of all steps, and rates over those after the warm-up."""
    counted = speeds[NUM_WARM_UP:]
    seconds = sum(speed.seconds for speed in counted)
    mfu = None
    if counted[0].mfu is not None:
        mfu = sum(speed.mfu * speed.seconds for speed in counted) / seconds
    return {
        "value": sum(speed.tokens_per_second * speed.seconds for speed in counted) / seconds,
        "seconds_per_step": seconds / len(counted),
        "mfu": mfu,
        "peak_tflops": counted[0].peak_tflops,
        "peak_memory_gib": counted[-1].peak_memory_gib,
        "losses": losses,
    }


def with_ray_train(case: TrainingCase) -> dict[str, Any]:
    """`finetune` with one worker on a local Ray: the real loop, checkpoints and export with it."""
    import ray

    from humpback_ray import tables
    from humpback_ray.training.finetune import finetune

    rows = case.folder / "examples"
    tables.write_rows(str(rows), case.examples(), TrainingExample)
    job = case.job()
    ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level="ERROR")
    records: list[Any] = []
    finetune(
        replace(job.task, examples=str(rows)),
        placement=job.placement,
        output=str(case.folder / "ray-model"),
        scratch_folder=str(case.folder / "ray-scratch"),
        on_step=records.append,
    )
    ray.shutdown()
    return figures([record.loss for record in records], [record.speed for record in records])


# --- checks -------------------------------------------------------------------------------------


def forecast(case: TrainingCase, measured: dict[str, Any], lengths: Any) -> dict[str, Any]:
    """The estimate's seconds and memory of the same step on a chip of this peak."""
    if measured["peak_tflops"] is None:
        return {"note": "this GPU is not in sizing/hardware.py: no MFU and no forecast"}
    hardware = Hardware(GpuModel("here", 0, measured["peak_tflops"], 0, 0, 0), 1)
    fit = memory.TrainingFit(
        1, case.micro_batch_tokens // case.max_length, 1,
        memory.state_bytes(case.architecture, 1, 1),
        memory.activation_bytes(
            case.architecture, case.micro_batch_tokens, gradient_checkpointing=False
        ),
    )  # fmt: skip
    seconds = step_seconds(
        case.architecture, hardware, fit, batch_size=case.batch_size,
        sequence_length=float(lengths.mean()),
    )  # fmt: skip
    needed = fit.needed_bytes / 2**30
    return {
        "forecast_seconds_per_step": seconds,
        "forecast_memory_gib": needed,
        "note": f"forecast: {seconds:.3g} s a step, {needed:.1f} GiB; measured: "
        f"{measured['seconds_per_step']:.3g} s, {measured['peak_memory_gib']:.1f} GiB",
    }


def loss_on_cpu(folder: str, examples: Any) -> float:
    """Mean loss of the first example by transformers alone, from a model folder."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids, first = examples.example(0)
    row = torch.tensor(ids.astype("int64"))
    with torch.no_grad():
        logits = model(input_ids=row[None]).logits[0, first - 1 : -1]
    return torch.nn.functional.cross_entropy(logits, row[first:]).item()
