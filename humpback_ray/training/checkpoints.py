"""Training checkpoints: sharded, reported to Ray Train, and resumed by any number of workers.

DeepSpeed's native form fits only the ZeRO stage and the number of workers that wrote it. Other
workers first convert a checkpoint to DeepSpeed's universal form
(https://www.deepspeed.ai/tutorials/universal-checkpointing/).
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow.fs
import ray.train
import torch
from safetensors import SafetensorError

from humpback_ray.sizing.hardware import GIB
from humpback_ray.sizing.memory import OPTIMIZER_BYTES
from humpback_ray.storage import one_line
from humpback_ray.training.lora import num_parameters
from humpback_ray.training.task import TrainingJob

TAG, UNIVERSAL, LAYOUT_FILE = "state", "universal", "layout.json"


@dataclass(frozen=True, slots=True)
class Layout:
    """The workers and ZeRO stage that a checkpoint in DeepSpeed's native form fits."""

    num_workers: int
    zero_stage: int


@dataclass(frozen=True, slots=True)
class LocalCheckpoint:
    """A checkpoint as a folder on this node."""

    folder: str
    is_universal: bool


# --- saving -------------------------------------------------------------------------------------


class DiskFull(OSError):
    """A disk filled up during a write; earlier checkpoints are intact."""


@contextmanager
def disk_errors(action: str) -> Iterator[None]:
    """Raise DiskFull if a write fails on a full disk; a check beforehand cannot rule that out.

    Args:
        action: the write and its place, to follow "a disk filled while".
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        # torch's writer only names its source file, and safetensors gives no errno.
        is_full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        if not is_full and not re.search("inline_container|No space left", str(error)):
            raise
        raise DiskFull(
            f"a disk filled while {action} ({one_line(error)[:200]}): delete files on that disk "
            "and give the same command again; it resumes from the last checkpoint, which is kept"
        ) from error


def save(engine: Any, job: TrainingJob, layout: Layout, rank: int, progress: dict[str, Any]) -> str:
    """Save this rank's shards and report them; Ray Train merges the ranks' folders in storage.

    The checkpoint before it stays until this one is whole.

    Returns:
        The reason why no checkpoint was written, the same on all ranks; empty if one was.

    Raises:
        DiskFull: a disk filled during the write; the other ranks then wait for this one.
    """
    discard(job, rank)
    folder = _local_folder(job, rank)
    try:
        with disk_errors(
            f"a checkpoint was written to {folder} (in TMPDIR) and copied to {_place()}"
        ):
            os.makedirs(folder)  # DeepSpeed does so only on rank 0, and other nodes need it too
            needed = num_bytes(engine, job, layout, rank)
            if refusal := _agreed(_too_full(folder, needed, layout.num_workers), layout):
                return refusal
            _write(engine, folder, layout, rank, progress)
    finally:
        discard(job, rank)
    return ""


def discard(job: TrainingJob, rank: int) -> None:
    """Remove what this rank, or a killed worker in its place, has left half-written."""
    shutil.rmtree(_local_folder(job, rank), ignore_errors=True)


def _local_folder(job: TrainingJob, rank: int) -> str:
    # Fixed path, so that leftovers of a killed worker are found and removed.
    return os.path.join(tempfile.gettempdir(), f"humpback-{job.run_name}-{rank}")


def _write(engine: Any, folder: str, layout: Layout, rank: int, progress: dict[str, Any]) -> None:
    # With LoRA only the adapters, because a resumed training loads the frozen weights again.
    engine.save_checkpoint(
        folder, tag=TAG, client_state={"progress": dict(progress)}, exclude_frozen_parameters=True
    )
    if rank == 0:
        with open(os.path.join(folder, LAYOUT_FILE), "w") as file:
            json.dump(asdict(layout) | {"step": progress["step"]}, file)
    ray.train.report(
        {"step": progress["step"]}, checkpoint=ray.train.Checkpoint.from_directory(folder)
    )


def _place() -> str:
    return ray.train.get_context().get_storage().experiment_fs_path


def num_bytes(engine: Any, job: TrainingJob, layout: Layout, rank: int) -> int:
    """The approximate size of this rank's part of a checkpoint."""
    trained, _ = num_parameters(engine.module)
    width = 2 if job.settings.precision == "bf16" else 4
    share = OPTIMIZER_BYTES * trained // layout.num_workers
    if layout.zero_stage == 3:
        return share + width * trained // layout.num_workers
    return share + (width * trained if rank == 0 else 0)


