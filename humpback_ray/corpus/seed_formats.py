"""The seed as (instruction, output) pairs, in the format that its first row shows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import chain
from typing import Any

from humpback_ray.corpus import oasst
from humpback_ray.corpus.seed_rows import MAX_SHOWN, SeedRow, read_seed_rows
from humpback_ray.errors import UserError
from humpback_ray.method import filters
from humpback_ray.rows import DroppedSeed, SeedOutcome, SeedPair

SETTING = "settings.seed.path"


class SeedFormat(StrEnum):
    """The format of a seed's rows, as a stage's record names it."""

    OASST_MESSAGES = "oasst_messages"
    OASST_TREES = "oasst_trees"
    PAIRS = "pairs"
    CHAT = "messages"
    SHAREGPT = "sharegpt"


FORMATS = (
    "rows of one format: Open Assistant's messages (message_id, parent_id, role, text, lang, rank) "
    "or trees (prompt with its replies), pairs (instruction, and output or response), messages "
    "[{role, content}], or conversations [{from, value}] or of texts in turn"
)
OUTPUTS = ("output", "response")
INPUTS = ("input", "context")  # more of the instruction: Alpaca's name, and Dolly's
# Who speaks, in the words that exports of chats have for it.
PERSON = ("user", "human", "prompter")
MODEL = ("assistant", "gpt", "model", "chatgpt", "bing", "bard")
SYSTEM = ("system", "developer")


@dataclass(slots=True)
class SeedContent:
    """The pairs of a seed, dropped rows with reasons, and the words for a seed without pairs."""

    formats: tuple[SeedFormat, ...] = ()  # of the places that have rows
    pairs: list[SeedPair] = field(default_factory=list)
    dropped: list[DroppedSeed] = field(default_factory=list)
    problem: str = "it holds no row"  # the reason why no pair comes out; empty: the counts tell
    num_without_root: int = 0  # messages of Open Assistant from which no parent leads to a root

    @property
    def figures(self) -> dict[str, Any]:
        """The figures of a stage's record."""
        lost = {"num_without_root": self.num_without_root} if self.num_without_root else {}
        return {"format": ", ".join(dict.fromkeys(self.formats)), **lost}


def read_seeds(places: Sequence[str], language: str, setting: str = SETTING) -> SeedContent:
    """The pairs of several files and datasets; of one that several have, the first stays.

    Args:
        places: each as `read_seed` takes it.

    Raises:
        UserError: as `read_seed`.
    """
    whole = SeedContent(problem="")
    seen: set[str] = set()
    for content in (read_seed(place, language, setting) for place in places):
        pairs, repeated = _told_apart(content.pairs, seen)
        whole.formats += content.formats
        whole.pairs += pairs
        whole.dropped += content.dropped + repeated
        whole.num_without_root += content.num_without_root
        whole.problem = content.problem
    return whole


def _told_apart(
    pairs: Sequence[SeedPair], seen: set[str]
) -> tuple[list[SeedPair], list[DroppedSeed]]:
    """The first of all pairs with the same texts or id, and the others as dropped rows.

    Args:
        seen: ids, and hashes of texts, of earlier pairs; takes those of these pairs.
    """
    first, repeated = [], []
    for pair in pairs:
        own = {pair.pair_id, identifier_of(pair.instruction, pair.response)}
        if own & seen:
            text = filters.storable(pair.instruction, MAX_SHOWN)
            repeated.append(DroppedSeed(pair.pair_id, SeedOutcome.REPEATED, text))
        else:
            first.append(pair)
        seen |= own
    return first, repeated


def read_seed(path: str, language: str, setting: str = SETTING) -> SeedContent:
    """The pairs of a file or dataset: first turns, and of Open Assistant the reply of rank 0.

    Only Open Assistant's rows tell their language; `language` chooses among them.

    Args:
        path: local path, URL or address of a dataset.
        setting: the one that names it.

    Raises:
        UserError: it is not there, damaged, or of an unknown format, or a row has another format.
    """
    rows = read_seed_rows(path, FORMATS, setting)
    first = next(rows, None)
    if first is None:
        return SeedContent()
    found = format_of(first.values)
    if found is None:
        raise UserError(f"{first.place} has {_keys(first)}: it must hold {FORMATS} ({setting})")
    alike = _of_format(found, chain([first], rows), setting)
    if found in (SeedFormat.OASST_MESSAGES, SeedFormat.OASST_TREES):
        return _of_open_assistant(found, alike, language)
    return _of_turns(found, map(_TURNS[found], alike))


def format_of(row: dict[str, Any]) -> SeedFormat | None:
    """The format of a row by its keys; None for an unknown one."""
    if "message_id" in row and "role" in row:
        return SeedFormat.OASST_MESSAGES
    if isinstance(row.get("prompt"), dict) and row["prompt"].get("message_id") is not None:
        return SeedFormat.OASST_TREES
    if "messages" in row:
        return SeedFormat.CHAT
    if "conversations" in row:
        return SeedFormat.SHAREGPT
    if "instruction" in row and any(name in row for name in OUTPUTS):
        return SeedFormat.PAIRS
    return None


