"""What every training worker runs: load, resume, step, checkpoint, export.

The loop reads top to bottom in `train`. DeepSpeed is imported inside the functions, because the
driver imports this module too and DeepSpeed picks its accelerator from DS_ACCELERATOR, which only
the workers have, at import.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy
import ray
import ray.train
import torch

from humpback_ray.config import TrainingPlacement, TrainingSettings
from humpback_ray.engines import hf_export
from humpback_ray.engines.models import local_folder
from humpback_ray.text.schedule import batch_indices, learning_rate

IGNORED = -100  # label of a position that carries no loss; cross_entropy's default


@dataclass(frozen=True, slots=True)
class TokenizedSet:
    """All examples as flat arrays, which Ray's object store shares without a copy.

    Example i is `ids[starts[i] : starts[i + 1]]`; the loss is on its positions from
    `first_targets[i]` on.
    """

    ids: numpy.ndarray  # int32 (total tokens,)
    starts: numpy.ndarray  # int64 (num_examples + 1,)
    first_targets: numpy.ndarray  # int32 (num_examples,), at least 1

    @property
    def num_examples(self) -> int:
        return len(self.first_targets)

    def num_tokens(self, indices: list[int]) -> int:
        """Tokens of these examples, prompts included."""
        return int((self.starts[1:] - self.starts[:-1])[indices].sum())

    def num_target_tokens(self, indices: list[int] | None = None) -> int:
        """Tokens that carry loss, of these examples or of all."""
        num_targets = self.starts[1:] - self.starts[:-1] - self.first_targets
        return int((num_targets if indices is None else num_targets[indices]).sum())


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """Everything a worker must know, settled by the driver."""

    base_model: str
    revision: str | None
    trust_remote_code: bool
    output: str
    settings: TrainingSettings
    placement: TrainingPlacement
    random_seed: int
    chat_tags: tuple[str, ...]
    generation: dict[str, Any] | None
    batch_size: int
    num_steps: int
    run_name: str  # unique to this training: also names the local folder for checkpoints


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """One forward pass of B examples, padded on the right to their longest, T."""

    input_ids: torch.Tensor  # int64 (B, T)
    attention_mask: torch.Tensor  # int64 (B, T), 0 on padding
    positions: torch.Tensor  # int64 (P,): where any of the examples has a token to predict next
    labels: torch.Tensor  # int64 (B, P): the next token at `positions`, or IGNORED


def collate(examples: TokenizedSet, indices: list[int], pad_token_id: int) -> MicroBatch:
    """The tensors of one forward pass over the examples at `indices`."""
    rows = [examples.ids[examples.starts[i] : examples.starts[i + 1]] for i in indices]
    length = max(len(row) for row in rows)
    input_ids = numpy.full((len(rows), length), pad_token_id, dtype=numpy.int64)
    attention_mask = numpy.zeros_like(input_ids)
    next_tokens = numpy.full_like(input_ids, IGNORED)
    for b, (row, index) in enumerate(zip(rows, indices, strict=True)):
        first = int(examples.first_targets[index])
        input_ids[b, : len(row)] = row
        attention_mask[b, : len(row)] = 1
        next_tokens[b, first - 1 : len(row) - 1] = row[first:]
    # Logits over the vocabulary are the largest tensor of a step: only these positions get any.
    positions = numpy.flatnonzero((next_tokens != IGNORED).any(axis=0))
    return MicroBatch(
        input_ids=torch.from_numpy(input_ids),
        attention_mask=torch.from_numpy(attention_mask),
        positions=torch.from_numpy(positions),
        labels=torch.from_numpy(next_tokens[:, positions]),
    )


def largest_micro_batch(share: int, limit: int) -> int:
    """The largest divisor of a rank's share of the batch that is at most `limit`."""
    return max(size for size in range(1, min(share, limit) + 1) if share % size == 0)


