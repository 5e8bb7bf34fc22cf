"""The exported folder has the form of its base, and its template renders what was trained on."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedTokenizerFast,
)

from humpback_ray.config.settings import LoraSettings
from humpback_ray.method import prompts
from humpback_ray.method.tokens import completion_ids, prompt_ids
from humpback_ray.models.wrapping import Wrapping, write_wrapping
from humpback_ray.serving.requests import ServedModel, load_tokenizer
from humpback_ray.training import lora
from humpback_ray.training.deepspeed_engine import gathered_weights
from humpback_ray.training.export import check_same_ids, export_model
from humpback_ray.training.task import BaseModel
from tests.support.training import TAG, make_base

WEB_TAG = 'Answer with "knowledge" from the user\'s web search.'  # quotes must survive the template


def export(base: str, output: str, change: float = 0.0) -> None:
    """Export `base` as the training would: loaded in fp32 with its own dropout, then updated."""
    config = AutoConfig.from_pretrained(base)
    config.attention_dropout = 0.3
    model = AutoModelForCausalLM.from_pretrained(base, config=config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(change)
    export_model(
        model=model,
        weights=model.state_dict().items(),
        base=BaseModel(base),
        output=output,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tied", [False, True])
def test_exported_tensors_keep_names_shapes_and_dtypes_of_the_base(
    tmp_path: Path, dtype: torch.dtype, tied: bool
) -> None:
    base = make_base(tmp_path / "base", dtype=dtype, tied=tied)
    export(base, str(tmp_path / "out"), change=0.25)

    before = load_file(tmp_path / "base" / "model.safetensors")
    after = load_file(tmp_path / "out" / "model.safetensors")
    assert len(before) > 10
    assert ("lm_head.weight" in before) is not tied
    assert {n: (t.shape, t.dtype) for n, t in after.items()} == {
        n: (t.shape, t.dtype) for n, t in before.items()
    }
    for name, tensor in before.items():
        assert torch.equal(after[name], (tensor.float() + 0.25).to(dtype)), name

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    assert model.dtype == dtype
    assert (model.lm_head.weight is model.model.embed_tokens.weight) is tied


@pytest.mark.slow  # imports DeepSpeed
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tied", [False, True])
def test_export_merges_adapters_into_an_ordinary_model(
    tmp_path: Path, dtype: torch.dtype, tied: bool
) -> None:
    base = make_base(tmp_path / "base", dtype=dtype, tied=tied)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    lora.add_adapters(
        model, LoraSettings(rank=4, alpha=12, target_modules=("v_proj", "up_proj")), 0
    )
    model.eval()  # the adapters' dropout too
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    assert len(names) == 2 * 2 * 2, "A and B of two layers' two matrices"
    with torch.no_grad():
        for name in names:
            model.get_parameter(name).normal_(std=0.1)
        logits = model(torch.arange(20)[None]).logits
        plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        assert (logits - plain(torch.arange(20)[None]).logits).abs().max() > 0.1
        export_model(
            model=model,
            weights=gathered_weights(model),
            base=BaseModel(base),
            output=str(tmp_path / "out"),
        )
        exported = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
        found = exported(torch.arange(20)[None]).logits
    tolerance = 1e-4 if dtype == torch.float32 else 0.05
    torch.testing.assert_close(found, logits, atol=tolerance, rtol=tolerance)
    before = load_file(tmp_path / "base" / "model.safetensors")
    after = load_file(tmp_path / "out" / "model.safetensors")
    assert {n: (t.shape, t.dtype) for n, t in after.items()} == {
        n: (t.shape, t.dtype) for n, t in before.items()
    }
    changed = {name for name in before if not before[name].equal(after[name])}
    assert {name.split(".")[-2] for name in changed} == {"v_proj", "up_proj"}
    assert len(changed) == 4


def test_layer_with_a_shared_weight_takes_no_adapter(tmp_path: Path) -> None:
    settings = LoraSettings(target_modules=("q_proj", "lm_head"))
    lora.check_targets(BaseModel(make_base(tmp_path / "own")), settings)
    tied = BaseModel(make_base(tmp_path / "tied", tied=True))
    with pytest.raises(ValueError, match="'lm_head', which shares its weight with the embedding"):
        lora.check_targets(tied, settings)


def test_exported_tensors_of_mixed_dtypes_keep_each_dtype(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", dtype=torch.bfloat16)
    path = tmp_path / "base" / "model.safetensors"
    mixed = load_file(path)
    mixed["model.norm.weight"] = mixed["model.norm.weight"].float()
    save_file(mixed, path, metadata={"format": "pt"})
    export(base, str(tmp_path / "out"))
    after = load_file(tmp_path / "out" / "model.safetensors")
    assert after["model.norm.weight"].dtype == torch.float32
    assert after["lm_head.weight"].dtype == torch.bfloat16
    assert all(torch.equal(after[name], mixed[name]) for name in mixed)


def test_exported_configs_are_the_bases_with_the_tokenizers_ids(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", dtype=torch.bfloat16)
    export(base, str(tmp_path / "out"))
    write_wrapping(str(tmp_path / "out"), Wrapping("", temperature=0.7, top_p=0.9))

    before, after = (
        json.loads((tmp_path / n / "config.json").read_text()) for n in ("base", "out")
    )
    assert before == after
    assert after["attention_dropout"] == 0.0
    generation = GenerationConfig.from_pretrained(tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(base)
    assert generation.eos_token_id == tokenizer.eos_token_id
    assert generation.bos_token_id == tokenizer.bos_token_id
    assert generation.pad_token_id == tokenizer.eos_token_id, "the base has no pad token"
    assert (generation.temperature, generation.top_p, generation.do_sample) == (0.7, 0.9, True)


def test_chat_template_gives_the_ids_of_training(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    export(base, str(tmp_path / "out"))
    write_wrapping(str(tmp_path / "out"), Wrapping(prompts.chat_template(TAG, WEB_TAG), 0.7, 0.9))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    for text in ("What is a whale?", "  spaces and {{ braces }}\n", "both 'quotes\" and \\n"):
        turn = [{"role": "user", "content": text}]
        for tags, options in (((TAG, WEB_TAG), {}), ((), {"tags": []}), ((TAG,), {"tags": [TAG]})):
            ids = tokenizer.apply_chat_template(
                turn, add_generation_prompt=True, return_dict=False, **options
            )
            assert ids == prompt_ids(tokenizer, text, *tags), (text, tags)
            assert ids[0] == tokenizer.bos_token_id
            assert len(ids) > 10


def sentencepiece_base(folder: Path, legacy: bool | None) -> str:
    """A base with a real SentencePiece model of LLaMA's kind, and `legacy` as its file says it."""
    base = make_base(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (folder / name).unlink(missing_ok=True)
    package = importlib.util.find_spec("mistral_common").submodule_search_locations[0]
    shutil.copyfile(f"{package}/data/tokenizer.model.v1", folder / "tokenizer.model")
    entries = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>",
               "unk_token": "<unk>"}  # fmt: skip
    entries |= {} if legacy is None else {"legacy": legacy}
    (folder / "tokenizer_config.json").write_text(json.dumps(entries))
    return base


