"""A base that holds more than bf16 does is trained from its stored values."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from humpback_ray.config.settings import LoraSettings
from humpback_ray.training.masters import StoredWeights, stored_weights
from humpback_ray.training.task import TrainingJob
from tests.support.training import PLACEMENT, SETTINGS, make_base, task_for

BF16 = SETTINGS.model_copy(update={"precision": "bf16", "dropout": 0.1})


def masters_of(base: str, folder: Path, *, stage: int, num_workers: int, exactly: bool = True,
               settings=BF16) -> tuple[list[str], list[str]]:  # fmt: skip
    """Names of the weights that differ from the files: in the optimizer, in the export."""
    placement = PLACEMENT.model_copy(update={"zero_stage": stage, "num_workers": num_workers})
    arguments = json.dumps({
        "base": base, "settings": settings.model_dump(), "placement": placement.model_dump(),
        "starts_exactly": exactly,
    })  # fmt: skip
    command = [sys.executable, "-m", "tests.support.masters_of_a_base", arguments]
    rendezvous = str(folder / f"rendezvous-{stage}-{exactly}")
    ranks = [
        subprocess.Popen(
            [*command, str(rank), str(num_workers), rendezvous],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(num_workers)
    ]  # fmt: skip
    outputs = [process.communicate(timeout=300) for process in ranks]
    assert all(process.returncode == 0 for process in ranks), outputs[0][1][-3000:]
    (line,) = (line for line in outputs[0][0].splitlines() if line.startswith("MASTERS"))
    started, exported = json.loads(line.removeprefix("MASTERS"))
    return started, exported


@pytest.mark.slow  # imports DeepSpeed
# No size of a tensor divides by three, so parts of ZeRO-3 end within rows and with padding.
@pytest.mark.parametrize(
    ("stage", "num_workers"),
    [
        pytest.param(1, 2, marks=pytest.mark.long),
        pytest.param(2, 2, marks=pytest.mark.long),
        (3, 3),
    ],
)
def test_fp16_base_in_bf16_starts_and_is_exported_with_its_stored_values(
    tmp_path: Path, stage: int, num_workers: int
) -> None:
    base = make_base(tmp_path / "base", dtype=torch.float16)
    assert masters_of(base, tmp_path, stage=stage, num_workers=num_workers) == ([], [])


@pytest.mark.slow  # imports DeepSpeed
def test_fp16_base_without_its_stored_values_starts_rounded(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", dtype=torch.float16)
    started, exported = masters_of(base, tmp_path, stage=2, num_workers=1, exactly=False)
    assert started == exported
    assert len(started) == 2 * 7 + 2, "all matrices; norms are ones, which bf16 holds"


@pytest.mark.slow  # imports DeepSpeed
def test_frozen_fp16_weights_of_lora_are_exported_with_their_stored_values(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", dtype=torch.float16)
    lora = BF16.model_copy(update={"lora": LoraSettings(rank=4, target_modules=("q_proj",))})
    # B of a new adapter is zero.
    assert masters_of(base, tmp_path, stage=2, num_workers=1, settings=lora) == ([], [])


def job_for(base: str, precision: str) -> TrainingJob:
    settings = SETTINGS.model_copy(update={"precision": precision})
    return TrainingJob(task_for(base, settings=settings), PLACEMENT, "", 2, 160, 8, 10, "no-run")


@pytest.mark.parametrize(
    ("dtype", "precision", "is_wide"),
    [
        (torch.float16, "bf16", True),
        (torch.float32, "bf16", True),
        (torch.bfloat16, "bf16", False),
        (torch.float16, "fp32", False),
    ],
)
def test_stored_weights_are_wanted_where_bf16_would_round_them(
    tmp_path: Path, dtype: torch.dtype, precision: str, is_wide: bool
) -> None:
    base = make_base(tmp_path / "base", dtype=dtype)
    model = AutoModelForCausalLM.from_pretrained(base)
    assert (stored_weights(model, job_for(base, precision)) is not None) is is_wide


def test_stored_weight_is_found_under_a_name_without_the_models_prefix(tmp_path: Path) -> None:
    make_base(tmp_path / "base")
    stored = StoredWeights(str(tmp_path / "base"), "transformer")
    expected = load_file(tmp_path / "base" / "model.safetensors")["model.norm.weight"]
    for name in ("model.norm.weight", "transformer.model.norm.weight"):
        assert torch.equal(stored.find(name, (128,))[:], expected)
    assert StoredWeights(str(tmp_path / "base"), "model").find("norm.weight", (128,)) is not None
    assert stored.find("model.norm.weight", (64,)) is None
    assert stored.find("model.other.weight", (128,)) is None
