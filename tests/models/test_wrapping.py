"""Tags and sampling change how a model is asked, and never a byte of its weights."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from humpback_ray.config.settings import SamplingSettings
from humpback_ray.execution.stage import Source
from humpback_ray.method import prompts
from humpback_ray.method.tokens import prompt_ids
from humpback_ray.models.wrapping import Wrapping, write_wrapping
from humpback_ray.stages.finetune import Finetune
from humpback_ray.training.export import export_model
from humpback_ray.training.task import BaseModel
from tests.support.generation import context
from tests.support.training import SEED, SETTINGS, TAG, make_base

OTHER_TAG = "Answer briefly."
FIGURES = {
    "num_steps": 10,
    "batch_size": 8,
    "num_passes": 2.0,
    "num_truncated": 1,
    "num_dropped": 0,
}
WRAPPING = Wrapping(prompts.chat_template(TAG), temperature=0.7, top_p=0.9)


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    """An exported model whose base has a chat template and sampling entries of another use."""
    base = make_base(tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = "{{ messages }}"
    tokenizer.save_pretrained(base)
    sampling = GenerationConfig(do_sample=True, temperature=0.6, top_k=20, max_length=99)
    sampling.save_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    output = tmp_path / "model"
    export_model(
        model=model,
        weights=model.state_dict().items(),
        base=BaseModel(base),
        output=str(output),
    )
    return output


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Time of the last change and bytes of every file."""
    return {f.name: (f.stat().st_mtime_ns, f.read_bytes()) for f in folder.iterdir()}


def generation_entries(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "generation_config.json").read_text())


def test_export_before_wrapping_holds_no_template_and_no_sampling(model_folder: Path) -> None:
    files = contents(model_folder)
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= files.keys()
    assert "chat_template.jinja" not in files
    assert AutoTokenizer.from_pretrained(model_folder).chat_template is None
    entries = generation_entries(model_folder)
    assert not {"do_sample", "temperature", "top_k", "top_p"} & entries.keys()
    assert entries["max_length"] == 99, "what is no sampling stays the base's"


def test_changed_tags_and_sampling_rewrite_two_files_and_no_weights(model_folder: Path) -> None:
    assert write_wrapping(str(model_folder), WRAPPING)
    before = contents(model_folder)

    other = Wrapping(prompts.chat_template(OTHER_TAG), temperature=0.2, top_p=0.5)
    assert write_wrapping(str(model_folder), other)

    after = contents(model_folder)
    assert after.keys() == before.keys()
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"chat_template.jinja", "generation_config.json"}
    generation = GenerationConfig.from_pretrained(model_folder)
    assert (generation.do_sample, generation.temperature, generation.top_p) == (True, 0.2, 0.5)
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    assert generation.eos_token_id == tokenizer.eos_token_id
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Why?"}], add_generation_prompt=True, return_dict=False
    )
    assert ids == prompt_ids(tokenizer, "Why?", OTHER_TAG)


@pytest.mark.parametrize(
    ("wrapping", "rewritten"),
    [
        (WRAPPING, set()),
        (Wrapping(WRAPPING.chat_template, 0.7, 0.8), {"generation_config.json"}),
        (Wrapping(prompts.chat_template(), 0.7, 0.9), {"chat_template.jinja"}),
    ],
)
def test_wrapping_rewrites_only_the_file_that_differs(
    model_folder: Path, wrapping: Wrapping, rewritten: set[str]
) -> None:
    write_wrapping(str(model_folder), WRAPPING)
    before = contents(model_folder)
    assert write_wrapping(str(model_folder), wrapping) is bool(rewritten)
    after = contents(model_folder)
    assert {name for name in after if before[name] != after[name]} == rewritten


def test_temperature_zero_gives_greedy_decoding_that_transformers_accepts(
    model_folder: Path, tmp_path: Path
) -> None:
    write_wrapping(str(model_folder), WRAPPING)
    sampled = (model_folder / "generation_config.json").read_bytes()
    greedy = Wrapping(WRAPPING.chat_template, temperature=0, top_p=0.9)
    assert write_wrapping(str(model_folder), greedy)

    entries = generation_entries(model_folder)
    assert entries["do_sample"] is False
    assert not {"temperature", "top_p", "top_k"} & entries.keys()
    generation = GenerationConfig.from_pretrained(model_folder)
    generation.validate(strict=True)  # raises on any complaint
    model = AutoModelForCausalLM.from_pretrained(model_folder)
    prompt = torch.arange(5)[None]
    first, second = (model.generate(prompt, max_length=12, min_length=12) for _ in range(2))
    assert first.shape == (1, 12)
    assert torch.equal(first, second)

    assert write_wrapping(str(model_folder), WRAPPING)
    assert (model_folder / "generation_config.json").read_bytes() == sampled, "no trace is left"


def test_wrapping_at_a_url_equals_that_of_a_local_folder(model_folder: Path) -> None:
    filesystem = fsspec.filesystem("memory")
    filesystem.put(f"{model_folder}/", "/wrapped/model/", recursive=True)
    url = "memory://wrapped/model"
    assert write_wrapping(url, WRAPPING)
    assert not write_wrapping(url, WRAPPING)
    write_wrapping(str(model_folder), WRAPPING)
    names = {path.rpartition("/")[2] for path in filesystem.ls("/wrapped/model", detail=False)}
    assert names == {path.name for path in model_folder.iterdir()}
    for name in names:
        stored = filesystem.cat_file(f"/wrapped/model/{name}")
        assert stored == (model_folder / name).read_bytes(), name
    filesystem.rm("/wrapped", recursive=True)


def test_finetune_stage_with_other_tags_keeps_its_identity_and_weights(model_folder: Path) -> None:
    stage = Finetune(
        path=model_folder.name, base=Source("base", "base"), examples=Source("rows", "rows"),
        settings=SETTINGS, random_seed=SEED, tags=(TAG,), sampling=SamplingSettings(),
    )  # fmt: skip
    stage.refresh(context(model_folder), FIGURES)
    before = contents(model_folder)
    other = replace(stage, tags=(OTHER_TAG,), sampling=SamplingSettings(temperature=0))
    assert other.fingerprint == stage.fingerprint
    assert replace(stage, random_seed=SEED + 1).fingerprint != stage.fingerprint

    other.refresh(context(model_folder), FIGURES)

    after = contents(model_folder)
    changed = {name for name in after if before.get(name) != after[name]}
    assert changed == {"chat_template.jinja", "generation_config.json", "README.md"}
    assert OTHER_TAG in AutoTokenizer.from_pretrained(model_folder).chat_template
    assert generation_entries(model_folder)["do_sample"] is False


def test_wrapping_module_loads_neither_torch_nor_transformers_nor_ray() -> None:
    program = (
        "import sys, humpback_ray.models.wrapping, humpback_ray.training.task, "
        "humpback_ray.training.mailbox; "
        "print(*({'torch', 'transformers', 'ray', 'deepspeed'} & sys.modules.keys()))"
    )
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert loaded.stdout.decode().split() == []
