"""The function of every training worker: load, resume, step, checkpoint, export.

The loop reads top to bottom in `_train`.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
import ray.train
import torch

from humpback_ray.method.schedule import batch_indices, learning_rate
from humpback_ray.training import batches, checkpoints, masters
from humpback_ray.training.batches import TokenizedSet
from humpback_ray.training.checkpoints import Layout
from humpback_ray.training.deepspeed_engine import build_engine, export, refuse_kernels
from humpback_ray.training.float32_products import fast_products
from humpback_ray.training.loss import bad_loss, completion_loss
from humpback_ray.training.packing import plan_step
from humpback_ray.training.records import StepRecord
from humpback_ray.training.speed import Speed
from humpback_ray.training.task import TrainingJob

# Interval at which all ranks together ask Ray Train for a preemption notice.
PREEMPTION_SECONDS = 5.0
# Allowed difference of an example's logits behind two other examples, relative to the largest
# logit: rounding only.
LEAK_TOLERANCE = 1e-3


def train(config: dict[str, Any]) -> dict[str, Any]:
    """The training function of one Ray Train worker.

    Args:
        config: `job` (TrainingJob), `examples` (reference to a TokenizedSet) and `mailbox` (the
            TrainingMailbox actor).

    Returns:
        `first_loss` and `last_loss` of the whole training, resumed or not; or `stopped`, the
        reason why it ended before its last step.
    """
    job: TrainingJob = config["job"]
    mailbox = config["mailbox"]
    rank = ray.train.get_context().get_world_rank()
    checkpoints.discard(job, rank)
    capacity, refusal = ray.get(mailbox.begin.remote(rank))
    if refusal:
        return {"stopped": refusal}
    with report_exhaustion(mailbox), fast_products(job):
        return _train(job, ray.get(config["examples"]), mailbox, capacity)


def _train(job: TrainingJob, examples: TokenizedSet, mailbox: Any, capacity: int) -> dict[str, Any]:
    context = ray.train.get_context()
    rank, num_workers = context.get_world_rank(), context.get_world_size()
    layout = Layout(num_workers, job.zero_stage)
    collate = batches.packed if job.placement.packing else batches.padded
    channel = RankChannel(mailbox, rank)
    seed = job.task.random_seed

    if refusal := refuse_kernels(job):
        return {"stopped": refusal}
    with checkpoints.latest(layout, rank) as latest:
        is_universal = latest is not None and latest.is_universal
        engine = build_engine(job, num_workers, universal=is_universal)
        progress = checkpoints.load(engine, latest)
    if latest is None and (refusal := masters.start_exactly(engine, job)):
        return {"stopped": refusal}
    if job.placement.packing and (refusal := refuse_leak(engine)):
        return {"stopped": refusal}
    if refusal := refuse_dropout(engine, job.settings.dropout):
        return {"stopped": refusal}
    try_largest(engine, job, capacity)
    speed = Speed(engine, job)
    losses: list[float] = progress["losses"]
    checkpoint_seconds = 0.0  # of the checkpoint before this step

    for step in range(progress["step"] + 1, job.num_steps + 1):
        speed.begin()
        batch = batch_indices(step, job.batch_size, examples.num_examples, seed)
        num_target_tokens = examples.num_target_tokens(batch)
        lengths = examples.lengths[batch].tolist()
        plan = plan_step(lengths, num_workers, capacity, packed=job.placement.packing)[rank]
        rate = learning_rate(step, job.num_steps, job.settings)
        for group in engine.optimizer.param_groups:
            group["lr"] = rate

        negative_log_likelihood = torch.zeros((), device=engine.device)
        for micro_step, places in enumerate(plan):
            torch.manual_seed(_dropout_seed(seed, step, rank, micro_step))
            micro_batch = collate(examples, [batch[place] for place in places], 0)
            with speed.phase("forward"):
                micro_sum = completion_loss(engine, micro_batch)
            # DeepSpeed averages over the ranks. The factor undoes that and leaves the mean over the
            # completion tokens of the global batch, because a mean of means would give a token of
            # a short answer more weight.
            with speed.phase("backward"):
                engine.backward(micro_sum * (num_workers / num_target_tokens))
            negative_log_likelihood += micro_sum.detach()
        with speed.phase("optimizer"):
            engine.step()
        assert engine.global_steps == step, "one optimizer step per batch"

        total, signals = channel.sum_and_agree(negative_log_likelihood)
        losses.append(total / num_target_tokens)
        progress["step"] = step
        norm = float(engine.get_global_grad_norm())
        channel.post(
            StepRecord(
                step=step,
                num_steps=job.num_steps,
                loss=losses[-1],
                learning_rate=rate,
                gradient_norm=norm,
                epoch=step * job.batch_size / examples.num_examples,
                num_workers=num_workers,
                num_micro_batches=len(plan),
                checkpoint_seconds=checkpoint_seconds,
                speed=speed.end(examples.lengths[batch], num_target_tokens, num_workers),
            )
        )
        checkpoint_seconds = 0.0
        if trouble := bad_loss(losses, norm):
            channel.finish()
            return {"stopped": trouble}
        is_due = step % job.placement.checkpoint_every == 0 or signals.stop or signals.leave
        if is_due and step < job.num_steps:
            channel.finish()  # the driver must have every step that a restart would skip
            started = time.perf_counter()
            if refusal := checkpoints.save(engine, job, layout, rank, progress):
                return {"stopped": refusal}
            checkpoint_seconds = time.perf_counter() - started
            if signals.stop:
                return {"stopped": f"it was told to stop; step {step} is saved"}

    channel.finish()
    with checkpoints.disk_errors(f"the model was written to {job.output}"):
        export(engine.module, job, rank)
    return {"first_loss": losses[0], "last_loss": losses[-1]}


# --- before the first step ----------------------------------------------------------------------


def refuse_leak(engine: Any) -> str:
    """The reason why this model's examples must not be packed; empty if they may.

    The logits of an example must not depend on the example before it in the row.
    """
    import numpy

    ids = numpy.arange(1, 25) % (engine.module.config.vocab_size - 1)
    logits = []
    engine.eval()
    for first in (ids[:16], ids[:16][::-1]):
        row = numpy.concatenate([first, ids[16:]]).astype(numpy.int32)
        pair = TokenizedSet(row, numpy.array([0, 16, 24]), numpy.array([1, 1], numpy.int32))
        batch = batches.packed(pair, [0, 1], 0)
        with torch.no_grad():
            of_row = engine(**batch.to(engine.device), use_cache=False).logits
        logits.append(of_row[0, 15:].float())  # of the second example
    engine.train()
    difference = (logits[0] - logits[1]).abs().max() / logits[0].abs().max()
    if difference <= LEAK_TOLERANCE:
        return ""
    return (
        f"{type(engine.module).__name__} lets packed examples see each other (logits differ by "
        f"{difference:.1%}): set placement.training.packing=false"
    )


def refuse_dropout(engine: Any, dropout: float) -> str:
    """The reason why this model must not be trained with that dropout; empty if it may.

    Models with code of their own may have the setting in their config and not read it.
    """
    if not dropout:
        return ""
    ids = torch.arange(1, 25, device=engine.device)[None] % (engine.module.config.vocab_size - 1)
    logits = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        with torch.no_grad():
            logits.append(engine(input_ids=ids, use_cache=False).logits)
    if not torch.equal(*logits):
        return ""
    return (
        f"{type(engine.module).__name__} gives the same logits under any seed, so the training's "
        f"dropout of {dropout:g} has no effect on it: set dropout to 0"
    )


def try_largest(engine: Any, job: TrainingJob, capacity: int) -> None:
    """Run the largest possible micro-batch, with weight 0 in the first step's gradients."""
    largest = batches.full_size(
        capacity, job.settings.max_length, is_packed=job.placement.packing, token_id=0
    )
    engine.backward(completion_loss(engine, largest) * 0.0)


