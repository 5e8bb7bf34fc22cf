"""Judgement on a base model before any work: can it be trained and served as a recipe asks?

`models/files.py` judges the files alone. Here transformers loads the config and the tokenizer,
because their classes have defaults that no file holds.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from humpback_ray import storage
from humpback_ray.config.settings import GgufBase, PretrainedBase, Settings, TrainingSettings
from humpback_ray.errors import UserError
from humpback_ray.method.tokens import grade_ids
from humpback_ray.models.files import (
    RANDOM_VALUES,
    ModelFiles,
    Problem,
    ProblemKind,
    Unusable,
    file_problems,
    model_files,
    num_embeddings,
)
from humpback_ray.models.local import local_folder
from humpback_ray.sizing.gguf_header import gguf_location, read_header

OUTPUT_LAYER = re.compile(r"(^|\.)(lm_head|embed_out|output|head)(\.linear)?\.weight$")
LAYER = re.compile(r"(?:^|\.)(?:layers|layer|h|blocks|block)\.(\d+)\.")
# Keys of config.json for the number of positions, in the order in which vLLM looks for them.
POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length",
             "model_max_length", "max_sequence_length", "max_seq_length", "seq_len")  # fmt: skip
END_TOKEN = "tokenizer.ggml.eos_token_id"
# RoPE scalings whose `max_position_embeddings` is the scaled one already.
SCALED_BEFORE = ("su", "longrope", "llama3")


def find_problems(settings: Settings) -> list[Problem]:
    """Problems of a recipe's base model; empty where it is good, or where nothing is known yet.

    A run makes a base of kind `scratch` itself. A hub id is judged as far as this machine has its
    files in the cache.
    """
    base = settings.base
    if isinstance(base, GgufBase):
        return _gguf_problems(base.file, settings)
    if not isinstance(base, PretrainedBase):
        return []
    files = model_files(base.model, base.revision)
    problems = file_problems(files)
    if problems or not files.has_config:
        return problems
    options = {"revision": base.revision, "trust_remote_code": base.trust_remote_code}
    try:
        config, tokenizer = load_config(files, options), load_tokenizer(files, options)
    except Unusable as error:
        return [error.problem]
    return [
        *model_problems(files, config, tokenizer),
        *_length_problems(files.name, *num_positions(config), settings),
        *_training_problems(files, config, settings),
        *_grade_problems(files, tokenizer, settings),
    ]


# --- config and tokenizer -------------------------------------------------------------------------


def load_config(files: ModelFiles, options: Mapping[str, Any]) -> Any:
    """The config as transformers loads it.

    Raises:
        Unusable: it cannot be loaded, or is of no model that continues text.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, GenerationConfig

    folder = _local(files)
    try:
        config = AutoConfig.from_pretrained(folder, **options)
    except (OSError, ValueError) as error:
        if "auto_map" in files.config and not options["trust_remote_code"]:
            raise files.unusable(
                ProblemKind.REMOTE_CODE,
                f"is a {files.config.get('model_type')} model that brings code to run (auto_map)",
                "read that code, and set settings.base.trust_remote_code to true",
            ) from error
        raise files.unusable(
            ProblemKind.UNREADABLE,
            f"cannot be loaded ({storage.one_line(error)[:300]})",
            "it must be a folder (path or URL) with config.json, tokenizer and safetensors, or a "
            "Hugging Face hub id",
        ) from error
    if "generation_config.json" in files.names:
        try:
            GenerationConfig.from_pretrained(folder, revision=options["revision"])
        except ValueError as error:
            raise files.unusable(
                ProblemKind.UNREADABLE,
                "has a generation_config.json that transformers refuses "
                f"({storage.one_line(error)[:300]})",
                "take the entry out of that file",
            ) from error
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING and not hasattr(config, "auto_map"):
        raise files.unusable(
            ProblemKind.NO_LANGUAGE_MODEL,
            f"is a {config.model_type} model, which transformers does not have as a causal "
            "language model",
            "give one that continues text, such as LLaMA",
        )
    return config


