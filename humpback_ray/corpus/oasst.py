"""Open Assistant exports: message rows as (instruction, output) pairs.

The paper keeps first turns only, in English, with the reply that people ranked best (rank 0).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from humpback_ray.corpus.seed_rows import MAX_SHOWN
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
WITHOUT_ROOT = (
    "messages belong to no first turn: their parents are not in the export, or lead in a circle"
)


def check_message(row: dict[str, Any], place: str, setting: str, *, is_of_table: bool) -> None:
    """Refuse a row that is no message.

    Args:
        place: of the row, for a person.
        setting: the one that names the file.
        is_of_table: the row has every column of its table.

    Raises:
        UserError: a column is not there, or a field that no message may leave out.
    """
    # A column of nulls alone may be left out, but not those that say what a pair is.
    for name in (*REQUIRED, "parent_id", "rank") if is_of_table else ():
        if name not in row:
            raise UserError(f"{place} has no column {name}: it must hold {FORMAT} ({setting})")
    for name in ("message_id", "role"):
        if row.get(name) is None:
            raise UserError(f"{place} has no field {name}: it must hold {FORMAT} ({setting})")


def message_of(row: dict[str, Any]) -> dict[str, Any]:
    """A message with the fields of REQUIRED and NULLABLE; ids are strings, what is missing None."""
    message = {name: row.get(name) for name in (*REQUIRED, *NULLABLE)}
    for name in ("message_id", "parent_id"):
        message[name] = _identifier(message[name])
    return message


def messages_of_tree(prompt: dict[str, Any]) -> list[dict[str, Any]]:
    """The first turn of a tree and the replies to it, as message rows."""
    replies = [reply for reply in prompt.get("replies") or [] if isinstance(reply, dict)]
    parent = {"parent_id": prompt["message_id"]}
    return [{**prompt, "parent_id": None}, *({**reply, **parent} for reply in replies)]


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
    num_without_root: int = 0  # messages whose parents lead to no first turn, but out or in a cycle

    def problem(self, language: str) -> str:
        """The reason why the export gives no pair; empty where the counts do not tell."""
        if not self.roles:
            return "it holds no message"
        if not self.num_texts:
            return "no message has a field text"
        missing = [role for role in (PROMPTER, ASSISTANT) if role not in self.roles]
        if missing and self.roles.keys() - {PROMPTER, ASSISTANT}:
            return (
                f"messages have the roles {_listed(self.roles)}, and the export's are {PROMPTER} "
                f"and {ASSISTANT}: rename them"
            )
        if missing:
            what = "asks" if missing == [PROMPTER] else "answers"
            return f"no message {what} (role {missing[0]}){self._and_lost}: take the whole export"
        if not self.languages:
            return f"no {PROMPTER} message is a first turn: each has a parent_id{self._and_lost}"
        if language not in self.languages:
            return (
                f"no first turn has the language {language!r} (settings.seed.language): there are "
                f"{_listed(self.languages)}"
            )
        if not self.num_best:
            return f"no {ASSISTANT} message has rank 0, which marks the best reply"
        return ""

    @property
    def _and_lost(self) -> str:
        return f", and {self.num_without_root} {WITHOUT_ROOT}" if self.num_without_root else ""


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{name} ({count})" for name, count in counts.most_common(8))


def pairs_of(
    messages: Iterable[dict[str, Any]], language: str, seen: SeenMessages | None = None
) -> tuple[list[SeedPair], list[DroppedSeed]]:
    """First-turn pairs of a language with the reply of rank 0; every other root with its reason.

    A root message is one without a parent; messages further down the trees are second turns and
    are not looked at. Of several replies of rank 0 the first that can be kept counts.

    Args:
        seen: takes the counts; among them messages whose parents are not in the export or lead in a
            circle, which belong to no root and so to no pair.
    """
    seen = seen or SeenMessages()
    parents: dict[str, str | None] = {}
    roots: dict[str, dict[str, Any]] = {}  # by id: an export that holds a message twice is one
    best_replies: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for message in messages:
        seen.roles[str(message["role"])] += 1
        seen.num_texts += message["text"] is not None
        parents[message["message_id"]] = message["parent_id"]
        if message["parent_id"] is None and message["role"] == PROMPTER:
            roots[message["message_id"]] = message
            seen.languages[str(message["lang"])] += 1
        elif message["role"] == ASSISTANT and message["rank"] in (0, "0"):
            best_replies[message["parent_id"]].append(message)
            seen.num_best += 1
    seen.num_without_root = _num_without_root(parents)
    pairs, dropped = [], []
    for identifier, root in roots.items():
        outcome, reply = _best(root, best_replies[identifier], language)
        if reply is not None:
            pairs.append(SeedPair(identifier, root["text"].strip(), reply["text"].strip()))
        else:
            text = filters.storable(str(root["text"] or ""), MAX_SHOWN)
            dropped.append(DroppedSeed(identifier, outcome, text))
    return pairs, dropped


def _num_without_root(parents: dict[str, str | None]) -> int:
    """Number of messages from which no chain of parents leads to one that has none."""
    has_root: dict[str, bool] = {}
    for start in parents:
        chain: dict[str, None] = {}  # as a set that keeps the order
        node: str | None = start
        while node in parents and node not in has_root and node not in chain:
            chain[node] = None
            node = parents[node]
        reached = node is None or has_root.get(node, False)
        has_root |= dict.fromkeys(chain, reached)
    return sum(not reached for reached in has_root.values())


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