def train(config: dict[str, Any]) -> dict[str, float]:
    """The training function of one Ray Train worker.

    Args:
        config: `job` (TrainingJob), `examples` (reference to a TokenizedSet) and `inbox` (the actor
            that takes one record per step from rank 0).

    Returns:
        `first_loss` and `last_loss` of the whole training, resumed or not.
    """
    job: TrainingJob = config["job"]
    examples: TokenizedSet = ray.get(config["examples"])
    context = ray.train.get_context()
    rank, num_workers = context.get_world_rank(), context.get_world_size()

    share = job.batch_size // num_workers
    micro_size = largest_micro_batch(share, job.placement.micro_batch_size)
    engine, pad_token_id = build_engine(job, micro_size, num_workers)
    progress = load_latest_checkpoint(engine)
    delivery = None
    saving = 0.0  # seconds of the checkpoint before this step

    for step in range(progress["step"] + 1, job.num_steps + 1):
        started = time.perf_counter()
        batch = batch_indices(step, job.batch_size, examples.num_examples, job.random_seed)
        num_target_tokens = examples.num_target_tokens(batch)
        rate = learning_rate(step, job.num_steps, job.settings)
        for group in engine.optimizer.param_groups:
            group["lr"] = rate

        negative_log_likelihood = torch.zeros((), device=engine.device)
        mine = batch[rank * share : (rank + 1) * share]
        for micro_step, indices in enumerate(_chunks(mine, micro_size)):
            torch.manual_seed(_dropout_seed(job.random_seed, step, rank, micro_step))
            micro_batch = collate(examples, indices, pad_token_id)
            micro_sum = completion_loss(engine, micro_batch)
            # DeepSpeed divides by the number of micro-batches and averages over the ranks. Undone
            # here, what is left is the mean over the completion tokens of the global batch: a mean
            # of means would give a token of a short answer more weight.
            scale = num_workers * engine.gradient_accumulation_steps() / num_target_tokens
            engine.backward(micro_sum * scale)
            negative_log_likelihood += micro_sum.detach()
            norm = unpartitioned_gradient_norm(engine)
            engine.step()
        assert engine.global_steps == step, "one optimizer step per batch"

        torch.distributed.all_reduce(negative_log_likelihood)
        progress["step"] = step
        progress["last_loss"] = negative_log_likelihood.item() / num_target_tokens
        progress.setdefault("first_loss", progress["last_loss"])
        if rank == 0:
            seconds = time.perf_counter() - started
            delivery = config["inbox"].put.remote(
                {
                    "step": step,
                    "num_steps": job.num_steps,
                    "loss": progress["last_loss"],
                    "learning_rate": rate,
                    "gradient_norm": float(engine.get_global_grad_norm() or norm),
                    "tokens_per_second": examples.num_tokens(batch) / seconds,
                    "seconds": seconds,
                    "checkpoint_seconds": saving,
                    "epoch": step * job.batch_size / examples.num_examples,
                }
            )
        saving = 0.0
        if step % job.placement.checkpoint_every == 0 and step < job.num_steps:
            if delivery is not None:
                ray.get(delivery)  # a step that a restart skips must have been seen by the driver
            started = time.perf_counter()
            save_checkpoint(engine, job, rank, progress)
            saving = time.perf_counter() - started

    if delivery is not None:
        ray.get(delivery)
    export(engine, job, rank)
    return {"first_loss": progress["first_loss"], "last_loss": progress["last_loss"]}


def completion_loss(engine: Any, batch: MicroBatch) -> torch.Tensor:
    """Sum of the negative log-likelihoods of a micro-batch's target tokens, in nats, in fp32."""
    logits = engine(
        input_ids=batch.input_ids.to(engine.device),
        attention_mask=batch.attention_mask.to(engine.device),
        logits_to_keep=batch.positions.to(engine.device),
        use_cache=False,
    ).logits  # (B, P, vocabulary)
    return torch.nn.functional.cross_entropy(
        logits.float().flatten(0, 1), batch.labels.to(engine.device).flatten(), reduction="sum"
    )


def unpartitioned_gradient_norm(engine: Any) -> float:
    """Norm of the averaged gradients where DeepSpeed keeps none (fp32, stage 0); 0 elsewhere.

    To be called between the last backward of a batch and the step, which clears the gradients.
    """
    if engine.zero_optimization():
        return 0.0
    gradients = [p.grad for p in engine.module.parameters() if p.grad is not None]
    return float(torch.nn.utils.get_total_norm(gradients))


# --- engine -------------------------------------------------------------------------------------


def deepspeed_config(job: TrainingJob, micro_size: int, num_workers: int) -> dict[str, Any]:
    """The DeepSpeed configuration of a job, https://www.deepspeed.ai/docs/config-json/."""
    placement = job.placement
    bf16 = job.settings.precision == "bf16"
    zero: dict[str, Any] = {
        # DeepSpeed's bf16 optimizer without ZeRO takes an Adam step on zero gradients before the
        # first batch, which makes the first updates a quarter smaller. Stage 1 does not.
        "stage": max(placement.zero_stage, 1) if bf16 else placement.zero_stage,
        # On CPU there are no streams on which communication could overlap computation.
        "overlap_comm": placement.device == "gpu",
    }
    if placement.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": placement.device == "gpu"}
    if placement.offload_parameters:
        zero["offload_param"] = {"device": "cpu", "pin_memory": placement.device == "gpu"}
    config: dict[str, Any] = {
        "train_batch_size": job.batch_size,
        "train_micro_batch_size_per_gpu": micro_size,
        "gradient_accumulation_steps": job.batch_size // (micro_size * num_workers),
        "gradient_clipping": job.settings.max_gradient_norm,
        "bf16": {"enabled": bf16},
        "zero_optimization": zero,
    }
    if bf16:
        # Sums of many small gradients in bf16 would depend on the micro-batch size.
        config["data_types"] = {"grad_accum_dtype": "fp32"}
    return config


