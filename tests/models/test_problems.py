"""Base models that cannot be used are found in their files, before anything is loaded."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoTokenizer,
    BloomConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MambaConfig,
    MptConfig,
    OPTConfig,
    PhiConfig,
    T5Config,
)

from humpback_ray.config.recipe import load_recipe
from humpback_ray.config.settings import Settings
from humpback_ray.models.files import ProblemKind, model_files
from humpback_ray.models.problems import dropouts, find_problems, num_positions, set_dropout
from humpback_ray.storage import locate
from tests.support.gguf_files import write_gguf

POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{0:064d}\nsize 988097824\n"
# The fixture's base has 1,024 positions.
LENGTHS = ["settings.context_length=512", "settings.backward_training.max_length=512",
           "settings.forward_training.max_length=512"]  # fmt: skip


def settings_for(base: str, *overrides: str, trust: bool = False) -> Settings:
    given = json.dumps({"kind": "pretrained", "model": base, "trust_remote_code": trust})
    return load_recipe("tiny", [f"settings.base={given}", *LENGTHS, *overrides]).settings


@pytest.fixture
def base(model_folder: str, tmp_path: Path) -> Path:
    """A copy of the fixture's base that a test may damage."""
    folder = tmp_path / "base"
    folder.mkdir()
    for path in Path(model_folder).iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def edit(path: Path, **entries: Any) -> None:
    """Set entries of a JSON file; None takes one out."""
    content = json.loads(path.read_text()) if path.exists() else {}
    content |= entries
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))


def rewrite(base: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(base / "model.safetensors")
    change(tensors)
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})