def _too_full(folder: str, needed: int, num_workers: int) -> str:
    """The reason why a checkpoint would not fit, by free space; empty if it fits."""
    # Every rank writes to its node's disk and copies to the shared storage.
    storage = ray.train.get_context().get_storage()
    places = {folder: needed * ray.train.get_context().get_local_world_size()}
    if isinstance(storage.storage_filesystem, pyarrow.fs.LocalFileSystem):
        places[storage.experiment_fs_path] = needed * num_workers
    disks: dict[int, int] = {}  # bytes that each disk must hold, by device number
    for place, wanted in places.items():
        os.makedirs(place, exist_ok=True)
        disk = os.stat(place).st_dev
        disks[disk] = disks.get(disk, 0) + wanted
    for place in places:
        wanted = disks[os.stat(place).st_dev]
        free = shutil.disk_usage(place).free
        if free < wanted:
            larger = (
                "set TMPDIR to a folder on a larger disk" if place == folder
                else "move the run folder to a larger disk"
            )  # fmt: skip
            return (
                f"the disk of {place} has {free / GIB:.1f} GiB left and a checkpoint needs "
                f"{wanted / GIB:.1f}: delete files on that disk, or {larger}, and give the same "
                "command again"
            )
    return ""


def _agreed(message: str, layout: Layout) -> str:
    """The message of the lowest rank that has one, on all ranks."""
    messages: list[str] = [""] * layout.num_workers
    torch.distributed.all_gather_object(messages, message)
    return next(filter(None, messages), "")


# --- loading ------------------------------------------------------------------------------------


@contextmanager
def latest(layout: Layout, rank: int) -> Iterator[LocalCheckpoint | None]:
    """The training's latest checkpoint on this node's disk, in a form that `layout` can load.

    All ranks must enter and leave together. None if the training has no checkpoint yet.
    """
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        yield None
        return
    with checkpoint.filesystem.open_input_stream(f"{checkpoint.path}/{LAYOUT_FILE}") as file:
        written_by = json.loads(file.read())
    step = written_by.pop("step")
    with ExitStack() as stack:
        if Layout(**written_by) == layout:
            yield LocalCheckpoint(
                stack.enter_context(_files_of_rank(checkpoint, rank)), is_universal=False
            )
        else:
            folder = stack.enter_context(checkpoint.as_directory())
            yield LocalCheckpoint(stack.enter_context(_converted(folder, step)), is_universal=True)


@contextmanager
def _files_of_rank(checkpoint: Any, rank: int) -> Iterator[str]:
    """A local folder with this rank's shards; a checkpoint on a local path stays in place."""
    if isinstance(checkpoint.filesystem, pyarrow.fs.LocalFileSystem):
        yield checkpoint.path
        return
    source = f"{checkpoint.path}/{TAG}"
    needed = re.compile(rf"(mp_rank_00_model_states|.*zero_pp_rank_{rank}_mp_rank_00_\w+)\.pt")
    with tempfile.TemporaryDirectory(prefix="humpback-checkpoint-") as folder:
        os.makedirs(os.path.join(folder, TAG))
        for info in checkpoint.filesystem.get_file_info(pyarrow.fs.FileSelector(source)):
            if needed.fullmatch(info.base_name):
                pyarrow.fs.copy_files(
                    info.path,
                    os.path.join(folder, TAG, info.base_name),
                    source_filesystem=checkpoint.filesystem,
                    destination_filesystem=pyarrow.fs.LocalFileSystem(),
                )
        yield folder


