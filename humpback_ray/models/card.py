"""The README.md of an exported model: its base, data, training and prompts, and how to ask it.

The file is apart from the weights, like the chat template, and the driver rewrites it without a
tokenizer or torch. It names files and folders without their place, because people publish it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from humpback_ray import storage
from humpback_ray.config.settings import TrainingSettings
from humpback_ray.method import prompts
from humpback_ray.models.licences import front_matter_of
from humpback_ray.models.wrapping import Wrapping
from humpback_ray.sizing.gguf_header import read_header

CARD_FILE = "README.md"


@dataclass(frozen=True, slots=True)
class Base:
    """The model that a training began from."""

    name: str  # hub id, name of a folder or file, or stage of the run that made it
    is_made_here: bool = False  # by the run itself, from random weights
    hub_id: str | None = None
    revision: str | None = None
    licence: str | None = None  # as the base's own files name it; None where they do not


@dataclass(frozen=True)
class _Trained:
    """The facts of a training's record that a card states."""

    num_steps: int
    batch_size: int
    num_truncated: int
    num_dropped: int
    num_passes: float | None = None  # older records have none


@dataclass(frozen=True, slots=True)
class ModelCard:
    """The facts of a model card."""

    name: str  # run and stage
    base: Base
    examples: Mapping[str, int]  # numbers of training examples by origin
    sources: Mapping[str, str]  # names of the files behind them, by what they are
    settings: TrainingSettings
    figures: Mapping[str, Any]  # of the training's record
    tags: tuple[str, ...]
    request: str  # template with $response that asks M_yx; empty for a model that answers
    wrapping: Wrapping

    def text(self) -> str:
        """The whole file."""
        parts = [self._front_matter(), self._summary(), self._prompts(), self._usage()]
        return "\n\n".join(parts) + "\n"

    def _front_matter(self) -> str:
        lines = ["library_name: transformers", "pipeline_tag: text-generation"]
        if self.base.hub_id:
            lines.append(f"base_model: {json.dumps(self.base.hub_id)}")
        named = front_matter_of(self.base.licence)
        lines += [f"{key}: {json.dumps(value)}" for key, value in named.items()]
        return "\n".join(["---", *lines, "---"])

    def _summary(self) -> str:
        does = "writes the request that a text answers" if self.request else "answers requests"
        rows = {
            "base model": self._base(),
            "licence of the base": "" if self.base.is_made_here else self._licence(),
            "training examples": ", ".join(f"{n:,} {kind}" for kind, n in self.examples.items()),
            **{kind: f"`{name}`" for kind, name in self.sources.items()},
            "training": self._training(),
        }
        table = [f"| {name} | {_cell(value)} |" for name, value in rows.items() if value]
        return "\n".join([
            f"# {self.name}",
            "",
            f"This model {does}. It was finetuned by instruction backtranslation "
            "(arXiv 2308.06259) with humpback_ray.",
            "",
            "| | |",
            "|---|---|",
            *table,
        ])  # fmt: skip

    def _base(self) -> str:
        if self.base.is_made_here:
            return f"`{self.base.name}` of the same run, which began with random weights"
        if not self.base.hub_id:
            return self.base.name
        revision = f" at revision `{self.base.revision}`" if self.base.revision else ""
        return f"[{self.base.hub_id}](https://huggingface.co/{self.base.hub_id}){revision}"

    def _licence(self) -> str:
        if self.base.licence:
            return f"{self.base.licence}; this model derives from the base, so it applies here too"
        where = "on its page" if self.base.hub_id else "nowhere in its folder"
        return f"named {where}; this model derives from the base, so it applies here too"

    def _training(self) -> str:
        settings = self.settings
        figures = storage.as_type(dict(self.figures), _Trained, f"the record of {self.name}")
        passes = figures.num_passes
        adapters = f"; LoRA of rank {settings.lora.rank}, merged" if settings.lora else ""
        return (
            f"{figures.num_steps:,} steps of {figures.batch_size} examples"
            + (f", {passes:.2f} passes" if passes is not None else "")
            + f"; learning rate {settings.learning_rate:g} to {settings.final_learning_rate:g}, "
            f"dropout {settings.dropout:g}, weight decay {settings.weight_decay:g}, at most "
            f"{settings.max_length:,} tokens an example ({figures.num_truncated:,} cut, "
            f"{figures.num_dropped:,} left out){adapters}"
        )

    def _prompts(self) -> str:
        asked = self.request.replace("$response", "(a text)") or "(your request)"
        return (
            "## What it was trained to read\n\n"
            "The chat template in `chat_template.jinja` writes this around a request:\n\n"
            + _block(prompts.render(asked, *self.tags))
        )

    def _usage(self) -> str:
        content = self.request.replace("$response", "...") or "Why is the sky blue?"
        return (
            "## How to ask it\n\n```python\n"
            "from transformers import pipeline\n\n"
            'model = pipeline("text-generation", "PATH OF THIS FOLDER")\n'
            f"content = {content!r}\n"
            'print(model([{"role": "user", "content": content}], max_new_tokens=512))\n'
            "```\n\n"
            "`vllm serve` takes the folder as it is; its chat endpoint replaces the sentences "
            'behind the request by `"chat_template_kwargs": {"tags": [...]}`. '
            f"`generation_config.json` {self._sampling()}."
        )

    def _sampling(self) -> str:
        if self.wrapping.temperature == 0:
            return "decodes greedily"
        return (
            f"samples with temperature {self.wrapping.temperature:g} and top_p "
            f"{self.wrapping.top_p:g}"
        )


def write_model_card(model_folder: str, card: ModelCard) -> bool:
    """Bring a model's card up to date; returns True if the file was written."""
    return storage.replace_text(storage.join(model_folder, CARD_FILE), card.text())


def licence_of(model: str) -> str | None:
    """The licence that a model folder names: in its card's front matter, or by a LICENSE file.

    Args:
        model: local path or fsspec URL.
    """
    names = storage.names(model)
    if CARD_FILE in names:
        # After a training, a byte that is no text in the base's card must not end the stage.
        filesystem, path = storage.locate(storage.join(model, CARD_FILE))
        card = filesystem.cat_file(path).decode(errors="replace")
        front_matter = re.match(r"---\s*\n(.*?)\n---", card, re.DOTALL)
        keys = ("license_name", "license")  # the second says `other` where there is the first
        lines = front_matter[1] if front_matter else ""
        for key in keys:
            if found := re.search(rf"(?m)^{key}:[ \t]*(\S.*?)[ \t]*$", lines):
                return found[1].strip("\"'")
    files = sorted(name for name in names if re.match(r"(?i)licen[cs]e\b", name))
    return f"see {files[0]} of the base" if files else None


def licence_of_gguf(file: str) -> str | None:
    """The licence in the metadata of a GGUF file, at a path or URL; None where it names none."""
    licence = read_header(file).metadata.get("general.license")
    return licence if isinstance(licence, str) else None


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _block(text: str) -> str:
    """A fenced block; the fence is longer than any in the text, such as in a tag."""
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", text)), 3)
    return f"{fence}text\n{text.rstrip()}\n{fence}"
