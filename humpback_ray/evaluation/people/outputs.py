"""Answers of models, out of a run or out of files in AlpacaEval's format.

(https://github.com/tatsu-lab/alpaca_eval, `model_outputs.json`)
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from humpback_ray import storage
from humpback_ray.errors import UserError

EVALUATION = "evaluation"  # folder of a run with one folder per model
OUTPUTS = "outputs.json"
OPTION = "--models"
WANTED = 'a JSON list of {"instruction", "output", "generator"}, as AlpacaEval has'


@dataclass(frozen=True)
class Output:
    """A model's answer to one prompt."""

    instruction: str
    text: str
    dataset: str


@dataclass(frozen=True)
class ModelOutputs:
    """A model's answers by prompt, and the number of entries left out by reason."""

    model: str
    by_prompt: Mapping[str, Output]
    left_out: Mapping[str, int]


def read_all(run_folder: str, models: Sequence[str]) -> list[ModelOutputs]:
    """The answers of several models.

    Args:
        models: each the name of a model of the run, a file, or NAME=FILE.

    Raises:
        UserError: fewer than two models, two of the same name, or one without readable answers.
    """
    if len(models) < 2:
        raise UserError(
            f"{OPTION} {','.join(models)}: a comparison needs two models or more; give names of "
            f"models in {storage.join(run_folder, EVALUATION)}, or files of outputs"
        )
    outputs = [_read(run_folder, model) for model in models]
    counts = Counter(output.model for output in outputs)
    name, number = counts.most_common(1)[0]
    if number > 1:
        raise UserError(
            f"{OPTION}: {number} models have the name {name}; give one another name, as "
            "OTHER_NAME=FILE.json"
        )
    return outputs


def _read(run_folder: str, model: str) -> ModelOutputs:
    name, separator, path = model.partition("=")
    if separator:
        return read_outputs(storage.absolute(path), name)
    if model.endswith(".json") or "/" in model:
        return read_outputs(storage.absolute(model))
    folder = storage.join(run_folder, EVALUATION)
    file = storage.join(folder, model, OUTPUTS)
    if not storage.exists(file):
        known = sorted(n for n in storage.names(folder) if not n.startswith((".", "_")))
        raise UserError(
            f"no answers of {model} at {file}: name one of {', '.join(known) or '(none)'}, or a "
            "file of outputs that ends in .json"
        )
    return read_outputs(file, model)


def read_outputs(file: str, name: str | None = None) -> ModelOutputs:
    """The answers in a file. Of entries with the same prompt the first one counts.

    Args:
        name: of the model; None takes the one `generator` of the file.

    Raises:
        UserError: no such file, another format, no answer in it, or several generators.
    """
    entries = _entries(file)
    left_out: Counter[str] = Counter()
    by_prompt: dict[str, Output] = {}
    for entry in entries:
        output = _output(entry)
        if output is None:
            left_out["no text as instruction or output"] += 1
        elif output.instruction in by_prompt:
            left_out["prompt repeated"] += 1
        else:
            by_prompt[output.instruction] = output
    if not by_prompt:
        raise UserError(f"outputs {file} have no answer in {len(entries)} entries: give {WANTED}")
    assert len(by_prompt) + left_out.total() == len(entries)
    return ModelOutputs(name or _generator(file, entries), by_prompt, left_out)


def _entries(file: str) -> list[Any]:
    text = storage.read_text(file, "file of outputs", OPTION).removeprefix("\ufeff")
    try:
        entries = json.loads(text)
    except ValueError as error:
        raise UserError(f"outputs {file} are no JSON ({error}): give {WANTED}") from error
    if not isinstance(entries, list):
        raise UserError(f"outputs {file} are no list: give {WANTED}")
    return entries


def _output(entry: Any) -> Output | None:
    if not isinstance(entry, dict):
        return None
    instruction, text = entry.get("instruction"), entry.get("output")
    if not isinstance(instruction, str) or not isinstance(text, str):
        return None
    if entry.get("input"):  # a second part of the prompt in older files
        instruction = f"{instruction}\n\n{entry['input']}"
    return Output(instruction, text, str(entry.get("dataset") or ""))


def _generator(file: str, entries: Sequence[Any]) -> str:
    names = {str(e["generator"]) for e in entries if isinstance(e, dict) and e.get("generator")}
    if len(names) > 1:
        shown = ", ".join(sorted(names)[:3])
        raise UserError(
            f"outputs {file} come from {len(names)} generators ({shown}): give a file per model, "
            "or one name for all as NAME=FILE.json"
        )
    return names.pop() if names else storage.name(file).removesuffix(".json")
