"""Evaluation prompts from the published files of the paper's seven sources, as one set.

A folder holds one file for each source, JSON or JSON lines as its authors publish it, under the
name in `SOURCES`. Five of the sources make up AlpacaEval's 805 prompts, so `alpaca_eval.json` alone
stands in for the files of these five. A file that is not there is named, and the others still
count. (Self-Alignment with Instruction Backtranslation, arXiv 2308.06259, section 3.)
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from humpback_ray import storage
from humpback_ray.errors import UserError

ALPACA_EVAL = "alpaca_eval"
FOLDER_ARGUMENT = "the folder of prompt files"


@dataclass(frozen=True)
class PromptSource:
    """One source of prompts: its file and the way to read an entry."""

    name: str
    file: str  # without `.json` or `.jsonl`
    num_published: int  # prompts that the paper takes from it
    origin: str
    licence: str
    # The prompt of an entry; None for one that is no first turn of a person.
    to_prompt: Callable[[dict[str, Any]], str | None]
    alpaca_dataset: str = ""  # of `alpaca_eval.json`, where it has the same prompts


def _self_instruct(row: dict[str, Any]) -> str:
    given = row["instances"][0]["input"]
    return f"{row['instruction']}\n\n{given}" if given.strip() else row["instruction"]


def _open_assistant(row: dict[str, Any]) -> str | None:
    is_first = row["role"] == "prompter" and not row.get("parent_id")
    return row["text"] if is_first and row["lang"] == "en" and not row.get("deleted") else None


_HUMAN_TURN = re.compile(r"\s*Human: (.*?)(?=\n\nAssistant:|\Z)", re.S)


def _hh_rlhf(row: dict[str, Any]) -> str | None:
    match = _HUMAN_TURN.match(row["chosen"])
    return match[1] if match else None


SOURCES = (
    PromptSource(
        "Vicuna", "vicuna", 80, "question.jsonl of lm-sys/FastChat", "Apache-2.0",
        lambda row: row["text"], "vicuna",
    ),
    PromptSource(
        "Self-Instruct", "self_instruct", 252,
        "user_oriented_instructions.jsonl of yizhongw/self-instruct", "Apache-2.0",
        _self_instruct, "selfinstruct",
    ),
    PromptSource(
        "Open Assistant", "open_assistant", 188, "message rows of OpenAssistant/oasst1",
        "Apache-2.0", _open_assistant, "oasst",
    ),
    PromptSource(
        "Koala", "koala", 156, "the authors' test set", "not known to us",
        lambda row: row["prompt"], "koala",
    ),
    PromptSource(
        "HH-RLHF", "hh_rlhf", 129, "test.jsonl of Anthropic/hh-rlhf", "MIT",
        _hh_rlhf, "helpful_base",
    ),
    PromptSource(
        "LIMA", "lima", 300, "test.jsonl of GAIR/lima",
        "CC BY-NC-SA, or stricter where its source is", lambda row: row["conversations"][0],
    ),
    PromptSource(
        "own", "own", 64, "yours; the paper's authors have not published theirs", "yours",
        lambda row: row["instruction"],
    ),
    PromptSource(
        "AlpacaEval", ALPACA_EVAL, 805, "alpaca_eval.json of tatsu-lab/alpaca_eval",
        "CC BY-NC 4.0", lambda row: row["instruction"],
    ),
)  # fmt: skip


# --- a set of prompts -----------------------------------------------------------------------------


@dataclass(frozen=True)
class SourceCount:
    """The prompts of one source."""

    source: PromptSource
    read_from: str  # the file; empty for a source without one
    num_prompts: int
    num_new: int  # prompts that no source before has


@dataclass(frozen=True)
class PromptSet:
    """Prompts of several sources, each text once."""

    rows: list[dict[str, str]]  # as AlpacaEval has them: dataset, instruction
    counts: list[SourceCount]

    @property
    def missing(self) -> list[str]:
        """A line for each source without a file."""
        return [
            f"{count.source.name}: no file {count.source.file}.json or .jsonl"
            for count in self.counts
            if not count.read_from
        ]


def read_prompt_sets(folder: str) -> PromptSet:
    """All prompts of a folder's files, in the order of `SOURCES`, without repetitions.

    Two prompts that differ only in case or in spaces are one; the first of them stays.

    Raises:
        UserError: no file of any source, or a file in another format.
    """
    files = _files(folder)
    alpaca = _alpaca_rows(folder, files)
    seen: set[str] = set()
    rows: list[dict[str, str]] = []
    counts = []
    for source in SOURCES:
        read_from, found = _prompts_of(source, folder, files, alpaca)
        new = [text for text in _unique(found) if _normalised(text) not in seen]
        seen.update(map(_normalised, new))
        rows += [{"dataset": source.file, "instruction": text} for text in new]
        counts.append(SourceCount(source, read_from, len(found), len(new)))
    return PromptSet(rows, counts)


def development_set(prompts: PromptSet, number: int, alpaca_prompts: Iterable[str]) -> PromptSet:
    """A sample of the prompts, drawn by their texts, without those of AlpacaEval.

    Raises:
        UserError: fewer prompts are left.
    """
    taken = set(map(_normalised, alpaca_prompts))
    left = [row for row in prompts.rows if _normalised(row["instruction"]) not in taken]
    if len(left) < number:
        raise UserError(
            f"{len(left)} prompts are left without AlpacaEval's, and {number} are asked for: add "
            "files of other sources, or ask for fewer"
        )
    return PromptSet(sorted(left, key=_place)[:number], prompts.counts)


def alpaca_prompts(folder: str) -> list[str]:
    """AlpacaEval's prompts in a folder.

    Raises:
        UserError: the folder has no file of them, so nobody can tell which prompts they are.
    """
    files = _files(folder)
    if ALPACA_EVAL not in files:
        raise UserError(
            f"no {ALPACA_EVAL}.json in {folder}: a development set is without its prompts, so the "
            "file is needed to tell them"
        )
    return [row["instruction"] for row in _alpaca_rows(folder, files)]


def _place(row: dict[str, str]) -> str:
    return hashlib.sha256(row["instruction"].encode()).hexdigest()


# --- files ----------------------------------------------------------------------------------------


def _files(folder: str) -> dict[str, str]:
    """The files of sources in a folder by the sources' names for them."""
    names = storage.names(folder)
    files = {
        source.file: name
        for source in SOURCES
        for name in (f"{source.file}.json", f"{source.file}.jsonl")
        if name in names
    }
    if not files:
        known = ", ".join(source.file for source in SOURCES)
        raise UserError(
            f"no file of prompts in {folder}: put files named {known}, each with .json or .jsonl, "
            "there"
        )
    return files