def load_tokenizer(files: ModelFiles, options: Mapping[str, Any]) -> Any:
    """The tokenizer as transformers loads it.

    Raises:
        Unusable: it cannot be loaded, or has no end token.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(_local(files), **options)
    # tokenizers raises a bare Exception for a tokenizer.json that it cannot read, and transformers
    # a KeyError or TypeError for entries that are absent.
    except Exception as error:
        raise files.unusable(
            ProblemKind.NO_TOKENIZER,
            f"has no tokenizer that transformers loads ({storage.one_line(error)[:300]})",
            "put its tokenizer files beside config.json",
        ) from error
    if tokenizer.eos_token_id is None:
        raise files.unusable(
            ProblemKind.NO_END_TOKEN,
            "has a tokenizer with no end token, so no answer would ever end",
            "set eos_token in its tokenizer_config.json",
        )
    return tokenizer


def _local(files: ModelFiles) -> str:
    """The folder with config and tokenizer on this machine, or the hub id."""
    return local_folder(files.folder, weights=False) if files.is_whole else files.name


def model_problems(files: ModelFiles, config: Any, tokenizer: Any) -> list[Problem]:
    """Places where the weights, config.json and the tokenizer do not belong together."""
    return list(_model_problems(files, config, tokenizer))


def _model_problems(files: ModelFiles, config: Any, tokenizer: Any) -> Iterator[Problem]:
    text = config.get_text_config()
    rows = num_embeddings(files)
    if rows is not None and rows != text.vocab_size:
        yield files.problem(
            ProblemKind.VOCABULARY,
            f"has an embedding of {rows:,} rows where config.json says vocab_size "
            f"{text.vocab_size:,}",
            "take both from one save_pretrained",
        )
    if rows is not None and (token := _beyond(tokenizer, rows)):
        yield files.problem(
            ProblemKind.VOCABULARY,
            f"has a tokenizer that gives the id {token[1]} for {token[0]!r}, and an embedding of "
            f"{rows:,} rows",
            "take the tokenizer of these weights, or resize_token_embeddings and save both",
        )
    if not files.has_all_weights:
        return
    layers = {int(match[1]) for name in files.tensors if (match := LAYER.search(name))}
    num_layers = getattr(text, "num_hidden_layers", 0)
    absent = sorted(set(range(num_layers)) - layers)
    if layers and absent:
        yield files.problem(
            ProblemKind.NO_WEIGHTS,
            f"has no weights of layer {absent[0]} ({len(absent)} of {num_layers} layers)",
            RANDOM_VALUES,
        )
    is_tied = config.tie_word_embeddings or text.tie_word_embeddings
    if rows is not None and not is_tied and not any(map(OUTPUT_LAYER.search, files.tensors)):
        yield files.problem(
            ProblemKind.NO_WEIGHTS,
            "has no output layer (lm_head) in its weights",
            "set tie_word_embeddings in config.json if it shares the embedding's weights; else "
            f"{RANDOM_VALUES}",
        )


def _beyond(tokenizer: Any, num_rows: int) -> tuple[str, int] | None:
    """A token whose id has no row in the embedding and that a text may give."""
    named = {tokenizer.bos_token_id, tokenizer.eos_token_id}
    added = getattr(tokenizer, "added_tokens_decoder", {})
    # No text gives a special token (`method/tokens.py`), so a padding token beyond the embedding,
    # which many tokenizers have, does no harm.
    return next(
        (
            (token, number)
            for token, number in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
            if number >= num_rows
            and (number in named or number not in added or not added[number].special)
        ),
        None,
    )


# --- config and recipe ----------------------------------------------------------------------------


def num_positions(config: Any) -> tuple[float, str]:
    """Tokens of the longest sequence that vLLM accepts, and the place that says so.

    Infinite where the config has no such key.
    """
    text = config.get_text_config()
    stated = {key: value for key in POSITIONS if (value := getattr(text, key, None)) is not None}
    if not stated:
        return math.inf, ""
    key = min(stated, key=lambda name: stated[name])
    longest: float = stated[key]
    rope = getattr(text, "rope_parameters", None) or {}
    nested = [rope] if "rope_type" in rope else [r for r in rope.values() if isinstance(r, dict)]
    if "gemma3" in text.model_type:
        nested = []
    for each in nested:
        if each.get("rope_type", "default") in SCALED_BEFORE:
            continue
        if each.get("rope_type") == "yarn":
            longest = each.get("original_max_position_embeddings", longest)
        longest *= each.get("factor") or 1.0
        break
    return max(longest, stated.get("model_max_length", 0)), f"{key} in its config.json"


def _gguf_problems(file: str, settings: Settings) -> list[Problem]:
    """Problems that the header of a GGUF file shows; a file without one is the source's problem."""
    try:
        header = read_header(gguf_location(file))
    except UserError:
        return []
    found = []
    if header.metadata.get(END_TOKEN) is None:
        found.append(
            Problem(
                ProblemKind.NO_END_TOKEN,
                f"the base model {file!r} names no end token ({END_TOKEN}), so no answer would "
                "ever end",
                "convert the model again with its tokenizer_config.json beside it",
            )
        )
    key = f"{header.architecture}.context_length"
    longest = header.metadata.get(key, math.inf)
    return [*found, *_length_problems(file, longest, f"{key} in its header", settings)]


