"""Training checkpoints: sharded, reported to Ray Train, and resumed by any number of workers.

DeepSpeed's own form fits the ZeRO stage and the number of workers that wrote it. For any other, the
checkpoint is first converted to DeepSpeed's universal form
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

from humpback_ray.training.deepspeed_engine import TrainingJob
from humpback_ray.training.lora import num_parameters

TAG, UNIVERSAL, LAYOUT_FILE = "state", "universal", "layout.json"
# Of a parameter's fp32 master value and Adam's two moments.
OPTIMIZER_BYTES = 12
GIB = 2**30


@dataclass(frozen=True, slots=True)
class Layout:
    """What a checkpoint in DeepSpeed's own form belongs to."""

    num_workers: int
    zero_stage: int


@dataclass(frozen=True, slots=True)
class LocalCheckpoint:
    """A checkpoint as a folder of this node."""

    folder: str
    is_universal: bool


# --- saving -------------------------------------------------------------------------------------


class DiskFull(OSError):
    """A disk filled while something was written; the checkpoints before are whole."""


@contextmanager
def disk_errors(what: str) -> Iterator[None]:
    """Raise DiskFull where writing fails for want of room: asking beforehand cannot rule it out.

    Args:
        what: is written, and where.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        # torch's writer names its own source file alone, safetensors gives no errno. Errors that
        # are not about room may pass.
        is_full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        if not is_full and not re.search("inline_container|No space left", str(error)):
            raise
        raise DiskFull(
            f"a disk filled while {what} ({' '.join(str(error).split())[:200]}): make room and run "
            "again; the last checkpoint is kept"
        ) from error


def save(engine: Any, job: TrainingJob, layout: Layout, rank: int, progress: dict[str, Any]) -> str:
    """Save this rank's shards and report them; Ray Train merges the ranks' folders in storage.

    The checkpoint before it stays until this one is whole.

    Returns:
        Why there is no checkpoint, the same on all ranks; empty where there is one.

    Raises:
        DiskFull: a disk filled while it was written; the other ranks then wait for this one.
    """
    discard(job, rank)
    folder = _own_folder(job, rank)
    try:
        with disk_errors(_places(folder)):
            os.makedirs(folder)  # DeepSpeed does on rank 0 alone, and ranks may be on other nodes
            needed = num_bytes(engine, job, layout, rank)
            if refusal := _first(_no_room(folder, needed, layout.num_workers), layout):
                return refusal
            _write(engine, folder, layout, rank, progress)
    finally:
        discard(job, rank)
    return ""


def discard(job: TrainingJob, rank: int) -> None:
    """Remove what this rank, or a killed worker in its place, has left half-written."""
    shutil.rmtree(_own_folder(job, rank), ignore_errors=True)


def _own_folder(job: TrainingJob, rank: int) -> str:
    # A fixed place, so that leavings are found.
    return os.path.join(tempfile.gettempdir(), f"humpback-{job.run_name}-{rank}")


def _write(engine: Any, folder: str, layout: Layout, rank: int, progress: dict[str, Any]) -> None:
    # With LoRA only the adapters: the frozen weights come from the base model again.
    engine.save_checkpoint(
        folder, tag=TAG, client_state={"progress": dict(progress)}, exclude_frozen_parameters=True
    )
    if rank == 0:
        with open(os.path.join(folder, LAYOUT_FILE), "w") as file:
            json.dump(asdict(layout) | {"step": progress["step"]}, file)
    ray.train.report(
        {"step": progress["step"]}, checkpoint=ray.train.Checkpoint.from_directory(folder)
    )


def _places(folder: str) -> str:
    storage = ray.train.get_context().get_storage().experiment_fs_path
    return f"a checkpoint was written to {folder} (in TMPDIR) and copied to {storage}"


def num_bytes(engine: Any, job: TrainingJob, layout: Layout, rank: int) -> int:
    """About what this rank's part of a checkpoint takes."""
    trained, _ = num_parameters(engine.module)
    width = 2 if job.settings.precision == "bf16" else 4
    own = OPTIMIZER_BYTES * trained // layout.num_workers
    if layout.zero_stage == 3:
        return own + width * trained // layout.num_workers
    return own + (width * trained if rank == 0 else 0)