def build_engine(job: TrainingJob, micro_size: int, num_workers: int) -> tuple[Any, int]:
    """The DeepSpeed engine around the base model, and the id to pad with."""
    import deepspeed
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers.integrations import HfDeepSpeedConfig

    if job.placement.device == "cpu":
        # The shared-memory kernels serve inference only, but would be compiled for a minute.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    # Over the process group that Ray Train has made. Before the model is loaded: ZeRO-3 partitions
    # it over the ranks that DeepSpeed knows of by then.
    deepspeed.init_distributed()
    base_model = local_folder(job.base_model)
    source = {"revision": job.revision, "trust_remote_code": job.trust_remote_code}
    config = deepspeed_config(job, micro_size, num_workers)
    # While this object lives, `from_pretrained` partitions a ZeRO-3 model as it loads it.
    partitioning = HfDeepSpeedConfig(config)
    model_config = AutoConfig.from_pretrained(base_model, **source)
    if hasattr(model_config, "attention_dropout"):
        model_config.attention_dropout = job.settings.dropout
    model = AutoModelForCausalLM.from_pretrained(
        base_model,
        config=model_config,
        dtype=torch.bfloat16 if job.settings.precision == "bf16" else torch.float32,
        use_safetensors=True,
        **source,
    )
    del partitioning
    model.train()
    if job.placement.gradient_checkpointing:
        model.activation_checkpointing_enable()
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=build_optimizer(model, job),
        config=config,
        dist_init_required=False,
    )
    tokenizer = AutoTokenizer.from_pretrained(base_model, **source)
    pad = tokenizer.pad_token_id
    return engine, pad if pad is not None else tokenizer.eos_token_id


def build_optimizer(model: torch.nn.Module, job: TrainingJob) -> torch.optim.Optimizer:
    """AdamW with weight decay on the matrices alone, not on norms and biases."""
    # Under ZeRO-3 a parameter is an empty shard here; `ds_shape` keeps what it was.
    matrices: list[torch.nn.Parameter] = []
    vectors: list[torch.nn.Parameter] = []
    for parameter in model.parameters():
        num_dimensions = len(getattr(parameter, "ds_shape", parameter.shape))
        (matrices if num_dimensions >= 2 else vectors).append(parameter)
    groups = [
        {"params": matrices, "weight_decay": job.settings.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    options: dict[str, Any] = {
        "lr": job.settings.learning_rate,
        "betas": (job.settings.adam_beta1, job.settings.adam_beta2),
    }
    if job.placement.offload_optimizer:
        from deepspeed.ops.adam import DeepSpeedCPUAdam

        return DeepSpeedCPUAdam(groups, **options)
    return torch.optim.AdamW(groups, **options, fused=job.placement.device == "gpu")


# --- checkpoints --------------------------------------------------------------------------------


def save_checkpoint(engine: Any, job: TrainingJob, rank: int, progress: dict[str, Any]) -> None:
    """Save this rank's shards and report them; Ray Train merges the ranks' folders in storage."""
    # A fixed place, emptied first: what a killed worker left half-written does not pile up.
    folder = os.path.join(tempfile.gettempdir(), f"humpback-{job.run_name}-{rank}")
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)  # DeepSpeed makes it on rank 0 alone, and ranks may be on other nodes
    engine.save_checkpoint(folder, tag="state", client_state={"progress": dict(progress)})
    ray.train.report(
        {"step": progress["step"]},
        checkpoint=ray.train.Checkpoint.from_directory(folder),
    )
    shutil.rmtree(folder)


def load_latest_checkpoint(engine: Any) -> dict[str, Any]:
    """Restore the engine from the run's latest checkpoint, if there is one.

    Returns:
        `step` (0 at the start) and, after the first step, `first_loss` and `last_loss`.
    """
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return {"step": 0}
    with checkpoint.as_directory() as folder:
        path, client_state = engine.load_checkpoint(folder, tag="state")
    assert path is not None, f"no DeepSpeed state in {folder}"
    progress = dict(client_state["progress"])
    assert engine.global_steps == progress["step"], "the engine and the step counter disagree"
    return progress


# --- the end ------------------------------------------------------------------------------------


def export(engine: Any, job: TrainingJob, rank: int) -> None:
    """Gather the weights (all ranks take part) and let rank 0 write the model folder."""
    if engine.zero_optimization_partition_weights():
        # The public `save_16bit_model` gives the same tensors, but only as a pickled .bin.
        weights = engine._zero3_consolidated_16bit_state_dict()
    else:
        weights = engine.module.state_dict()
    if rank == 0:
        hf_export.export_model(
            model=engine.module,
            weights=weights,
            base_model=local_folder(job.base_model),
            revision=job.revision,
            trust_remote_code=job.trust_remote_code,
            output=job.output,
            chat_tags=job.chat_tags,
            generation=job.generation,
        )


def _chunks(items: list[int], size: int) -> Iterator[list[int]]:
    for first in range(0, len(items), size):
        yield items[first : first + size]


def _dropout_seed(*parts: int) -> int:
    """One seed per (run, step, rank, micro step), so a resumed run draws the same dropout."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:7], "big")
