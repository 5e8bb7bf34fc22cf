"""Open Assistant exports: message rows as (instruction, output) pairs.

The paper keeps first turns only, in English, with the reply that people ranked best (rank 0).
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow.parquet as pq

from humpback_ray.corpus.documents import is_about_content
from humpback_ray.corpus.json_values import json_values
from humpback_ray.corpus.opening import (
    DAMAGE,
    POINTER_REASON,
    is_pointer,
    open_content,
    open_file,
)
from humpback_ray.errors import UserError
from humpback_ray.method import filters
from humpback_ray.rows import DroppedSeed, SeedOutcome, SeedPair

# The export leaves null fields out: a first turn has no parent_id, a prompt has no rank.
REQUIRED = ("message_id", "role", "text", "lang")
NULLABLE = ("parent_id", "rank", "deleted")
FORMAT = (
    "one message a row with message_id, parent_id, role, text, lang, rank, as in the Open "
    "Assistant export"
)
PROMPTER, ASSISTANT = "prompter", "assistant"


SETTING = "settings.seed.path"


def read_messages(path: str, setting: str = SETTING) -> Iterator[dict[str, Any]]:
    """Message rows of a JSON file (lines or an array, compressed or not) or a Parquet file.

    Each row has the fields of REQUIRED and NULLABLE; ids are strings, and what is missing is None.

    Args:
        path: local path or URL.
        setting: the one that names the file.

    Raises:
        UserError: no such file, a damaged one, or a row or column that is not the format.
    """
    try:
        if is_pointer(path):
            raise UserError(f"seed file {path} cannot be read: {POINTER_REASON} ({setting})")
        is_parquet = path.lower().endswith(".parquet")
        for row in (_parquet_rows if is_parquet else _json_rows)(path, setting):
            yield _message(row)
    except FileNotFoundError as error:
        raise UserError(f"no seed file {path}: set {setting} to {FORMAT}") from error
    except DAMAGE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        is_gzip = path.lower().endswith(".gz") and "incorrect header check" in reason
        problem = "ends in .gz and is not gzip" if is_gzip else "is damaged or cut"
        if not is_about_content(error):
            problem = "cannot be read"
        raise UserError(
            f"seed file {path} {problem}: {reason}; get it again, or set {setting} to another"
        ) from error


def _parquet_rows(path: str, setting: str) -> Iterator[dict[str, Any]]:
    with open_file(path) as file:
        parquet = pq.ParquetFile(file)
        names = parquet.schema_arrow.names
        # A column of nulls alone may be left out, but not those that say what a pair is.
        for name in (*REQUIRED, "parent_id", "rank"):
            if name not in names:
                raise UserError(
                    f"seed file {path} has no column {name}: it must hold {FORMAT} ({setting})"
                )
        columns = [name for name in (*REQUIRED, *NULLABLE) if name in names]
        for batch in parquet.iter_batches(columns=columns):
            yield from batch.to_pylist()


def _json_rows(path: str, setting: str) -> Iterator[dict[str, Any]]:
    with open_content(path) as stream:
        for value in json_values(stream):
            place = f"seed file {path}, {value.place}"
            if value.problem:
                raise UserError(f"{place} {value.problem}: the file must hold {FORMAT} ({setting})")
            row = value.value if isinstance(value.value, dict) else {}
            for name in ("message_id", "role"):
                if row.get(name) is None:
                    raise UserError(
                        f"{place} has no field {name}: the file must hold {FORMAT} ({setting})"
                    )
            yield row


def _message(row: dict[str, Any]) -> dict[str, Any]:
    message = {name: _known(row.get(name)) for name in (*REQUIRED, *NULLABLE)}
    for name in ("message_id", "parent_id"):
        message[name] = _identifier(message[name])
    return message


def _known(value: Any) -> Any:
    """A value; None also for the NaN that pandas writes for a null."""
    return None if isinstance(value, float) and math.isnan(value) else value


def _identifier(value: Any) -> str | None:
    """An id as a string: numbers of a column with nulls are floats in Parquet and pandas."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return None if value in (None, "") else str(value)