def _no_room(folder: str, needed: int, num_workers: int) -> str:
    """Why a checkpoint would not fit on the disks; they are asked, not tried."""
    # Every rank writes to its node's disk and copies to the storage of all.
    storage = ray.train.get_context().get_storage()
    places = {folder: needed * ray.train.get_context().get_local_world_size()}
    if isinstance(storage.storage_filesystem, pyarrow.fs.LocalFileSystem):
        places[storage.experiment_fs_path] = needed * num_workers
    disks: dict[int, int] = {}  # bytes wanted of each, by its number
    for place, wanted in places.items():
        os.makedirs(place, exist_ok=True)
        disk = os.stat(place).st_dev
        disks[disk] = disks.get(disk, 0) + wanted
    for place in places:
        wanted = disks[os.stat(place).st_dev]
        free = shutil.disk_usage(place).free
        if free < wanted:
            return (
                f"the disk of {place} has {free / GIB:.1f} GiB left and a checkpoint needs "
                f"{wanted / GIB:.1f}: make room there, or for the first of its copies set TMPDIR "
                "to a larger disk"
            )
    return ""


def _first(message: str, layout: Layout) -> str:
    """The message of the lowest rank that has one, on all ranks."""
    messages: list[str] = [""] * layout.num_workers
    torch.distributed.all_gather_object(messages, message)
    return next(filter(None, messages), "")


# --- loading ------------------------------------------------------------------------------------


@contextmanager
def latest(layout: Layout, rank: int) -> Iterator[LocalCheckpoint | None]:
    """The training's latest checkpoint on this node's disk, in a form that `layout` can load.

    All ranks must enter and leave together.
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
                stack.enter_context(_own_files(checkpoint, rank)), is_universal=False
            )
        else:
            folder = stack.enter_context(checkpoint.as_directory())
            yield LocalCheckpoint(stack.enter_context(_converted(folder, step)), is_universal=True)


@contextmanager
def _own_files(checkpoint: Any, rank: int) -> Iterator[str]:
    """A checkpoint with this rank's shards alone; as it is where it lies on a local path."""
    if isinstance(checkpoint.filesystem, pyarrow.fs.LocalFileSystem):
        yield checkpoint.path
        return
    source = f"{checkpoint.path}/{TAG}"
    own = re.compile(rf"(mp_rank_00_model_states|.*zero_pp_rank_{rank}_mp_rank_00_\w+)\.pt")
    with tempfile.TemporaryDirectory(prefix="humpback-checkpoint-") as folder:
        os.makedirs(os.path.join(folder, TAG))
        for info in checkpoint.filesystem.get_file_info(pyarrow.fs.FileSelector(source)):
            if own.fullmatch(info.base_name):
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
    """Write the universal form of a DeepSpeed checkpoint of so many optimizer steps.

    Raises:
        RuntimeError: the conversion failed, with the last of what it said.
    """
    # A process of its own: it forks, which a process with Ray's threads must not do.
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

    The weights and moments are the same, but each side (DeepSpeed 0.19) looks for the training's
    counters in a file of its own name and for Adam's step in a place of its own, and stages 1 and 2
    want each tensor inside a dictionary, which ZeRO-3 takes too.
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


def load(engine: Any, found: LocalCheckpoint | None) -> dict[str, Any]:
    """Restore the engine.

    Returns:
        `step` (0 at the start) and `losses`, one of each step so far.
    """
    if found is None:
        return {"step": 0, "losses": []}
    decays = [group["weight_decay"] for group in engine.optimizer.param_groups]
    tag = UNIVERSAL if found.is_universal else TAG
    trained, total = num_parameters(engine.module)
    path, client_state = engine.load_checkpoint(
        found.folder, tag=tag, load_module_strict=trained == total
    )
    assert path is not None, f"no DeepSpeed state in {found.folder}"
    # Where DeepSpeed's ZeRO-3 loads the universal form, all groups get what the first one has, and
    # all parameters one and the same counter of steps, which Adam then raises for each of them.
    for group, decay in zip(engine.optimizer.param_groups, decays, strict=True):
        group["weight_decay"] = decay
    for state in engine.optimizer.optimizer.state.values():
        if isinstance(state.get("step"), torch.Tensor):
            state["step"] = state["step"].clone()
    progress = dict(client_state["progress"])
    assert engine.global_steps == progress["step"], "the engine and the step counter disagree"
    return progress
