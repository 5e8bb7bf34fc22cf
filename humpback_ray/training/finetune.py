"""Finetuning on Ray Train workers with DeepSpeed ZeRO: the driver's side.

`finetune` checks the input, tokenizes once, settles how the model lies on the workers, runs them
(`loop.train`) and hands their steps to the caller as they happen.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import fsspec
import ray
import ray.train
from ray.train.torch import TorchTrainer
from ray.train.v2.api import data_parallel_trainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from humpback_ray import storage
from humpback_ray.cluster import capacity, nodes
from humpback_ray.config.placement import EnginePlacement, TrainingPlacement
from humpback_ray.config.settings import TrainingSettings
from humpback_ray.errors import UserError
from humpback_ray.method.schedule import schedule
from humpback_ray.model_folders import local_folder
from humpback_ray.sizing.architecture import find_architecture
from humpback_ray.sizing.memory import fit_workers
from humpback_ray.training import loop, lora
from humpback_ray.training.base_model import load_tokenizer
from humpback_ray.training.batches import TokenizedSet
from humpback_ray.training.deepspeed_engine import TrainingJob
from humpback_ray.training.examples import tokenize
from humpback_ray.training.mailbox import TrainingMailbox

# Ray Train's guard of placement groups asks the dashboard whether the controller lives. Where there
# is none, as on a cluster of one process, each training would wait 12 s for the guard to stop
# (Ray 2.60; benchmarks/LOG.md, "Without a dashboard, Ray Train ends every training 12 s late").
data_parallel_trainer.PlacementGroupCleanerCallback = partial(
    data_parallel_trainer.PlacementGroupCleanerCallback, stop_timeout=1.0
)

NUM_CHECKPOINTS_KEPT = 2
POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """What a finished training counted and measured."""

    num_examples: int  # trained on
    num_truncated: int  # of those, completions cut at max_length
    num_dropped: int  # without a token of the completion left, or too long and not to be cut
    num_tokens: int  # of the set once, prompts included
    num_target_tokens: int  # those of them that carry loss
    num_steps: int
    batch_size: int
    first_loss: float  # mean nats per target token of the first step's batch, before any update
    last_loss: float


def finetune(
    *,
    examples: str,
    base_model: str,
    output: str,
    settings: TrainingSettings,
    placement: TrainingPlacement,
    random_seed: int,
    chat_tags: tuple[str, ...],
    scratch_folder: str,
    on_step: Callable[[dict[str, Any]], None] | None = None,
    on_notice: Callable[[str], None] | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    generation: dict[str, Any] | None = None,
) -> TrainingResult:
    """Finetune `base_model` on `examples` and export the model to `output`.

    Ray must be initialised. A call that was killed resumes from its latest checkpoint when it is
    made again with the same arguments but for the placement; a checkpoint of other settings,
    examples or base model is never used. On SIGTERM the workers save a checkpoint first.

    Args:
        examples: folder of Parquet files with the columns of `TrainingExample`, path or URL.
        base_model: local folder that every node sees, URL of one, or Hugging Face hub id;
            safetensors only.
        output: folder for the model, path or URL, written by the first worker.
        settings: what decides the result.
        placement: where and how it runs.
        random_seed: of the order of the examples and of the dropout.
        chat_tags: default tags of the exported chat template.
        scratch_folder: for checkpoints, path or URL seen by every node; deleted at success.
        on_step: called with one record per step, in this process, on a thread of its own, while
            training runs: step, num_steps, loss (nats per target token of the global batch),
            learning_rate, gradient_norm (before clipping), epoch (passes over the examples so far),
            num_workers, num_micro_batches (of each worker), checkpoint_seconds (of the checkpoint
            before this step, mostly 0) and what `speed.Speed.end` gives. After a worker's
            restart the steps since the last checkpoint come again, with the same numbers but for
            the times.
        on_notice: called with what a person should know: smaller micro-batches after memory ran
            out.
        revision: of a hub id.
        trust_remote_code: run the code that comes with the base model.
        generation: entries for the exported generation_config.json.

    Raises:
        UserError: no examples, a base model that cannot be used, a placement that cannot hold
            this batch, or a training that must not go on (loss, memory, disk).
        SystemExit: SIGTERM came; what was trained is saved.
        ray.train.TrainingFailedError: workers failed more than `placement.max_failures` times.
    """
    base_model = os.path.abspath(base_model) if os.path.isdir(base_model) else base_model
    output, scratch_folder = _absolute(output), _absolute(scratch_folder)
    tokenizer = load_tokenizer(base_model, revision, trust_remote_code)
    if settings.lora:
        source = {"revision": revision, "trust_remote_code": trust_remote_code}
        lora.check_targets(local_folder(base_model, weights=False), settings.lora, source)
    tokenized, num_truncated, num_dropped = tokenize(
        examples, tokenizer, settings.max_length, cut=settings.too_long == "truncate"
    )
    batch_size, num_steps = schedule(tokenized.num_examples, settings)
    if batch_size % placement.num_workers:
        raise UserError(
            f"a batch of {batch_size} examples does not divide among {placement.num_workers} "
            f"training workers: set placement.training.num_workers to a divisor of {batch_size}"
        )
    zero_stage, micro_batch_tokens = choose_zero_and_micro_batch(
        base_model, settings, placement, batch_size
    )
    job = TrainingJob(
        base_model=base_model,
        revision=revision,
        trust_remote_code=trust_remote_code,
        output=output,
        settings=settings,
        placement=placement,
        zero_stage=zero_stage,
        micro_batch_tokens=micro_batch_tokens,
        random_seed=random_seed,
        chat_tags=chat_tags,
        generation=generation,
        batch_size=batch_size,
        num_steps=num_steps,
        run_name=run_name(tokenized, settings, base_model, revision, random_seed, scratch_folder),
    )
    losses = _run_workers(job, tokenized, scratch_folder, on_step, on_notice)
    storage.delete(scratch_folder)
    return TrainingResult(
        num_examples=tokenized.num_examples,
        num_truncated=num_truncated,
        num_dropped=num_dropped,
        num_tokens=len(tokenized.ids),
        num_target_tokens=tokenized.num_target_tokens(),
        num_steps=num_steps,
        batch_size=batch_size,
        **losses,
    )


def choose_zero_and_micro_batch(
    base_model: str, settings: TrainingSettings, placement: TrainingPlacement, batch_size: int
) -> tuple[int, int]:
    """ZeRO stage and tokens of a micro-batch: what the placement says, or else what fits.

    By arithmetic (`memory.fit_workers`) for a known architecture on GPUs of known memory; the
    workers' first pass tries it, and halves the micro-batch where it does not fit after all.
    Otherwise stage 2 on CPUs, 3 on GPUs, and a micro-batch of one full example.
    """
    stage = placement.zero_stage or (3 if placement.offload_parameters else None)
    tokens = placement.micro_batch_tokens
    if tokens is not None and tokens < settings.max_length:
        raise UserError(
            f"a micro-batch of {tokens} tokens does not hold an example of "
            f"{settings.max_length}: set placement.training.micro_batch_tokens to at least the "
            "training's max_length"
        )
    if placement.device == "gpu" and not (stage and tokens):
        found = EnginePlacement(device="gpu", accelerator_type=placement.accelerator_type)
        memory = nodes.device_memory(found)
        architecture = find_architecture(base_model)
        if memory and architecture:
            fit = fit_workers(
                architecture, memory, placement.min_workers or placement.num_workers,
                batch_size=batch_size, max_length=settings.max_length,
                gradient_checkpointing=placement.gradient_checkpointing,
                zero_stages=(stage,) if stage else (1, 2, 3), lora=settings.lora,
            )  # fmt: skip
            return fit.zero_stage, tokens or fit.micro_batch_size * settings.max_length
    return stage or (2 if placement.device == "cpu" else 3), tokens or settings.max_length


# --- workers ------------------------------------------------------------------------------------


def _run_workers(
    job: TrainingJob,
    tokenized: TokenizedSet,
    scratch_folder: str,
    on_step: Callable[[dict[str, Any]], None] | None,
    on_notice: Callable[[str], None] | None,
) -> dict[str, float]:
    """Run the worker group to its end; returns what the first worker returned."""
    min_capacity = min(job.settings.max_length, job.micro_batch_tokens)
    # On the driver's own node, so that it lives exactly as long as the driver can ask it.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = ray.remote(TrainingMailbox).options(num_cpus=0, scheduling_strategy=here)
    mailbox = actor.remote(job.micro_batch_tokens, min_capacity)
    # Each halving of the micro-batches ends an attempt, and so does the last one that fails.
    num_halvings = (job.micro_batch_tokens // min_capacity).bit_length()
    trainer = TorchTrainer(
        loop.train,
        train_loop_config={"job": job, "examples": ray.put(tokenized), "mailbox": mailbox},
        scaling_config=_scaling_config(job.placement),
        run_config=ray.train.RunConfig(
            # Ray Train finds the checkpoints of an earlier driver by storage path and name.
            **_store(scratch_folder),
            name=job.run_name,
            failure_config=ray.train.FailureConfig(
                max_failures=job.placement.max_failures + num_halvings
            ),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=NUM_CHECKPOINTS_KEPT),
            worker_runtime_env={"env_vars": _worker_environment(job.placement)},
        ),
    )
    finished = threading.Event()
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="steps") as pool:
        delivery = pool.submit(_deliver, mailbox, on_step, on_notice, finished)
        try:
            with _terminated(mailbox.stop.remote) as was_terminated:
                fitted = trainer.fit()
        finally:
            finished.set()
        delivery.result()  # raises what the callbacks raised
    result = fitted.return_value
    if "stopped" not in result:
        return result
    _remove_unfinished(fitted, f"{scratch_folder}/{job.run_name}")
    if was_terminated.is_set():
        raise SystemExit(f"the training was terminated: {result['stopped']}")
    raise UserError(f"the training has stopped: {result['stopped']}")


def _remove_unfinished(fitted: ray.train.Result, folder: str) -> None:
    """Give the room of checkpoints back that were not copied to their end."""
    whole = {os.path.basename(checkpoint.path) for checkpoint, _ in fitted.best_checkpoints or []}
    filesystem, path = fsspec.core.url_to_fs(folder)
    for found in filesystem.ls(path, detail=True):
        name = os.path.basename(found["name"].rstrip("/"))
        is_checkpoint = found["type"] == "directory" and name.startswith("checkpoint_")
        if is_checkpoint and name not in whole:
            filesystem.rm(found["name"], recursive=True)


@contextmanager
def _terminated(stop: Callable[[], Any]) -> Iterator[threading.Event]:
    """Call `stop` when SIGTERM comes, instead of ending at once.

    Signals reach the main thread alone; on any other one SIGTERM does what it did before.
    """
    was_terminated = threading.Event()

    def terminate(number: int, frame: Any) -> None:
        was_terminated.set()
        stop()

    if threading.current_thread() is not threading.main_thread():
        yield was_terminated
        return
    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield was_terminated
    finally:
        signal.signal(signal.SIGTERM, before)


def _deliver(
    mailbox: Any,
    on_step: Callable[[dict[str, Any]], None] | None,
    on_notice: Callable[[str], None] | None,
    finished: threading.Event,
) -> None:
    """Hand over records and notices until training has finished and there are no more."""
    last_round = False
    while not last_round:
        last_round = finished.wait(POLL_SECONDS)
        records, notices = ray.get(mailbox.collect.remote())
        for record in records:
            if on_step is not None:
                on_step(record)
        for notice in notices:
            if on_notice is not None:
                on_notice(notice)


def _store(folder: str) -> dict[str, Any]:
    """Where Ray Train keeps checkpoints; at a URL through our client and not one of its own."""
    if "://" not in folder:
        return {"storage_path": folder}
    filesystem, path = storage.arrow_filesystem(folder)
    return {"storage_filesystem": filesystem, "storage_path": path}


def _scaling_config(placement: TrainingPlacement) -> ray.train.ScalingConfig:
    num_workers: int | tuple[int, int] = placement.num_workers
    if placement.min_workers is not None:
        num_workers = placement.min_workers, placement.num_workers
    return ray.train.ScalingConfig(
        num_workers=num_workers,
        use_gpu=placement.device == "gpu",
        resources_per_worker=capacity.worker_bundle(placement),
    )


def _worker_environment(placement: TrainingPlacement) -> dict[str, str]:
    environment = {"TOKENIZERS_PARALLELISM": "false"}
    if placement.device == "cpu":
        # Ray would give each worker as many threads as logical CPUs it reserved.
        num_threads = max((os.cpu_count() or 1) // placement.num_workers, 1)
        environment |= {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": str(num_threads)}
    return environment


def run_name(tokenized: TokenizedSet, settings: TrainingSettings, *others: object) -> str:
    """Name of the run in Ray Train's storage: equal exactly when its checkpoints may be resumed.

    Placement is not part of it: checkpoints are converted to another ZeRO stage or number of
    workers when they are loaded.
    """
    identity = [settings.model_dump(mode="json"), *others]
    digest = hashlib.sha256(json.dumps(identity).encode())
    for values in (tokenized.ids, tokenized.starts, tokenized.first_targets):
        digest.update(values.tobytes())
    return f"train-{digest.hexdigest()[:16]}"


def _absolute(path: str) -> str:
    """Ray Train's workers have a working folder of their own."""
    return path if "://" in path else os.path.abspath(path)