@contextmanager
def _converted(folder: str, step: int) -> Iterator[str]:
    """A checkpoint in universal form, converted once on each node."""
    context = ray.train.get_context()
    target = os.path.join(tempfile.gettempdir(), f"humpback-{context.get_experiment_name()}")
    if context.get_local_rank() == 0:
        shutil.rmtree(target, ignore_errors=True)
        os.makedirs(target)
        convert(os.path.join(folder, TAG), os.path.join(target, UNIVERSAL), step)
    torch.distributed.barrier()
    yield target
    torch.distributed.barrier()
    if context.get_local_rank() == 0:
        shutil.rmtree(target)


def convert(source: str, target: str, step: int) -> None:
    """Write the universal form of a DeepSpeed checkpoint of `step` optimizer steps.

    Raises:
        RuntimeError: the conversion failed, with the end of its error output.
    """
    # In a child process, because the conversion forks and Ray's threads do not survive a fork.
    command = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal"]
    command += ["--input_folder", source, "--output_folder", target, "--inject_missing_state"]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise RuntimeError(
            f"the checkpoint {source} cannot be converted to DeepSpeed's universal form: "
            f"{' '.join(finished.stderr.split())[-500:]}"
        )
    _fit_all_stages(target, step)


def _fit_all_stages(folder: str, step: int) -> None:
    """Let ZeRO-3 load what stage 1 or 2 has written, and the other way round.

    The weights and moments are the same. But the stages of DeepSpeed 0.19 look for the training's
    counters under different file names and for Adam's step in different places. Stages 1 and 2 want
    each tensor inside a dictionary, which ZeRO-3 accepts too.
    """
    import deepspeed

    counters = next(name for name in sorted(os.listdir(folder)) if name.endswith("_states.pt"))
    for name in ("mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_model_states.pt"):
        if not os.path.exists(os.path.join(folder, name)):
            os.link(os.path.join(folder, counters), os.path.join(folder, name))
    zero = os.path.join(folder, "zero")
    file = os.path.join(zero, "optimizer_state.pt")
    state = torch.load(file, map_location="cpu", weights_only=False)
    groups, num_steps = state["param_groups"], torch.tensor(float(step))
    state = {
        **{key: state[key] for key in ("loss_scaler", "dynamic_loss_scale", "overflow")},
        "ds_version": deepspeed.__version__,
        "param_groups": groups,
        "optimizer_state_dict": {"state": {0: {"step": num_steps}}, "param_groups": groups},
    }
    torch.save(state, file)
    for folder_of_tensor in (entry.path for entry in os.scandir(zero) if entry.is_dir()):
        for name in os.listdir(folder_of_tensor):
            file = os.path.join(folder_of_tensor, name)
            value = torch.load(file, map_location="cpu", weights_only=False)
            if isinstance(value, torch.Tensor) and name != "step.pt":
                torch.save({"param": value}, file)
        torch.save(num_steps, os.path.join(folder_of_tensor, "step.pt"))


def load(engine: Any, checkpoint: LocalCheckpoint | None) -> dict[str, Any]:
    """Restore the engine.

    Returns:
        `step` (0 at the start) and `losses`, one for each step so far.
    """
    if checkpoint is None:
        return {"step": 0, "losses": []}
    decays = [group["weight_decay"] for group in engine.optimizer.param_groups]
    tag = UNIVERSAL if checkpoint.is_universal else TAG
    trained, total = num_parameters(engine.module)
    path, client_state = engine.load_checkpoint(
        checkpoint.folder, tag=tag, load_module_strict=trained == total
    )
    assert path is not None, f"no DeepSpeed state in {checkpoint.folder}"
    # When DeepSpeed's ZeRO-3 loads the universal form, it gives all groups the first one's options,
    # and all parameters one shared counter of steps, which Adam then raises once for each of them.
    for group, decay in zip(engine.optimizer.param_groups, decays, strict=True):
        group["weight_decay"] = decay
    for state in engine.optimizer.optimizer.state.values():
        if isinstance(state.get("step"), torch.Tensor):
            state["step"] = state["step"].clone()
    progress = dict(client_state["progress"])
    assert engine.global_steps == progress["step"], "the engine and the step counter disagree"
    return progress