def split(base: Path) -> None:
    """The same weights as two files with an index, as large models have them."""
    tensors = load_file(base / "model.safetensors")
    names = sorted(tensors)
    places = {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        file = f"model-{number:05}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, base / file, metadata={"format": "pt"})
        places |= dict.fromkeys(part, file)
    (base / "model.safetensors").unlink()
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (base / "model.safetensors.index.json").write_text(json.dumps(index))


def truncate(path: Path, num_bytes: int) -> None:
    path.write_bytes(path.read_bytes()[:num_bytes])


# --- files ----------------------------------------------------------------------------------------


def test_base_in_one_file_or_two_has_no_problem(base):
    assert find_problems(settings_for(str(base))) == []
    split(base)
    assert find_problems(settings_for(str(base))) == []
    assert len(model_files(str(base)).tensors) == 2 * 9 + 3


def damaged(name: str) -> Callable[[Path], object]:
    def in_two_files(change: Callable[[Path], object]) -> Callable[[Path], object]:
        def both(base: Path) -> None:
            split(base)
            change(base)

        return both

    def lose_layer(tensors: dict[str, torch.Tensor]) -> None:
        for key in [key for key in tensors if ".layers.1." in key]:
            del tensors[key]

    second = "model-00002-of-00002.safetensors"
    index = "model.safetensors.index.json"
    weights = "model.safetensors"

    def only(file: str, content: str = "x") -> Callable[[Path], object]:
        def replace_weights(base: Path) -> None:
            (base / weights).unlink()
            (base / file).write_text(content)

        return replace_weights

    def adapters_alone(base: Path) -> None:
        (base / weights).rename(base / "adapter_model.safetensors")
        (base / "config.json").unlink()
        edit(base / "adapter_config.json", base_model_name_or_path="org/large")

    ways: dict[str, Callable[[Path], object]] = {
        "pointer": lambda b: (b / weights).write_text(POINTER),
        "pointer, one of two": in_two_files(lambda b: (b / second).write_text(POINTER)),
        "pointer, tokenizer": lambda b: (b / "tokenizer.json").write_text(POINTER),
        "pointer, index": in_two_files(lambda b: (b / index).write_text(POINTER)),
        "cut": lambda b: truncate(b / weights, 200_000),
        "cut, last byte": lambda b: truncate(b / weights, (b / weights).stat().st_size - 1),
        "cut, in the header": lambda b: truncate(b / weights, 100),
        "empty": lambda b: (b / weights).write_bytes(b""),
        "cut, one of two": in_two_files(lambda b: truncate(b / second, 5_000)),
        "html": lambda b: (b / weights).write_text("<html>404 Not Found</html>" * 99),
        "config cut": lambda b: truncate(b / "config.json", 40),
        "tokenizer cut": lambda b: truncate(b / "tokenizer.json", 400),
        "no config": lambda b: (b / "config.json").unlink(),
        "bin": only("pytorch_model.bin"),
        "gguf": only("model-q4.gguf"),
        "original names": only("consolidated.safetensors"),
        "one file absent": in_two_files(lambda b: (b / second).unlink()),
        "layer absent": lambda b: rewrite(b, lose_layer),
        "tensor absent": in_two_files(
            lambda b: edit(b / index, weight_map=json.loads((b / index).read_text())["weight_map"]
                           | {"model.layers.1.mlp.gone.weight": second})
        ),
        "output layer absent": lambda b: rewrite(b, lambda t: t.pop("lm_head.weight")),
        "adapters alone": adapters_alone,
        "adapters beside": lambda b: edit(b / "adapter_config.json", peft_type="LORA"),
        "gptq": lambda b: edit(b / "config.json", quantization_config={"quant_method": "gptq"}),
        "gptq, older": lambda b: edit(b / "quantize_config.json", bits=4),
        "int8": lambda b: rewrite(
            b, lambda t: t.update({"lm_head.weight": t["lm_head.weight"].to(torch.int8)})
        ),
        "no tokenizer": lambda b: [p.unlink() for p in b.glob("tokenizer*")],
        "no end token": lambda b: edit(b / "tokenizer_config.json", eos_token=None),
        "rows": lambda b: edit(b / "config.json", vocab_size=600),
        "generation": lambda b: edit(b / "generation_config.json", num_return_sequences=3),
        "t5": lambda b: T5Config().save_pretrained(b),
        "unknown type": lambda b: edit(b / "config.json", model_type="newest"),
        "remote code": lambda b: edit(
            b / "config.json", model_type="tiny", auto_map={"AutoConfig": "c.C"}
        ),
    }  # fmt: skip
    return ways[name]


@pytest.mark.parametrize(
    ("name", "kind", "found", "way_out"),
    [
        ("pointer", "pointer", "pointer in place of model.safetensors", "git lfs pull"),
        ("pointer, one of two", "pointer", "model-00002-of-00002.safetensors", "git lfs pull"),
        ("pointer, tokenizer", "pointer", "tokenizer.json", "git lfs pull"),
        ("pointer, index", "pointer", "model.safetensors.index.json", "git lfs pull"),
        ("cut", "cut", "of 200,000 bytes where its header wants ", "copy it again"),
        ("cut, last byte", "cut", "where its header wants", "copy it again"),
        ("cut, in the header", "cut", "without a whole safetensors header", "(100 bytes)"),
        ("empty", "cut", "without a whole safetensors header", "(0 bytes)"),
        ("cut, one of two", "cut", "model-00002-of-00002.safetensors", "copy it again"),
        ("html", "cut", "without a whole safetensors header", "copy it again"),
        ("config cut", "unreadable", "config.json that is no JSON", "copy it again"),
        ("tokenizer cut", "unreadable", "tokenizer.json that is no JSON", "copy it again"),
        ("no config", "unreadable", "has no config.json", "must be a folder"),
        ("bin", "no weights", "no *.safetensors", "pytorch_model.bin with transformers'"),
        ("gguf", "no weights", "no *.safetensors", "model-q4.gguf"),
        ("original names", "no weights", "no *.safetensors", "save_pretrained"),
        ("one file absent", "no weights", "(1 of 2 files are absent)", "download the rest"),
        ("layer absent", "no weights", "no weights of layer 1 (1 of 2 layers)", "random values"),
        ("tensor absent", "no weights", "gone.weight in model-00002", "random values"),
        ("output layer absent", "no weights", "no output layer", "tie_word_embeddings"),
        ("adapters alone", "adapter", "adapters alone", "into org/large with peft's"),
        ("adapters beside", "adapter", "adapters beside its weights", "merge_and_unload"),
        ("gptq", "quantized", "is quantized (gptq)", "16 or 32 bits"),
        ("gptq, older", "quantized", "is quantized", "16 or 32 bits"),
        ("int8", "quantized", "has I8 in lm_head.weight", "16 or 32 bits"),
        ("no tokenizer", "no tokenizer", "has no tokenizer", "beside config.json"),
        ("no end token", "no end token", "no answer would ever end", "eos_token"),
        ("rows", "vocabulary", "381 rows where config.json says vocab_size 600", "both"),
        ("generation", "unreadable", "num_return_sequences", "take the entry out"),
        ("t5", "no language model", "a t5 model", "continues text"),
        ("unknown type", "unreadable", "newest", "must be a folder"),
        ("remote code", "remote code", "brings code", "settings.base.trust_remote_code to true"),
    ],
)  # fmt: skip
def test_damaged_base_is_one_problem_with_the_way_out(base, name, kind, found, way_out):
    damaged(name)(base)
    (problem,) = find_problems(settings_for(str(base)))
    assert problem.kind is ProblemKind(kind)
    assert str(base) in problem.found
    assert found in problem.found
    assert way_out in problem.way_out
    assert "\n" not in str(problem)


def test_safetensors_file_longer_than_its_header_says_is_refused(base):
    path = base / "model.safetensors"
    length = path.stat().st_size
    path.write_bytes(path.read_bytes() + b"\0" * 8)
    (problem,) = find_problems(settings_for(str(base)))
    assert f"of {length + 8:,} bytes where its header wants {length:,}" in problem.found


def test_header_length_beyond_memory_is_refused_without_reading_it(base):
    (base / "model.safetensors").write_bytes(struct.pack("<Q", 2**40) + b"{}" * 5_000)
    (problem,) = find_problems(settings_for(str(base)))
    assert problem.kind is ProblemKind.CUT


def test_base_at_a_url_is_judged_as_a_folder_is(base, monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    url = "memory://test-base-models/base"
    filesystem, path = locate(url)
    filesystem.put(f"{base}/", f"{path}/", recursive=True)
    assert find_problems(settings_for(url)) == []
    with fsspec.open(f"{url}/model.safetensors", "wb") as file:
        file.write((base / "model.safetensors").read_bytes()[:90_000])
    (problem,) = find_problems(settings_for(url))
    assert problem.kind is ProblemKind.CUT
    filesystem.rm(path, recursive=True)


def test_hub_id_is_judged_by_the_files_of_the_cache(base, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    settings = settings_for("org/small")
    assert find_problems(settings) == [], "nothing is known of it"
    repository = tmp_path / "hub" / "models--org--small"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.parent.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    base.rename(snapshot)
    files = model_files("org/small")
    assert (files.folder, files.is_whole) == (str(snapshot), False)
    truncate(snapshot / "model.safetensors", 90_000)
    (problem,) = find_problems(settings)
    assert problem.kind is ProblemKind.CUT
    assert "'org/small'" in problem.found


def test_base_that_the_run_makes_is_not_judged():
    assert find_problems(load_recipe("tiny").settings) == []


# --- tokenizer ------------------------------------------------------------------------------------


def add_tokens(base: Path, *, special: bool = False) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    if special:
        tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    else:
        tokenizer.add_tokens(["watering_can"])
    tokenizer.save_pretrained(base)


def test_tokenizer_with_a_token_beyond_the_embedding_is_refused(base):
    add_tokens(base)
    (problem,) = find_problems(settings_for(str(base)))
    assert problem.kind is ProblemKind.VOCABULARY
    assert "gives the id 381 for 'watering_can', and an embedding of 381 rows" in problem.found
    assert "resize_token_embeddings" in problem.way_out


def test_padding_token_beyond_the_embedding_does_no_harm(base):
    add_tokens(base, special=True)
    assert AutoTokenizer.from_pretrained(base).pad_token_id == 381
    assert find_problems(settings_for(str(base))) == []


def test_end_token_beyond_the_embedding_is_refused(base):
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_special_tokens({"eos_token": "<|end|>"})
    tokenizer.save_pretrained(base)
    (problem,) = find_problems(settings_for(str(base)))
    assert problem.kind is ProblemKind.VOCABULARY
    assert "<|end|>" in problem.found


def test_embedding_larger_than_the_tokenizer_is_no_problem(base):
    rows = torch.zeros(64, 64)
    rewrite(base, lambda t: t.update({
        name: torch.cat([t[name], rows]) for name in ("model.embed_tokens.weight", "lm_head.weight")
    }))  # fmt: skip
    edit(base / "config.json", vocab_size=445)
    assert find_problems(settings_for(str(base))) == []


def test_grades_of_two_tokens_are_refused_before_the_rater_is_trained(base):
    words = {word: number for number, word in enumerate(["<s>", "</s>", "Score", ":", "1"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<s>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    content = json.loads(tokenizer.to_str())
    (base / "tokenizer.json").write_text(json.dumps(content))
    (problem,) = find_problems(settings_for(str(base), "settings.rating.method=expected"))
    assert problem.kind is ProblemKind.GRADES
    assert "settings.rating.method to text" in problem.way_out
    assert find_problems(settings_for(str(base), "settings.rating.method=text")) == []


@pytest.mark.parametrize("entries", [{"temperature": 0}, {"do_sample": True, "temperature": 0.0}])
def test_temperature_of_zero_in_the_generation_config_is_no_problem(base, entries):
    edit(base / "generation_config.json", **entries)
    assert find_problems(settings_for(str(base))) == []


# --- lengths --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "overrides"),
    [
        ("settings.context_length", ()),
        ("settings.backward_training.max_length", ()),
        ("settings.forward_training.max_length", ()),
        ("settings.long_prompts.context_length", ("settings.long_prompts.policy=route_long",)),
    ],
)
def test_length_above_the_positions_is_refused_with_its_setting(base, setting, overrides):
    assert find_problems(settings_for(str(base), f"{setting}=1024", *overrides)) == []
    (problem,) = find_problems(settings_for(str(base), f"{setting}=1025", *overrides))
    assert problem.kind is ProblemKind.POSITIONS
    assert f"{setting} 1025 is above the 1024 positions" in problem.found
    assert problem.way_out == f"set {setting} to at most 1024"


def test_every_length_above_the_positions_is_a_problem_of_its_own(base):
    edit(base / "config.json", max_position_embeddings=256)
    problems = find_problems(settings_for(str(base)))
    assert [problem.kind for problem in problems] == [ProblemKind.POSITIONS] * 3


@pytest.mark.parametrize(
    ("config", "positions"),
    [
        (LlamaConfig(max_position_embeddings=4096), 4096),
        (GPT2Config(n_positions=512), 512),
        (MptConfig(max_seq_len=777), 777),
        (BloomConfig(), float("inf")),  # ALiBi
        (LlamaConfig(max_position_embeddings=2048, rope_parameters={
            "rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}), 8192),
        (LlamaConfig(max_position_embeddings=8192, rope_parameters={
            "rope_type": "llama3", "factor": 8.0, "rope_theta": 5e5, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 1024}), 8192),
        (LlamaConfig(max_position_embeddings=8192, rope_parameters={
            "rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4,
            "original_max_position_embeddings": 2048}), 8192),
    ],
)  # fmt: skip
def test_positions_are_those_that_vllm_derives(config, positions):
    assert num_positions(config)[0] == positions


def gguf_settings(file: Path, *overrides: str) -> Settings:
    given = json.dumps({"kind": "gguf", "file": str(file)})
    return load_recipe("tiny", [f"settings.base={given}", *LENGTHS, *overrides]).settings


def test_length_above_the_positions_of_a_gguf_file_is_refused(tmp_path, model_folder):
    file = write_gguf(tmp_path / "model.gguf", model_folder)
    assert find_problems(gguf_settings(file, "settings.context_length=1024")) == []
    (problem,) = find_problems(gguf_settings(file, "settings.context_length=1025"))
    assert problem.kind is ProblemKind.POSITIONS
    assert "1025 is above the 1024 positions" in problem.found
    assert "llama.context_length in its header" in problem.found


def test_gguf_file_without_an_end_token_is_refused(tmp_path, model_folder):
    file = write_gguf(tmp_path / "model.gguf", model_folder, end_token=False)
    (problem,) = find_problems(gguf_settings(file))
    assert problem.kind is ProblemKind.NO_END_TOKEN


# --- dropout --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "names"),
    [
        (LlamaConfig(), {"attention_dropout"}),
        (GPT2Config(), {"attn_pdrop", "resid_pdrop", "embd_pdrop"}),
        (OPTConfig(), {"dropout", "attention_dropout"}),
        (BloomConfig(), {"attention_dropout", "hidden_dropout"}),
        (GPTNeoXConfig(), {"attention_dropout", "hidden_dropout"}),
        (PhiConfig(), {"attention_dropout", "resid_pdrop", "embd_pdrop"}),
        (MptConfig(), {"resid_pdrop", "emb_pdrop", "attn_pdrop"}),
        (MambaConfig(), set()),
    ],
)
def test_dropout_of_the_recipe_is_every_dropout_of_the_model(config, names):
    assert {name for _, name in dropouts(config)} == names
    set_dropout(config, 0.25)
    assert [getattr(owner, name) for owner, name in dropouts(config)] == [0.25] * len(names)


def test_dropout_of_a_model_that_has_none_is_refused(base):
    MambaConfig(vocab_size=381, num_hidden_layers=2, tie_word_embeddings=False).save_pretrained(
        base
    )
    one = "settings.forward_training.dropout=0.1"
    (problem,) = find_problems(settings_for(str(base), one))
    assert problem.kind is ProblemKind.DROPOUT
    assert "settings.forward_training.dropout 0.1 has no effect" in problem.found
    assert problem.way_out == "set settings.forward_training.dropout to 0"
    assert AutoConfig.from_pretrained(base).model_type == "mamba"


# --- lora -----------------------------------------------------------------------------------------


def test_lora_module_that_no_weight_has_is_refused_for_either_training(base):
    for training in ("backward_training", "forward_training"):
        lora = f"settings.{training}.lora={{target_modules: [q_proj, query]}}"
        (problem,) = find_problems(settings_for(str(base), lora))
        assert problem.kind is ProblemKind.LORA
        assert f"settings.{training}.lora.target_modules has 'query'" in problem.found
        assert "q_proj" in problem.way_out
