"""Finetuning on Ray Train workers with DeepSpeed ZeRO: the driver's side.

`finetune` checks the input, tokenizes once, lays the model on the workers, runs `loop.train` on
them, and hands their step records to the caller as they arrive.
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
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import ray
import ray.train
from ray.train.torch import TorchTrainer
from ray.train.v2.api import data_parallel_trainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from humpback_ray import storage
from humpback_ray.cluster import capacity, nodes
from humpback_ray.config.placement import EnginePlacement, TrainingPlacement
from humpback_ray.errors import UserError
from humpback_ray.method.schedule import num_passes, schedule
from humpback_ray.sizing.architecture import find_architecture
from humpback_ray.sizing.memory import NUM_CHECKPOINTS_KEPT, fit_workers
from humpback_ray.training import loop, lora
from humpback_ray.training.base_model import load_tokenizer
from humpback_ray.training.batches import TokenizedSet
from humpback_ray.training.examples import tokenize
from humpback_ray.training.mailbox import TrainingMailbox
from humpback_ray.training.records import StepRecord
from humpback_ray.training.task import TrainingJob, TrainingTask

POLL_SECONDS = 0.2

OnStep = Callable[[StepRecord], object]
OnNotice = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """The counts and losses of a finished training."""

    num_examples: int  # trained on
    num_truncated: int  # of those, completions cut at max_length
    num_dropped: int  # without a token of the completion left, or too long and not to be cut
    num_tokens: int  # of the set once, prompts included
    num_target_tokens: int  # those of them that carry loss
    num_steps: int
    batch_size: int
    first_loss: float  # mean nats per target token of the first step's batch, before any update
    last_loss: float

    @property
    def num_passes(self) -> float:
        """Passes over the set; below 1 the share of it that was seen."""
        return num_passes(self.num_examples, self.batch_size, self.num_steps)


def finetune(
    task: TrainingTask,
    *,
    placement: TrainingPlacement,
    output: str,
    scratch_folder: str,
    on_step: OnStep | None = None,
    on_notice: OnNotice | None = None,
) -> TrainingResult:
    """Train a task's model and export its weights to `output`.

    Ray must be initialised. If the driver is killed, a second call with the same task and folders
    resumes from the latest checkpoint; the placement may differ. A checkpoint of another task is
    never used. On SIGTERM the workers save a checkpoint first.

    Args:
        task: everything that decides the weights.
        placement: where and how the training runs.
        output: folder for the model, path or URL, written by the first worker.
        scratch_folder: for checkpoints, path or URL seen by every node; deleted at success.
        on_step: called with each step's record while the training runs, in this process on a second
            thread. After a worker's restart the steps since the last checkpoint come again, with
            the same figures but for times.
        on_notice: called with messages for a person, such as smaller micro-batches after memory ran
            out.

    Raises:
        UserError: no examples, a base model that cannot be used, a placement that cannot hold
            this batch, or a training that must stop (loss, memory, disk).
        SystemExit: SIGTERM came, and a checkpoint is saved.
        ray.train.TrainingFailedError: workers failed more than `placement.max_failures` times.
    """
    task = replace(task, base=task.base.absolute())
    output, scratch_folder = storage.absolute(output), storage.absolute(scratch_folder)
    tokenizer = load_tokenizer(task.base)
    if task.settings.lora:
        lora.check_targets(task.base, task.settings.lora)
    tokenized, num_truncated, num_dropped = tokenize(
        task.examples, tokenizer, task.settings.max_length,
        cut=task.settings.too_long == "truncate",
    )  # fmt: skip
    job = plan_job(task, tokenized, placement, output, scratch_folder)
    if on_notice is not None and (line := idle_workers_line(job)):
        on_notice(line)
    mailbox = _start_mailbox(job)
    limit_cleaner_wait()
    trainer = TorchTrainer(
        loop.train,
        train_loop_config={"job": job, "examples": ray.put(tokenized), "mailbox": mailbox},
        scaling_config=_scaling_config(placement),
        run_config=_run_config(job, scratch_folder),
    )
    with (
        _delivering(mailbox, on_step, on_notice),
        _terminated(mailbox.stop.remote) as was_terminated,
    ):
        fitted = trainer.fit()
    losses = fitted.return_value
    if "stopped" in losses:
        _remove_unfinished(fitted, storage.join(scratch_folder, job.run_name))
        if was_terminated.is_set():
            raise SystemExit(f"the training was terminated: {losses['stopped']}")
        raise UserError(f"the training has stopped: {losses['stopped']}")
    storage.delete(scratch_folder)
    return TrainingResult(
        num_examples=tokenized.num_examples,
        num_truncated=num_truncated,
        num_dropped=num_dropped,
        num_tokens=len(tokenized.ids),
        num_target_tokens=tokenized.num_target_tokens(),
        num_steps=job.num_steps,
        batch_size=job.batch_size,
        **losses,
    )


# --- before the workers start -------------------------------------------------------------------


def plan_job(
    task: TrainingTask,
    tokenized: TokenizedSet,
    placement: TrainingPlacement,
    output: str,
    scratch_folder: str,
) -> TrainingJob:
    """The job of every worker.

    Raises:
        UserError: a micro-batch is too small.
    """
    batch_size, num_steps = schedule(tokenized.num_examples, task.settings)
    zero_stage, micro_batch_tokens = choose_zero_and_micro_batch(task, placement, batch_size)
    return TrainingJob(
        task=task,
        placement=placement,
        output=output,
        zero_stage=zero_stage,
        micro_batch_tokens=micro_batch_tokens,
        batch_size=batch_size,
        num_steps=num_steps,
        run_name=run_name(task, tokenized, scratch_folder),
    )


def idle_workers_line(job: TrainingJob) -> str:
    """One line for a person where workers outnumber a step's examples; otherwise empty.

    ZeRO needs all workers for the model's states, so none is left out. A worker without an example
    takes part with a token of no loss, and the gradient is that of the batch.
    """
    num_workers, batch_size = job.placement.num_workers, job.batch_size
    if num_workers <= batch_size:
        return ""
    return (
        f"a step has {batch_size} examples for {num_workers} training workers: "
        f"{num_workers - batch_size} of them hold their share of the states and have no example"
    )


def choose_zero_and_micro_batch(
    task: TrainingTask, placement: TrainingPlacement, batch_size: int
) -> tuple[int, int]:
    """ZeRO stage and tokens of a micro-batch: the placement's, or else the largest that fit.

    `memory.fit_workers` calculates them for a known architecture on GPUs of known memory. The
    workers' first pass tries the micro-batch, and halves it if it does not fit after all. In all
    other cases the stage is 1 on CPUs and 3 on GPUs, and the micro-batch is one full example. Stage
    1 copies and sums gradients once a step, stage 2 after each micro-batch.
    """
    settings = task.settings
    stage = placement.zero_stage or (3 if placement.offload_parameters else None)
    tokens = placement.micro_batch_tokens
    if tokens is not None and tokens < settings.max_length:
        raise UserError(
            f"a micro-batch of {tokens} tokens does not hold an example of "
            f"{settings.max_length}: set placement.training.micro_batch_tokens to at least the "
            "training's max_length"
        )
    if placement.device == "gpu" and not (stage and tokens):
        gpus = EnginePlacement(device="gpu", accelerator_type=placement.accelerator_type)
        memory = nodes.device_memory(gpus)
        architecture = find_architecture(task.base.location)
        if memory and architecture:
            fit = fit_workers(
                architecture, memory, placement.min_workers or placement.num_workers,
                batch_size=batch_size, max_length=settings.max_length,
                gradient_checkpointing=placement.gradient_checkpointing,
                zero_stages=(stage,) if stage else (1, 2, 3), lora=settings.lora,
            )  # fmt: skip
            return fit.zero_stage, tokens or fit.micro_batch_size * settings.max_length
    return stage or (1 if placement.device == "cpu" else 3), tokens or settings.max_length


def run_name(task: TrainingTask, tokenized: TokenizedSet, scratch_folder: str) -> str:
    """The run's name in Ray Train's storage: equal exactly when its checkpoints may be resumed.

    The placement is not part of it, because workers convert checkpoints of another ZeRO stage or
    number of workers when they load them.
    """
    identity = [
        task.settings.model_dump(mode="json"), task.base.location, task.base.revision,
        task.random_seed, scratch_folder,
    ]  # fmt: skip
    digest = hashlib.sha256(json.dumps(identity).encode())
    for values in (tokenized.ids, tokenized.starts, tokenized.first_targets):
        digest.update(values.tobytes())
    return f"train-{digest.hexdigest()[:16]}"


# --- Ray Train ----------------------------------------------------------------------------------


def limit_cleaner_wait() -> None:
    """Let Ray Train's guard of placement groups stop within a second after a training.

    The guard asks the dashboard about the controller. A local cluster has no dashboard, and each
    training on it would wait 12 s for the guard to stop (benchmarks/LOG.md, "Without a dashboard,
    Ray Train ends every training 12 s late"). Ray 2.60 has no setting for that, so this replaces a
    private name; with a Ray that no longer has the name, trainings work and wait.
    """
    cleaner = getattr(data_parallel_trainer, "PlacementGroupCleanerCallback", None)
    if isinstance(cleaner, type):  # not yet replaced
        data_parallel_trainer.PlacementGroupCleanerCallback = partial(cleaner, stop_timeout=1.0)


def _start_mailbox(job: TrainingJob) -> Any:
    # On the driver's node, so that it lives exactly as long as the driver can ask it.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = ray.remote(TrainingMailbox).options(num_cpus=0, scheduling_strategy=here)
    return actor.remote(job.micro_batch_tokens, _min_capacity(job))


def _min_capacity(job: TrainingJob) -> int:
    """The smallest micro-batch that memory running out may lead to, in tokens."""
    return min(job.settings.max_length, job.micro_batch_tokens)


def _run_config(job: TrainingJob, scratch_folder: str) -> ray.train.RunConfig:
    # Each halving of the micro-batches ends an attempt, and so does the last one that fails.
    num_halvings = (job.micro_batch_tokens // _min_capacity(job)).bit_length()
    max_failures = job.placement.max_failures + num_halvings
    return ray.train.RunConfig(
        # Ray Train finds the checkpoints of an earlier driver by storage path and name.
        **_storage_options(scratch_folder),
        name=job.run_name,
        failure_config=ray.train.FailureConfig(max_failures=max_failures),
        checkpoint_config=ray.train.CheckpointConfig(num_to_keep=NUM_CHECKPOINTS_KEPT),
        worker_runtime_env={"env_vars": worker_environment(job.placement)},
    )


def _storage_options(folder: str) -> dict[str, Any]:
    """Ray Train's place for checkpoints; at a URL through fsspec's client, not Arrow's."""
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


def worker_environment(placement: TrainingPlacement) -> dict[str, str]:
    """Environment variables of a worker's process, set before it starts."""
    environment = {"TOKENIZERS_PARALLELISM": "false"}
    if placement.device == "cpu":
        # Ray would give each worker as many threads as logical CPUs it reserved.
        num_threads = max((os.cpu_count() or 1) // placement.num_workers, 1)
        environment |= {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": str(num_threads)}
        # Freed tensors stay in one heap for all threads. glibc would give large ones back to the
        # system, and the next one would fault for every 4 KiB: half of DeepSpeed's optimizer step
        # (benchmarks/LOG.md, "Page faults").
        environment |= {
            "MALLOC_MMAP_MAX_": "0",
            "MALLOC_TRIM_THRESHOLD_": str(2**62),
            "MALLOC_ARENA_MAX": "1",
        }
    return environment


def _remove_unfinished(fitted: ray.train.Result, folder: str) -> None:
    """Delete checkpoints that were not copied completely; they would only take up disk."""
    whole = {os.path.basename(checkpoint.path) for checkpoint, _ in fitted.best_checkpoints or []}
    filesystem, path = storage.locate(folder)
    for entry in filesystem.ls(path, detail=True):
        name = os.path.basename(entry["name"].rstrip("/"))
        is_checkpoint = entry["type"] == "directory" and name.startswith("checkpoint_")
        if is_checkpoint and name not in whole:
            filesystem.rm(entry["name"], recursive=True)


# --- while the workers run ----------------------------------------------------------------------


@contextmanager
def _terminated(stop: Callable[[], Any]) -> Iterator[threading.Event]:
    """Call `stop` on SIGTERM instead of ending at once; the event then is set.

    Only the main thread can handle signals; in any other thread SIGTERM keeps its effect. SIGINT
    gets its effect back at the end: Ray Train's handler would stay, and swallow the interrupts of
    all later stages.
    """
    was_terminated = threading.Event()

    def terminate(number: int, frame: Any) -> None:
        was_terminated.set()
        stop()

    if threading.current_thread() is not threading.main_thread():
        yield was_terminated
        return
    at_interrupt = signal.getsignal(signal.SIGINT)
    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield was_terminated
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGINT, at_interrupt)


@contextmanager
def _delivering(mailbox: Any, on_step: OnStep | None, on_notice: OnNotice | None) -> Iterator[None]:
    """Call the callbacks from a second thread; at the end, raise what they raised."""
    finished = threading.Event()
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="steps") as pool:
        delivery = pool.submit(_deliver, mailbox, on_step, on_notice, finished)
        try:
            yield
        finally:
            finished.set()
        delivery.result()


def _deliver(
    mailbox: Any, on_step: OnStep | None, on_notice: OnNotice | None, finished: threading.Event
) -> None:
    """Hand over records and notices until the training has finished and the mailbox is empty."""
    is_last = False
    while not is_last:
        is_last = finished.wait(POLL_SECONDS)
        records, notices = ray.get(mailbox.collect.remote())
        for record in records:
            if on_step is not None:
                on_step(record)
        for notice in notices:
            if on_notice is not None:
                on_notice(notice)