@dataclass(slots=True)
class SeenMessages:
    """Counts of an export's messages, to say what is wrong where no pair comes out of it."""

    roles: Counter[str] = field(default_factory=Counter)
    languages: Counter[str] = field(default_factory=Counter)  # of first turns
    num_best: int = 0  # replies of rank 0
    num_texts: int = 0

    def problem(self, language: str) -> str:
        """The reason why the export gives no pair; empty where the counts do not tell."""
        if not self.roles:
            return "it holds no message"
        if not self.num_texts:
            return "no message has a field text"
        if not {PROMPTER, ASSISTANT} <= self.roles.keys():
            return (
                f"messages have the roles {_listed(self.roles)}, and the export's are {PROMPTER} "
                f"and {ASSISTANT}: rename them"
            )
        if not self.languages:
            return f"no {PROMPTER} message is a first turn: each has a parent_id"
        if language not in self.languages:
            return (
                f"no first turn has the language {language!r} (settings.seed.language): there are "
                f"{_listed(self.languages)}"
            )
        if not self.num_best:
            return f"no {ASSISTANT} message has rank 0, which marks the best reply"
        return ""


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{name} ({count})" for name, count in counts.most_common(8))


def pairs_of(
    messages: Iterable[dict[str, Any]], language: str, seen: SeenMessages | None = None
) -> tuple[list[SeedPair], list[DroppedSeed]]:
    """First-turn pairs of a language with the reply of rank 0; every other root with its reason.

    A root message is one without a parent; messages further down the trees are second turns and
    are not looked at. Of several replies of rank 0 the first that can be kept counts.
    """
    seen = seen or SeenMessages()
    roots: dict[str, dict[str, Any]] = {}  # by id: an export that holds a message twice is one
    best_replies: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for message in messages:
        seen.roles[str(message["role"])] += 1
        seen.num_texts += message["text"] is not None
        if message["parent_id"] is None and message["role"] == PROMPTER:
            roots[message["message_id"]] = message
            seen.languages[str(message["lang"])] += 1
        elif message["role"] == ASSISTANT and message["rank"] in (0, "0"):
            best_replies[message["parent_id"]].append(message)
            seen.num_best += 1
    pairs, dropped = [], []
    for identifier, root in roots.items():
        outcome, reply = _best(root, best_replies[identifier], language)
        if reply is not None:
            pairs.append(SeedPair(identifier, root["text"].strip(), reply["text"].strip()))
        else:
            text = filters.storable(str(root["text"] or ""), 1000)
            dropped.append(DroppedSeed(identifier, outcome, text))
    return pairs, dropped


def _best(
    root: dict[str, Any], replies: list[dict[str, Any]], language: str
) -> tuple[SeedOutcome, dict[str, Any] | None]:
    """The reply that makes a pair with a root, or the outcome without one."""
    outcomes = []
    candidates: list[dict[str, Any] | None] = [*replies]
    for reply in candidates or [None]:
        outcome = _outcome(root, reply, language)
        if outcome is SeedOutcome.KEPT:
            return outcome, reply
        outcomes.append(outcome)
    # The reason of a living reply tells more than that of a deleted one.
    return next((o for o in outcomes if o is not SeedOutcome.NO_TOP_REPLY), outcomes[0]), None


def _outcome(root: dict[str, Any], reply: dict[str, Any] | None, language: str) -> SeedOutcome:
    if root["lang"] != language:
        return SeedOutcome.OTHER_LANGUAGE
    if root.get("deleted"):
        return SeedOutcome.DELETED
    if reply is None or reply.get("deleted") or reply["lang"] != language:
        return SeedOutcome.NO_TOP_REPLY
    texts = [root["text"], reply["text"]]
    if not all(isinstance(text, str) and text.strip() for text in texts):
        return SeedOutcome.EMPTY_TEXT
    if any(filters.has_invalid_characters(text) for text in texts):
        return SeedOutcome.INVALID_CHARACTERS
    return SeedOutcome.KEPT