def control_token_base(folder: Path) -> str:
    """A base with control tokens that no map names, and a chat template, as LLaMA 3 has them."""
    base = make_base(folder)
    tokenizer = AutoTokenizer.from_pretrained(base)
    backend = tokenizer.backend_tokenizer
    backend.add_special_tokens(["<|eot_id|>", "<|start_header_id|>"])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", chat_template="{{ 'base' }}"
    )
    tokenizer.save_pretrained(base)
    # Older transformers write the template into this file.
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": "base"}))
    return base


BASES = {
    "legacy": lambda folder: sentencepiece_base(folder, True),
    "not_legacy": lambda folder: sentencepiece_base(folder, False),
    "legacy_not_said": lambda folder: sentencepiece_base(folder, None),
    "byte_level": make_base,
    "control_tokens": control_token_base,
}


@pytest.mark.parametrize("family", BASES)
def test_exported_tokenizer_gives_the_ids_of_its_base(tmp_path: Path, family: str) -> None:
    base = BASES[family](tmp_path / "base")
    export(base, str(tmp_path / "out"))
    write_wrapping(str(tmp_path / "out"), Wrapping(prompts.chat_template(TAG), 0.7, 0.9))
    trained = AutoTokenizer.from_pretrained(base)
    served = load_tokenizer(ServedModel(str(tmp_path / "out"), 2048, "auto"))
    for text in ("Hi", "What is a whale?", "  two  spaces\n", "naïve 12345 日本", "a <|eot_id|>"):
        assert prompt_ids(served, text, TAG) == prompt_ids(trained, text, TAG)
        assert completion_ids(served, text) == completion_ids(trained, text)
        assert served.encode(text) == trained.encode(text)
        turn = [{"role": "user", "content": text.replace("<|eot_id|>", "end")}]
        by_template = served.apply_chat_template(
            turn, add_generation_prompt=True, return_dict=False
        )
        assert by_template == prompt_ids(trained, turn[0]["content"], TAG)
    for path in (tmp_path / "base").iterdir():
        if path.name in ("tokenizer.json", "tokenizer.model"):
            assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()
    assert served.chat_template == prompts.chat_template(TAG)
    assert "chat_template" not in json.loads((tmp_path / "out/tokenizer_config.json").read_text())


