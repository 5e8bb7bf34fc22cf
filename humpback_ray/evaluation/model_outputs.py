"""A model's outputs in AlpacaEval's format, of a run or published.

(https://github.com/tatsu-lab/alpaca_eval, `model_outputs.json`)

One rule holds for the judge and for people, so that both compare the same answers: of entries with
the same prompt the first one counts, as it does for the prompts of a run. Entries that do not count
are counted by reason. A file that loses many shows it twice, because a prompt without an answer
counts as not judged.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from humpback_ray import storage
from humpback_ray.errors import UserError

WANTED = (
    'give a JSON list of {"instruction", "output", "generator"}, as AlpacaEval writes '
    "model_outputs.json"
)


# A name becomes a folder, a cell and a part of many lines.
MAX_NAME = 200  # bytes, of the 255 that a folder's name may have
FORMULA_MARKS = ("=", "+", "-", "@")  # a cell that begins with one is run by programs for tables


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
    path: str
    by_prompt: Mapping[str, Output]  # by `prompt_key`
    left_out: Mapping[str, int]


def prompt_key(instruction: str) -> str:
    """The key of a prompt: its text without spaces at its ends.

    Five of AlpacaEval's prompts end with some in its own files, and in others they do not.
    """
    return instruction.strip()


def read_outputs(path: str, key: str, model: str | None = None) -> ModelOutputs:
    """The answers in a file.

    Args:
        key: the setting or option that names the file.
        model: its name; None takes the `generator` of the entries, or else the file's name.

    Raises:
        UserError: no such file, another format, no answer in it, several generators, or a name
            that is none.
    """
    entries = _entries(path, key)
    left_out: Counter[str] = Counter()
    by_prompt: dict[str, Output] = {}
    for entry in entries:
        output = _output(entry)
        if output is None:
            left_out["no text as instruction or output"] += 1
        elif (key_of_prompt := prompt_key(output.instruction)) in by_prompt:
            left_out["prompt repeated"] += 1
        else:
            by_prompt[key_of_prompt] = output
    if not by_prompt:
        raise UserError(
            f"the outputs {path} have no answer in {len(entries)} entries: {WANTED} ({key})"
        )
    assert len(by_prompt) + left_out.total() == len(entries)
    name = model or _generator(path, key, entries)
    _check_name(name, path, key)
    return ModelOutputs(name, path, by_prompt, left_out)


def _check_name(name: str, path: str, key: str) -> None:
    if not name.isprintable() or len(name.encode()) > MAX_NAME or name.startswith(FORMULA_MARKS):
        raise UserError(
            f"the outputs {path} are of a model {name[:60]!a}, which is no name: change "
            f"`generator` in the file to at most {MAX_NAME} bytes of printable characters, the "
            f"first of them none of {' '.join(FORMULA_MARKS)} ({key})"
        )


def _entries(path: str, key: str) -> list[Any]:
    text = storage.read_text(path, "file of model outputs", key).removeprefix("\ufeff")
    try:
        entries = json.loads(text)
    except ValueError as error:
        raise UserError(f"the outputs {path} are no JSON ({error}): {WANTED} ({key})") from error
    if not isinstance(entries, list):
        raise UserError(f"the outputs {path} are no list: {WANTED} ({key})")
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


def _generator(path: str, key: str, entries: Sequence[Any]) -> str:
    names = {str(e["generator"]) for e in entries if isinstance(e, dict) and e.get("generator")}
    if len(names) > 1:
        shown = ", ".join(" ".join(name.split())[:60] for name in sorted(names)[:3])
        raise UserError(
            f"the outputs {path} are of {len(names)} models ({shown}): give one file for each "
            f"model ({key})"
        )
    return names.pop() if names else storage.name(path).removesuffix(".json")
