"""The files that decide how a caller asks a model: its chat template and its sampling defaults.

They are apart from the weights, so other tags or another temperature need no training. Imports only
the standard library and fsspec, so the driver rewrites the files without a tokenizer or torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from humpback_ray import storage

# transformers 5's names; it prefers the first to a template inside tokenizer_config.json.
CHAT_TEMPLATE_FILE = "chat_template.jinja"
GENERATION_FILE = "generation_config.json"
# Entries of generation_config.json that decide how the model samples. A base model's entries do not
# belong to a finetuned model, which is evaluated with others.
SAMPLING_ENTRIES = (
    "do_sample", "temperature", "top_p", "top_k", "top_h", "min_p", "typical_p", "epsilon_cutoff",
    "eta_cutoff",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Wrapping:
    """The way to ask a model, unless a caller chooses another."""

    chat_template: str  # Jinja
    temperature: float  # 0 is greedy decoding
    top_p: float

    def generation_entries(self) -> dict[str, Any]:
        """The sampling entries of generation_config.json.

        transformers refuses a temperature of 0, and warns of sampling entries without `do_sample`.
        """
        if self.temperature == 0:
            return {"do_sample": False}
        return {"do_sample": True, "temperature": self.temperature, "top_p": self.top_p}


def write_wrapping(model_folder: str, wrapping: Wrapping) -> bool:
    """Bring an exported model's chat template and sampling defaults up to date.

    Each of the two files is replaced whole, and only if its content differs.

    Args:
        model_folder: local path or fsspec URL of a folder that `export_model` has written.
        wrapping: what the two files shall say.

    Returns:
        True if a file was written.
    """
    template_url = storage.join(model_folder, CHAT_TEMPLATE_FILE)
    is_new_template = storage.replace_text(template_url, wrapping.chat_template)

    generation_url = storage.join(model_folder, GENERATION_FILE)
    before = storage.read_json(generation_url)
    assert before is not None, f"{model_folder} is no exported model: it has no {GENERATION_FILE}"
    after = without_sampling(before) | wrapping.generation_entries()
    if after != before:
        storage.write_json(generation_url, dict(sorted(after.items())))
    return is_new_template or after != before


def without_sampling(generation_config: dict[str, Any]) -> dict[str, Any]:
    """The entries of a generation config that do not depend on sampling, such as token ids."""
    return {k: v for k, v in generation_config.items() if k not in SAMPLING_ENTRIES}