@contextmanager
def report_exhaustion(mailbox: Any) -> Iterator[None]:
    """Tell the driver when memory or a disk runs out.

    The next attempt then takes smaller micro-batches, or refuses to start. The error ends this
    attempt on all ranks, even on those that wait for another.
    """
    try:
        yield
    except checkpoints.DiskFull as error:
        ray.get(mailbox.refuse.remote(str(error)))
        raise
    except (RuntimeError, MemoryError) as error:
        is_memory = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if is_memory or "can't allocate memory" in str(error):
            ray.get(mailbox.out_of_memory.remote())
        raise


# --- signals between the ranks and the driver ---------------------------------------------------


@dataclass(frozen=True, slots=True)
class StopSignals:
    """The signals that all ranks have agreed on."""

    stop: bool  # the driver wants the training to stop: save and return
    leave: bool  # a node has a preemption notice: save


class RankChannel:
    """Rank 0's line to the mailbox, and the all-reduce that carries its answer to all ranks."""

    def __init__(self, mailbox: Any, rank: int) -> None:
        self._mailbox, self._rank = mailbox, rank
        self._delivery: Any = None
        self._must_stop = False
        self._asked_at = time.monotonic()
        self._has_left = False

    def post(self, record: StepRecord) -> None:
        """Post a step's record and take the answer to the one before."""
        if self._rank == 0:
            self.finish()
            self._delivery = self._mailbox.post_step.remote(record)

    def finish(self) -> None:
        """Wait until the mailbox has every record."""
        if self._delivery is not None:
            self._must_stop = ray.get(self._delivery)
            self._delivery = None

    def sum_and_agree(self, value: torch.Tensor) -> tuple[float, StopSignals]:
        """The sum of a scalar over the ranks, and rank 0's signals, in one all-reduce."""
        is_time = time.monotonic() - self._asked_at > PREEMPTION_SECONDS
        signals = [float(self._must_stop), float(is_time)] if self._rank == 0 else [0.0, 0.0]
        packet = torch.tensor([value, *signals], dtype=torch.float64, device=value.device)
        torch.distributed.all_reduce(packet)
        total, stop, look = packet.tolist()
        return total, StopSignals(bool(stop), bool(look) and self._node_leaves())

    def _node_leaves(self) -> bool:
        """True if Ray Train has a preemption notice for a node; all ranks ask together."""
        self._asked_at = time.monotonic()
        if self._has_left or ray.train.get_preemption_info() is None:
            return False
        self._has_left = True  # one checkpoint is enough
        return True


def _dropout_seed(*parts: int) -> int:
    """One seed per (run, step, rank, micro step), so a resumed run draws the same dropout."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:7], "big")
