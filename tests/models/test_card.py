"""The README.md of an exported model says what it was made of, and how to ask it."""

from __future__ import annotations

import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from humpback_ray import storage
from humpback_ray.config.recipe import load_recipe
from humpback_ray.config.settings import LoraSettings
from humpback_ray.errors import UserError
from humpback_ray.execution.stage import Stage
from humpback_ray.method import prompts
from humpback_ray.models.card import licence_of
from humpback_ray.models.wrapping import Wrapping, write_wrapping
from humpback_ray.pipeline import stages_of
from tests.support.generation import context
from tests.support.gguf_files import write_gguf
from tests.support.records import record

FIGURES = {
    "num_steps": 512, "batch_size": 32, "num_passes": 5.123, "num_truncated": 1200,
    "num_dropped": 3,
}  # fmt: skip


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "models" / "my-llama"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return folder


def finetunes(base: str, *overrides: str) -> dict[str, Stage]:
    """The trainings of a recipe with this base, by path."""
    recipe = load_recipe(
        "tiny", [f"settings.base={{kind: pretrained, model: '{base}'}}", *overrides]
    )
    return {stage.path: stage for stage in stages_of(recipe) if stage.kind == "finetune"}


def card_of(
    stage: Stage, run: Path, outcomes: dict[str, int], figures: dict[str, Any] = FIGURES
) -> str:
    """The card that a training's refresh writes in a run."""
    folder = run / stage.path
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "generation_config.json").write_text("{}")
    examples = storage.join(str(run), stage.examples.path, "record.json")
    storage.write_json(examples, asdict(record(outcomes=outcomes)))
    stage.refresh(replace(context(folder), run_folder=str(run), stage=stage.path), figures)
    return (folder / "README.md").read_text()


def front_matter(card: str) -> dict[str, str]:
    found = re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)
    assert found is not None
    return yaml.safe_load(found[1])