def test_a_tokenizer_with_other_ids_stops_the_export_before_config_json(tmp_path: Path) -> None:
    base = sentencepiece_base(tmp_path / "base", True)
    tokenizer = AutoTokenizer.from_pretrained(base)
    other = tmp_path / "other"
    # As the library writes it: without `legacy`.
    tokenizer.save_pretrained(other)
    AutoConfig.from_pretrained(base).save_pretrained(other)
    with pytest.raises(AssertionError, match="gives other ids once it is copied"):
        check_same_ids(tokenizer, str(other), BaseModel(base))
    check_same_ids(tokenizer, base, BaseModel(base))


def test_export_keeps_other_files_and_replaces_a_broken_attempt(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    output = tmp_path / "out"
    (output / ".export-in-progress").mkdir(parents=True)
    (output / ".export-in-progress" / "half.safetensors").write_text("half")
    (output / "metrics.jsonl").write_text("kept")
    export(base, str(output))
    assert (output / "metrics.jsonl").read_text() == "kept"
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(os.listdir(output))
    assert not [name for name in os.listdir(output) if name.startswith(".") or "half" in name]


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_modes_of_exported_files_follow_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        base = make_base(tmp_path / "base")
        for out in (str(tmp_path / "out"), f"file://{tmp_path}/url"):
            export(base, out)
            write_wrapping(out, Wrapping("{{ messages }}", 0.7, 0.9))
    finally:
        os.umask(before)
    names = {"config.json", "model.safetensors", "tokenizer.json", "generation_config.json"}
    for folder in (tmp_path / "out", tmp_path / "url"):
        modes = {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()}
        assert names < modes.keys()
        assert set(modes.values()) == {0o666 & ~umask}
        assert folder.stat().st_mode & 0o777 == 0o777 & ~umask


@pytest.mark.parametrize(
    "entries",
    [
        {"temperature": 0},
        {"do_sample": True, "temperature": 0.0},
        {"do_sample": False, "temperature": 0.6, "top_p": 0.9},
        {"num_beams": 1, "early_stopping": True, "length_penalty": 0.5},
    ],
)
def test_generation_config_that_contradicts_itself_is_exported_without_sampling(
    tmp_path: Path, entries: dict[str, object]
) -> None:
    base = make_base(tmp_path / "base")
    path = Path(base, "generation_config.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))
    export(base, str(tmp_path / "out"))
    write_wrapping(str(tmp_path / "out"), Wrapping("{{ messages }}", 0.0, 0.9))
    exported = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert not exported["do_sample"]
    assert not {"temperature", "top_p"} & exported.keys()
    assert exported["eos_token_id"] == 1
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.generate(torch.tensor([[3, 4]]), max_new_tokens=2).shape == (1, 4)


def test_padding_token_beyond_the_embedding_is_not_exported(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(base)
    export(base, str(tmp_path / "out"))
    exported = GenerationConfig.from_pretrained(tmp_path / "out")
    assert tokenizer.pad_token_id == AutoConfig.from_pretrained(base).vocab_size
    assert exported.pad_token_id == exported.eos_token_id == 1


def test_code_of_the_base_is_exported_with_it(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    code = {
        "configuration_own.py": "from transformers import LlamaConfig\n\n\n"
        "class OwnConfig(LlamaConfig):\n    model_type = 'own'\n",
        "modeling_own.py": "from transformers import LlamaForCausalLM\n\n"
        "from .configuration_own import OwnConfig\nfrom .parts_own import PART\n\n\n"
        "class OwnForCausalLM(LlamaForCausalLM):\n    config_class = OwnConfig\n    part = PART\n",
        "parts_own.py": "PART = 7\n",
    }
    for name, text in code.items():
        Path(base, name).write_text(text)
    path = Path(base, "config.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {
        "model_type": "own", "architectures": ["OwnForCausalLM"], "auto_map": {
            "AutoConfig": "configuration_own.OwnConfig",
            "AutoModelForCausalLM": "modeling_own.OwnForCausalLM"}}))  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(base, trust_remote_code=True)
    trusted = BaseModel(base, trust_remote_code=True)
    output = str(tmp_path / "out")
    export_model(model=model, weights=model.state_dict().items(), base=trusted, output=output)
    for name, text in code.items():
        assert (tmp_path / "out" / name).read_text() == text
    exported = AutoModelForCausalLM.from_pretrained(output, trust_remote_code=True)
    assert type(exported).__name__ == "OwnForCausalLM"
    assert exported.part == 7


def test_export_to_a_url_writes_the_same_files(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    export(base, str(tmp_path / "path"))
    export(base, f"file://{tmp_path}/url/deeper")
    names = sorted(os.listdir(tmp_path / "path"))
    assert "model.safetensors" in names
    assert sorted(os.listdir(tmp_path / "url" / "deeper")) == names
    for name in names:
        assert (tmp_path / "url" / "deeper" / name).read_bytes() == (
            tmp_path / "path" / name
        ).read_bytes()