def _of_format(
    expected: SeedFormat, rows: Iterable[SeedRow], setting: str
) -> Iterator[dict[str, Any]]:
    """The values of rows that all have one format."""
    for row in rows:
        if format_of(row.values) is not expected:
            raise UserError(
                f"{row.place} has {_keys(row)}, and the first row is of the format {expected}: a "
                f"seed has {FORMATS} ({setting})"
            )
        if expected is SeedFormat.OASST_MESSAGES:
            oasst.check_message(row.values, row.place, setting, is_of_table=row.is_of_table)
        yield row.values


def _keys(row: SeedRow) -> str:
    return f"the keys {', '.join(map(repr, row.values))}" if row.values else "no keys"


# --- Open Assistant -------------------------------------------------------------------------------


def _of_open_assistant(
    found: SeedFormat, rows: Iterable[dict[str, Any]], language: str
) -> SeedContent:
    if found is SeedFormat.OASST_TREES:
        rows = (message for tree in rows for message in oasst.messages_of_tree(tree["prompt"]))
    seen = oasst.SeenMessages()
    pairs, dropped = oasst.pairs_of(map(oasst.message_of, rows), language, seen)
    pairs, repeated = _told_apart(pairs, set())
    problem = seen.problem(language)
    return SeedContent((found,), pairs, dropped + repeated, problem, seen.num_without_root)


# --- pairs and conversations ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _FirstTurn:
    """The first request of a conversation and its answer; None for one that is not there."""

    asked: object
    answered: object
    outcome: SeedOutcome | None = None  # against a conversation that begins or goes on otherwise


def _of_turns(found: SeedFormat, turns: Iterable[_FirstTurn]) -> SeedContent:
    content = SeedContent((found,), problem="")
    seen: set[str] = set()
    for turn in turns:
        asked, answered = text_of(turn.asked), text_of(turn.answered)
        identifier = identifier_of(asked, answered)
        outcome = turn.outcome or _outcome(asked, answered)
        if outcome is SeedOutcome.KEPT and identifier in seen:
            outcome = SeedOutcome.REPEATED
        seen.add(identifier)
        if outcome is SeedOutcome.KEPT:
            content.pairs.append(SeedPair(identifier, asked, answered))
        else:
            content.dropped.append(
                DroppedSeed(identifier, outcome, filters.storable(asked, MAX_SHOWN))
            )
    return content


def text_of(value: object) -> str:
    """A text without space around it; empty for what is no text."""
    return value.strip() if isinstance(value, str) else ""


def identifier_of(asked: str, answered: str) -> str:
    """The id of a pair that has none: a hash of its texts, whatever its place in the file."""
    texts = json.dumps([asked, answered])
    return hashlib.sha256(texts.encode()).hexdigest()[:32]


def _outcome(asked: str, answered: str) -> SeedOutcome:
    if not asked or not answered:
        return SeedOutcome.EMPTY_TEXT
    if any(map(filters.has_invalid_characters, (asked, answered))):
        return SeedOutcome.INVALID_CHARACTERS
    return SeedOutcome.KEPT


def _turn_of_pair(row: dict[str, Any]) -> _FirstTurn:
    parts = (row["instruction"], *(row.get(name) for name in INPUTS))
    asked = "\n\n".join(filter(None, map(text_of, parts)))
    answered = next(filter(None, (text_of(row.get(name)) for name in OUTPUTS)), "")
    return _FirstTurn(asked if text_of(row["instruction"]) else "", answered)


def _turn_of_chat(row: dict[str, Any]) -> _FirstTurn:
    return _first_turn(row["messages"])


def _turn_of_sharegpt(row: dict[str, Any]) -> _FirstTurn:
    said = row["conversations"]
    if isinstance(said, list) and said and all(isinstance(text, str) for text in said):
        return _FirstTurn(*(*said, None)[:2])  # LIMA's: a person's text, a model's, and so on
    return _first_turn(said)


def _first_turn(messages: object) -> _FirstTurn:
    """The first request and its answer; a system's message before it is left out."""
    entries = messages if isinstance(messages, list) else []
    said = [(_speaker(entry), _said(entry)) for entry in entries if isinstance(entry, dict)]
    said = [(speaker, text) for speaker, text in said if speaker not in SYSTEM][:2]
    if not said or said[0][0] not in PERSON:
        return _FirstTurn(None, None, SeedOutcome.NO_FIRST_TURN)
    if len(said) < 2 or said[1][0] not in MODEL:
        return _FirstTurn(said[0][1], None, SeedOutcome.NO_TOP_REPLY)
    return _FirstTurn(said[0][1], said[1][1])


def _speaker(entry: dict[str, Any]) -> str:
    return str(entry.get("role") or entry.get("from")).lower()


def _said(entry: dict[str, Any]) -> object:
    content = entry.get("content")
    return entry.get("value") if content is None else content


_TURNS: dict[SeedFormat, Callable[[dict[str, Any]], _FirstTurn]] = {
    SeedFormat.PAIRS: _turn_of_pair,
    SeedFormat.CHAT: _turn_of_chat,
    SeedFormat.SHAREGPT: _turn_of_sharegpt,
}