def _trainings(settings: Settings) -> dict[str, TrainingSettings]:
    return {
        "settings.backward_training": settings.backward_training,
        "settings.forward_training": settings.forward_training,
    }


def _length_problems(
    name: str, longest: float, stated_by: str, settings: Settings
) -> Iterator[Problem]:
    """Lengths of a recipe above the `longest` sequence of the model `name`, in tokens."""
    lengths = {
        "settings.context_length": settings.context_length,
        "settings.long_prompts.context_length": settings.long_prompts.context_length or 0,
        **{f"{section}.max_length": training.max_length
           for section, training in _trainings(settings).items()},
    }  # fmt: skip
    for setting, length in lengths.items():
        if length > longest:
            yield Problem(
                ProblemKind.POSITIONS,
                f"{setting} {length} is above the {longest:g} positions of the base model "
                f"{name!r} ({stated_by})",
                f"set {setting} to at most {longest:g}",
            )


def dropouts(config: Any) -> list[tuple[Any, str]]:
    """The places of a config that hold a dropout of a training: an object and its attribute.

    transformers' models name it in many ways: attention_dropout (LLaMA), attn_pdrop, resid_pdrop
    and embd_pdrop (GPT-2), dropout (OPT), hidden_dropout (GPT-NeoX), attn_config.attn_pdrop (MPT).
    """
    text = config.get_text_config()
    owners = [text, *(owner for owner in [getattr(text, "attn_config", None)] if owner)]
    # Of layers that a language model does not have, and of whole layers that are left out.
    others = ("classifier", "summary", "layerdrop")
    return [
        (owner, name)
        for owner in owners
        for name, value in vars(owner).items()
        if ("dropout" in name or "pdrop" in name)
        and not any(other in name for other in others)
        and isinstance(value, int | float)
        and not isinstance(value, bool)
    ]


def set_dropout(config: Any, dropout: float) -> None:
    """Set every dropout of a config, in place."""
    for owner, name in dropouts(config):
        # Not by setattr, because transformers declares some of them as whole numbers.
        vars(owner)[name] = dropout


def _training_problems(files: ModelFiles, config: Any, settings: Settings) -> Iterator[Problem]:
    has_dropout = bool(dropouts(config))
    modules = {n.removesuffix(".weight") for n, t in files.tensors.items() if len(t.shape) == 2}
    for name, training in _trainings(settings).items():
        if training.dropout and not has_dropout:
            yield Problem(
                ProblemKind.DROPOUT,
                f"{name}.dropout {training.dropout:g} has no effect on the base model "
                f"{files.name!r}: the config of a {config.model_type} model has no dropout",
                f"set {name}.dropout to 0",
            )
        targets = training.lora.target_modules if training.lora else ()
        for target in () if isinstance(targets, str) else targets:
            if modules and not any(f".{module}".endswith(f".{target}") for module in modules):
                choices = sorted({module.rpartition(".")[2] for module in modules})
                yield Problem(
                    ProblemKind.LORA,
                    f"{name}.lora.target_modules has {target!r}, which is no matrix of the base "
                    f"model {files.name!r}",
                    f"choose from {', '.join(choices)}, or set it to all-linear",
                )


def _grade_problems(files: ModelFiles, tokenizer: Any, settings: Settings) -> Iterator[Problem]:
    if settings.rating.method != "expected" or settings.rating.endpoint:
        return
    try:
        grade_ids(tokenizer, settings.rating.grades)
    except UserError:
        grades = settings.rating.grades
        yield files.problem(
            ProblemKind.GRADES,
            f"has a tokenizer that does not write the grades {grades[0]} to {grades[-1]} as one "
            "token each, so their probabilities cannot be read",
            "set settings.rating.method to text",
        )