def _alpaca_rows(folder: str, files: dict[str, str]) -> list[dict[str, Any]]:
    if ALPACA_EVAL not in files:
        return []
    path = storage.join(folder, files[ALPACA_EVAL])
    rows = _rows(path)
    _texts(path, rows, lambda row: row["instruction"])
    return rows


def _prompts_of(
    source: PromptSource, folder: str, files: dict[str, str], alpaca: Sequence[dict[str, Any]]
) -> tuple[str, list[str]]:
    """The file that a source is read from, or "", and its prompts."""
    if source.file in files:
        path = storage.join(folder, files[source.file])
        return files[source.file], _texts(path, _rows(path), source.to_prompt)
    of_alpaca = [
        row["instruction"].strip()
        for row in alpaca
        if source.alpaca_dataset and row.get("dataset") == source.alpaca_dataset
    ]
    return (files[ALPACA_EVAL] if of_alpaca else ""), of_alpaca


def _rows(path: str) -> list[Any]:
    """The entries of a JSON list or of JSON lines."""
    text = storage.read_text(path, "file of prompts", FOLDER_ARGUMENT).removeprefix("\ufeff")
    is_list = text.lstrip().startswith("[")
    try:
        if is_list:
            return json.loads(text)
        return [json.loads(line) for line in text.split("\n") if line.strip()]
    except ValueError as error:
        form = "JSON list" if is_list else "file of JSON lines"
        raise UserError(f"{path} is no {form} ({error}): get it again") from error


def _texts(
    path: str, rows: Sequence[Any], to_prompt: Callable[[dict[str, Any]], str | None]
) -> list[str]:
    """The prompts of a file's entries; entries that are no prompt of a person are left out."""
    prompts = []
    for number, row in enumerate(rows):
        try:
            text = to_prompt(row)
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise UserError(
                f"{path}: entry {number} has another format than its source publishes "
                f"({type(error).__name__}: {error})"
            ) from error
        if text is not None and not isinstance(text, str):
            raise UserError(f"{path}: entry {number} has no text as its prompt, but {text!r:.60}")
        if text and text.strip():
            prompts.append(text.strip())
    return prompts


def _unique(texts: Sequence[str]) -> list[str]:
    """Texts without repetitions; the first of each stays."""
    return list({_normalised(text): text for text in reversed(texts)}.values())[::-1]


def _normalised(text: str) -> str:
    return " ".join(text.casefold().split())