def test_card_of_a_model_names_base_data_tags_prompts_steps_licence_and_use(base, tmp_path):
    (base / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A base\n")
    stage = finetunes(str(base))["iter-2/model"]
    card = card_of(stage, tmp_path / "my-run", {"seed": 140, "web": 1_018})
    assert front_matter(card) == {
        "library_name": "transformers", "pipeline_tag": "text-generation", "license": "apache-2.0",
    }  # fmt: skip
    assert "# my-run: iter-2/model" in card
    assert "| base model | my-llama |" in card
    assert "| licence of the base | apache-2.0; " in card
    assert "| training examples | 140 seed, 1,018 web |" in card
    assert "| seed | `tiny_seed.jsonl` |" in card
    assert "| corpus | `installed-packages` |" in card
    assert "512 steps of 32 examples, 5.12 passes; learning rate 0.001 to 0.0001" in card
    assert "1,200 cut, 3 left out" in card
    tags = ("Answer in the style of an AI Assistant.", "Answer with knowledge from web search.")
    assert prompts.render("(your request)", *tags).rstrip() in card
    assert "chat_template_kwargs" in card
    assert "samples with temperature 0.7 and top_p 0.9" in card
    assert str(tmp_path) not in card, "a published card names no place on this machine"


def test_card_of_the_backward_model_shows_its_request(base, tmp_path):
    stages = finetunes(str(base))
    card = card_of(stages["backward/model"], tmp_path / "run", {"seed": 140})
    assert "writes the request that a text answers" in card
    asked = prompts.backward_prompt("(a text)")
    assert prompts.render(asked, "Answer in the style of an AI Assistant.").rstrip() in card
    assert "corpus" not in card
    (code,) = re.findall(r"^content = (.*)$", card, re.MULTILINE)
    assert eval(code) == prompts.backward_prompt("...")


def test_card_names_a_licence_that_the_hub_does_not_know_as_the_hub_wants_it(base, tmp_path):
    (base / "LICENSE.txt").write_text("Terms.")
    card = card_of(finetunes(str(base))["iter-1/model"], tmp_path / "run", {"seed": 140})
    assert front_matter(card)["license"] == "other"
    assert front_matter(card)["license_name"] == "see-license.txt-of-the-base"
    assert "| licence of the base | see LICENSE.txt of the base; " in card


def test_card_of_a_base_in_a_gguf_file_names_the_file_and_its_licence(model_folder, tmp_path):
    file = write_gguf(tmp_path / "base.gguf", model_folder, metadata={"general.license": "mit"})
    recipe = load_recipe("tiny", [f"settings.base={{kind: gguf, file: '{file}'}}"])
    stages = {stage.path: stage for stage in stages_of(recipe)}
    card = card_of(stages["forward-0/model"], tmp_path / "run", {"seed": 140})
    assert "| base model | base.gguf |" in card
    assert "| licence of the base | mit; " in card
    assert front_matter(card)["license"] == "mit"
    assert "random weights" not in card


def test_card_of_a_hub_base_links_to_its_page(tmp_path):
    stage = finetunes("org/llama-7b", "settings.base.revision=abc123")["forward-0/model"]
    card = card_of(stage, tmp_path / "run", {"seed": 140})
    assert front_matter(card)["base_model"] == "org/llama-7b"
    assert "license" not in front_matter(card)
    assert "[org/llama-7b](https://huggingface.co/org/llama-7b) at revision `abc123`" in card
    assert "| licence of the base | named on its page; " in card


def test_card_of_a_base_that_the_run_made_claims_no_licence(tmp_path):
    stages = {stage.path: stage for stage in stages_of(load_recipe("tiny"))}
    card = card_of(stages["forward-0/model"], tmp_path / "run", {"seed": 140})
    assert "| base model | `base/model` of the same run, which began with random weights |" in card
    assert "licence" not in card


def test_card_says_greedy_decoding_and_adapters(base, tmp_path):
    stage = finetunes(str(base), "settings.evaluation.sampling.temperature=0")["iter-1/model"]
    stage = replace(
        stage, settings=stage.settings.model_copy(update={"lora": LoraSettings(rank=4)})
    )
    card = card_of(stage, tmp_path / "run", {"seed": 1})
    assert "`generation_config.json` decodes greedily." in card
    assert "LoRA of rank 4, merged" in card


def test_card_is_written_again_only_where_it_differs(base, tmp_path):
    stage = finetunes(str(base))["iter-1/model"]
    card_of(stage, tmp_path / "run", {"seed": 1})
    path = tmp_path / "run/iter-1/model/README.md"
    before = path.stat().st_mtime_ns
    card_of(stage, tmp_path / "run", {"seed": 1})
    assert path.stat().st_mtime_ns == before
    other = replace(stage, tags=("Answer briefly.",))
    assert other.fingerprint == stage.fingerprint
    assert "Answer briefly." in card_of(other, tmp_path / "run", {"seed": 1})


@pytest.mark.parametrize(
    ("files", "licence"),
    [
        ({"README.md": "---\nlicense: llama3\n---\n"}, "llama3"),
        ({"README.md": "---\nlicense: other\nlicense_name: 'my-terms'\n---\n"}, "my-terms"),
        ({"README.md": "# no front matter\nlicense: x\n", "LICENSE.txt": ""},
         "see LICENSE.txt of the base"),
        ({"LICENSE": ""}, "see LICENSE of the base"),
        ({}, None),
    ],
)  # fmt: skip
def test_licence_is_what_the_bases_files_name(tmp_path, files, licence):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert licence_of(str(tmp_path)) == licence


def test_licence_in_a_card_that_is_not_utf_8_is_read(tmp_path):
    (tmp_path / "README.md").write_bytes(b"---\nlicense: mit\n---\nna\xefve\n")
    assert licence_of(str(tmp_path)) == "mit"


def test_text_of_tags_cannot_end_the_block_that_shows_them(base, tmp_path):
    stage = replace(finetunes(str(base))["iter-1/model"], tags=("Use ```` and ```.",))
    card = card_of(stage, tmp_path / "run", {"seed": 1})
    assert "`````text\n### Request\n" in card


def test_wrapping_alone_leaves_the_card_alone(base, tmp_path):
    stage = finetunes(str(base))["iter-1/model"]
    card = card_of(stage, tmp_path / "run", {"seed": 1})
    folder = tmp_path / "run/iter-1/model"
    assert write_wrapping(str(folder), Wrapping("x", 0, 1))
    assert (folder / "README.md").read_text() == card


@pytest.mark.parametrize("name", ["num_steps", "num_passes"])
def test_damaged_record_of_a_training_is_one_line(tmp_path, base, name):
    stage = finetunes(str(base))["forward-0/model"]
    with pytest.raises(UserError, match=rf'the record of .*forward-0/model is .*{name} is "many"'):
        card_of(stage, tmp_path / "run", {"seed": 3}, FIGURES | {name: "many"})
