"""fp32 weights of a bf16 training whose base holds more of a value than bf16 does.

transformers loads the base in bf16, and DeepSpeed starts the optimizer's fp32 weights from that. A
base in fp16 or fp32 (LLaMA 1 is fp16) would lose three or more bits of every weight before the
first step, and again in the export. `start_exactly` puts the stored values into the optimizer;
`gathered_weights` exports the optimizer's.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import torch
from safetensors import safe_open

from humpback_ray.models.files import WIDE_DTYPES
from humpback_ray.models.local import local_folder
from humpback_ray.training.lora import base_name
from humpback_ray.training.task import TrainingJob


class StoredWeights:
    """The weights in a base's files, by the names of the model's parameters.

    Args:
        folder: local folder of the base.
        prefix: the model's `base_model_prefix`, which the files of some bases leave out.
    """

    def __init__(self, folder: str, prefix: str) -> None:
        self._folder, self._prefix = folder, prefix

    @cached_property
    def _files(self) -> dict[str, Any]:
        """The open file of each tensor; safetensors maps it and reads nothing yet."""
        files: dict[str, Any] = {}
        for path in sorted(glob.glob(os.path.join(self._folder, "*.safetensors"))):
            file = safe_open(path, framework="pt")
            files |= dict.fromkeys(file.keys(), file)
        return files

    @property
    def has_wide(self) -> bool:
        """True if bf16 does not hold the values of a tensor."""
        return any(f.get_slice(n).get_dtype() in WIDE_DTYPES for n, f in self._files.items())

    def find(self, name: str, shape: tuple[int, ...]) -> Any | None:
        """The tensor of a parameter, not read yet; None without one of that name and shape."""
        other = name.removeprefix(f"{self._prefix}.")
        for each in (name, other, f"{self._prefix}.{name}"):
            if each in self._files:
                tensor = self._files[each].get_slice(each)
                return tensor if tuple(tensor.get_shape()) == shape else None
        return None


def stored_weights(model: Any, job: TrainingJob) -> StoredWeights | None:
    """The stored weights, where a training in bf16 would round them; else None."""
    stored = StoredWeights(base_folder(job), getattr(model, "base_model_prefix", ""))
    return stored if job.settings.precision == "bf16" and stored.has_wide else None


def base_folder(job: TrainingJob) -> str:
    """The base's folder on this node."""
    folder = local_folder(job.task.base.location)
    if os.path.isdir(folder):
        return folder
    from huggingface_hub import snapshot_download

    return snapshot_download(
        folder, revision=job.task.base.revision, allow_patterns="*.safetensors"
    )


def start_exactly(engine: Any, job: TrainingJob) -> str:
    """Put the stored values of all trained weights into the optimizer's fp32 weights.

    All ranks call it before the first step. Each reads the rows that it holds.

    Returns:
        The reason why a weight cannot start with its stored value; empty if all do.
    """
    from deepspeed.utils import safe_set_full_fp32_param, safe_set_local_fp32_param

    stored = stored_weights(engine.module, job)
    if stored is None:
        return ""
    for names, parameter in _trained(engine.module):
        shape = shape_of(parameter)
        tensor = next(filter(None, (stored.find(name, shape) for name in names)), None)
        if tensor is None:
            return (
                f"the base {job.task.base.location!r} has no {names[0]} of shape {list(shape)} in "
                "its files, so the optimizer's fp32 weights could only start from the rounded "
                "bf16 ones: set the training's precision to fp32, or store the base in bf16"
            )
        if tensor.get_dtype() not in WIDE_DTYPES:
            continue
        if hasattr(parameter, "ds_id"):
            safe_set_local_fp32_param(parameter, _part_of_rank(tensor, parameter))
        else:
            value = tensor[:].float()
            rounded = value.to(parameter.device, parameter.dtype)
            assert torch.equal(rounded, parameter.detach()), f"{names[0]} is another tensor"
            safe_set_full_fp32_param(parameter, value.to(parameter.device))
    return ""


def _trained(model: Any) -> Iterator[tuple[list[str], torch.nn.Parameter]]:
    """Trained parameters of the base, each with all its names; adapters are left out."""
    names: dict[torch.nn.Parameter, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if parameter.requires_grad and (in_base := base_name(name)) is not None:
            names.setdefault(parameter, []).append(in_base)
    return ((each, parameter) for parameter, each in names.items())


def shape_of(parameter: torch.nn.Parameter) -> tuple[int, ...]:
    """The shape of a whole parameter, also where ZeRO-3 has partitioned it."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def _part_of_rank(tensor: Any, parameter: Any) -> torch.Tensor:
    """This rank's part of a ZeRO-3 parameter: flat, of equal size on all ranks, zeros at the end.

    Reads the rows of the tensor that the part lies in.
    """
    size = parameter.ds_tensor.ds_numel
    rank = torch.distributed.get_rank(group=parameter.ds_process_group)
    shape = shape_of(parameter)
    start, end = min(size * rank, parameter.ds_numel), min(size * (rank + 1), parameter.ds_numel)
    row = parameter.ds_numel // shape[0]
    first, last = start // row, -(-end // row)
    rows = tensor[first:last].float().flatten()
    part = rows[start - first * row : end - first * row]
    device = parameter.ds_tensor.device
    return torch.nn.functional.pad(part, (0, size - len(part))).to(device)
