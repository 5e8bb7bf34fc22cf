"""Checks of a base model before it is finetuned."""

from __future__ import annotations

import os
from typing import Any

from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoTokenizer

from humpback_ray.errors import UserError
from humpback_ray.model_folders import local_folder
from humpback_ray.storage import one_line
from humpback_ray.training.task import BaseModel


def load_tokenizer(base: BaseModel) -> Any:
    """The base model's tokenizer, after checking that the model can be finetuned.

    Raises:
        UserError: no such model, no tokenizer, no end token, or weights that are not safetensors.
    """
    try:
        folder = local_folder(base.location, weights=False)
        config = AutoConfig.from_pretrained(folder, **base.load_options)
    except (OSError, ValueError) as error:
        raise UserError(
            f"the base model {base.location!r} cannot be loaded: it must be a folder (path or URL) "
            "with config.json, tokenizer and safetensors, or a Hugging Face hub id "
            f"({one_line(error)[:300]})"
        ) from error
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING and not hasattr(config, "auto_map"):
        raise UserError(
            f"the base model {base.location!r} is a {config.model_type} model, which transformers "
            "does not have as a causal language model: give one that continues text, such as LLaMA"
        )
    if os.path.isdir(folder):
        _check_files(base.location, folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **base.load_options)
    except (OSError, ValueError) as error:
        raise UserError(
            f"the base model {base.location!r} has no tokenizer that transformers loads: put its "
            f"tokenizer files beside config.json ({one_line(error)[:300]})"
        ) from error
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"the tokenizer of {base.location!r} has no end token, so no answer would ever end: "
            "set eos_token in its tokenizer_config.json"
        )
    return tokenizer


def _check_files(location: str, folder: str) -> None:
    names = os.listdir(folder)
    is_copy = folder != location  # from a URL, without the weights
    if not is_copy and not any(name.endswith(".safetensors") for name in names):
        raise UserError(
            f"the base model {location!r} has no *.safetensors file, the only format that "
            "humpback_ray reads: convert it with transformers' save_pretrained"
        )
    # Without these files transformers may build an empty tokenizer from config.json alone.
    if not any(name.startswith(("tokenizer", "vocab", "spiece", "tekken")) for name in names):
        raise UserError(
            f"the base model {location!r} has no tokenizer: put its tokenizer files "
            "(tokenizer.json, tokenizer_config.json) beside config.json"
        )
