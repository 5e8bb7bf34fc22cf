"""Evaluation prompts from the published files of the paper's seven sources, as one set.

A folder holds one file for each source, JSON or JSON lines as its authors publish it, under the
name in `SOURCES`. Five of the sources make up AlpacaEval's 805 prompts, so `alpaca_eval.json` alone
stands in for the files of these five. A source may also have its file or dataset elsewhere. One
that is not there is named, and the others still count. (Self-Alignment with Instruction
Backtranslation, arXiv 2308.06259, section 3.)
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from humpback_ray import storage
from humpback_ray.config.dataset_address import dataset_address, dataset_problem, is_dataset
from humpback_ray.corpus import hub_datasets
from humpback_ray.errors import UserError

ALPACA_EVAL = "alpaca_eval"
SOURCE_OPTION = "--source"


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
ALPACA = SOURCES[-1]


# --- a set of prompts -----------------------------------------------------------------------------


@dataclass(frozen=True)
class SourceCount:
    """The prompts of one source."""

    source: PromptSource
    read_from: str  # the file or dataset; empty for a source without one
    num_prompts: int
    num_new: int  # prompts that no source before has
    problem: str = ""  # the reason why a file or dataset is not read


@dataclass(frozen=True)
class PromptSet:
    """Prompts of several sources, each text once."""

    rows: list[dict[str, str]]  # as AlpacaEval has them: dataset, instruction
    counts: list[SourceCount]

    @property
    def missing(self) -> list[str]:
        """A line for each source that is not there."""
        return [
            f"{count.source.name}: "
            + (count.problem or f"no file {count.source.file}.json or .jsonl")
            for count in self.counts
            if not count.read_from or count.problem
        ]


def named_sources(options: Sequence[str]) -> dict[str, str]:
    """The places of sources by their names, out of options NAME=PLACE.

    Raises:
        UserError: an option has another form.
    """
    named = {}
    for option in options:
        name, separator, place = option.partition("=")
        if not separator or not place:
            raise UserError(
                f"{SOURCE_OPTION} takes NAME=PLACE, such as lima=dataset://GAIR/lima?split=test, "
                f"not {option!r}"
            )
        named[name] = place if is_dataset(place) else storage.absolute(place)
        if problem := dataset_problem(place, takes_datasets=True):
            raise UserError(f"{SOURCE_OPTION} {option}: {problem}")
    return named


def read_prompt_sets(folder: str, named: Mapping[str, str] | None = None) -> PromptSet:
    """All prompts of a folder's files, in the order of `SOURCES`, without repetitions.

    Two prompts that differ only in case or in spaces are one; the first of them stays.

    Args:
        folder: of the sources' files.
        named: a file, URL or dataset for the name of a source's file, in place of the folder's.

    Raises:
        UserError: no source is there, a name is unknown, or a file has another format.
    """
    files, problems = _read(_places(folder, named or {}))
    if not files:
        raise UserError(f"no source of prompts can be read: {'; '.join(problems.values())}")
    seen: set[str] = set()
    rows: list[dict[str, str]] = []
    counts = []
    for source in SOURCES:
        read_from, found = _prompts_of(source, files)
        new = [text for text in _unique(found) if _normalised(text) not in seen]
        seen.update(map(_normalised, new))
        rows += [{"dataset": source.file, "instruction": text} for text in new]
        problem = problems.get(source.file, "")
        counts.append(SourceCount(source, read_from, len(found), len(new), problem))
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


def alpaca_prompts(folder: str, named: Mapping[str, str] | None = None) -> list[str]:
    """AlpacaEval's prompts in a folder, or where they are named.

    Raises:
        UserError: they are not there, so nobody can tell which prompts they are.
    """
    place = _places(folder, named or {}).get(ALPACA_EVAL)
    if place is None:
        raise UserError(
            f"no {ALPACA_EVAL}.json in {folder}: a development set is without its prompts, so the "
            "file is needed to tell them"
        )
    rows = _rows_of_dataset(place) if is_dataset(place) else _rows(place)
    return _texts(place, rows, _reader(ALPACA, place))


def _place(row: dict[str, str]) -> str:
    return hashlib.sha256(row["instruction"].encode()).hexdigest()


# --- files ----------------------------------------------------------------------------------------


def _places(folder: str, named: Mapping[str, str]) -> dict[str, str]:
    """The places of sources by the names of their files."""
    known = [source.file for source in SOURCES]
    for name in named:
        if name not in known:
            raise UserError(f"no source is called {name!r}: name one of {', '.join(known)}")
    names = storage.names(folder)
    places = {
        file: storage.join(folder, name)
        for file in known
        for name in (f"{file}.json", f"{file}.jsonl")
        if name in names
    } | dict(named)
    if not places:
        raise UserError(
            f"no file of prompts in {folder}: put files named {', '.join(known)}, each with .json "
            "or .jsonl, there, or name a source's file or dataset"
        )
    return places


@dataclass(frozen=True)
class _File:
    """The entries of a source's file or dataset."""

    place: str
    rows: Sequence[Any]

    @property
    def name(self) -> str:
        """The place for people."""
        return self.place if is_dataset(self.place) else storage.name(self.place)


def _read(places: Mapping[str, str]) -> tuple[dict[str, _File], dict[str, str]]:
    """The files of sources that are there, and the reasons why others are not, by their names."""
    files: dict[str, _File] = {}
    problems: dict[str, str] = {}
    for name, place in places.items():
        try:
            if is_dataset(place):
                files[name] = _File(place, _rows_of_dataset(place))
            else:
                storage.size(place, "file of prompts", SOURCE_OPTION)
        except UserError as error:
            problems[name] = str(error)
            continue
        if name not in files:
            files[name] = _File(place, _rows(place))
    return files, problems


def _rows_of_dataset(place: str) -> list[Any]:
    column = dataset_address(place).column
    hub_datasets.check_columns(dataset_address(place), [column] if column else [], SOURCE_OPTION)
    return list(hub_datasets.read_rows(place, SOURCE_OPTION))


def _prompts_of(source: PromptSource, files: Mapping[str, _File]) -> tuple[str, list[str]]:
    """The file that a source is read from, or "", and its prompts."""
    if file := files.get(source.file):
        return file.name, _texts(file.place, file.rows, _reader(source, file.place))
    alpaca = files.get(ALPACA_EVAL)
    if alpaca is None or not source.alpaca_dataset:
        return "", []
    of_source = [
        row
        for row in alpaca.rows
        if isinstance(row, dict) and row.get("dataset") == source.alpaca_dataset
    ]
    texts = _texts(alpaca.place, of_source, _reader(ALPACA, alpaca.place))
    return (alpaca.name if texts else ""), texts


def _reader(source: PromptSource, place: str) -> Callable[[dict[str, Any]], str | None]:
    """The way to read an entry: as its source publishes it, or the column that is named."""
    column = dataset_address(place).column if is_dataset(place) else None
    return source.to_prompt if column is None else lambda row: row[column]


def _rows(path: str) -> list[Any]:
    """The entries of a JSON list or of JSON lines."""
    text = storage.read_text(path, "file of prompts", SOURCE_OPTION).removeprefix("\ufeff")
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
