"""Open Assistant exports: message rows as (instruction, output) pairs.

The paper keeps first turns only, in English, with the reply that people ranked best (rank 0).
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator
from typing import Any

import fsspec
import pyarrow.parquet as pq

from humpback_ray.errors import UserError
from humpback_ray.method import filters
from humpback_ray.rows import DroppedSeed, SeedOutcome, SeedPair

REQUIRED = ("message_id", "parent_id", "role", "text", "lang", "rank")
FORMAT = "one message a row with " + ", ".join(REQUIRED) + ", as in the Open Assistant export"


def read_messages(path: str) -> Iterator[dict[str, Any]]:
    """Message rows of a JSONL, JSONL.gz or Parquet file on any fsspec path.

    Raises:
        UserError: no such file, or a line or column that is not the format.
    """
    try:
        with fsspec.open(path, "rb", compression="infer") as file:
            if path.endswith(".parquet"):
                yield from _parquet_messages(file, path)
            else:
                yield from _json_messages(file, path)
    except FileNotFoundError as error:
        raise UserError(f"no seed file {path}: set settings.seed.path to {FORMAT}") from error
    except gzip.BadGzipFile as error:
        raise UserError(f"seed file {path} ends in .gz and is not gzip: {error}") from error


def _parquet_messages(file: Any, path: str) -> Iterator[dict[str, Any]]:
    parquet = pq.ParquetFile(file)
    if missing := [name for name in REQUIRED if name not in parquet.schema_arrow.names]:
        raise UserError(f"seed file {path} has no column {missing[0]}: it must hold {FORMAT}")
    columns = [*REQUIRED, *({"deleted"} & set(parquet.schema_arrow.names))]
    for batch in parquet.iter_batches(columns=columns):
        yield from batch.to_pylist()


def _json_messages(lines: Iterable[bytes], path: str) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode("utf-8", errors="replace"))
        except json.JSONDecodeError as error:
            raise UserError(
                f"seed file {path}, line {number} is not JSON ({error.msg}): "
                f"the file must hold {FORMAT}"
            ) from error
        missing = [n for n in REQUIRED if n not in row] if isinstance(row, dict) else ["message_id"]
        if missing:
            raise UserError(
                f"seed file {path}, line {number} has no field {missing[0]}: "
                f"the file must hold {FORMAT}"
            )
        yield row


def pairs_of(
    messages: Iterable[dict[str, Any]], language: str
) -> tuple[list[SeedPair], list[DroppedSeed]]:
    """First-turn pairs of a language with the reply of rank 0; every other root with its reason.

    A root message is one without a parent; messages further down the trees are second turns and
    are not looked at.
    """
    roots: dict[str, dict[str, Any]] = {}  # by id: an export that holds a message twice is one
    best_replies: dict[str, dict[str, Any]] = {}
    for message in messages:
        if message["parent_id"] is None and message["role"] == "prompter":
            roots[message["message_id"]] = message
        elif message["role"] == "assistant" and message["rank"] == 0:
            best_replies[message["parent_id"]] = message
    pairs, dropped = [], []
    for root in roots.values():
        reply = best_replies.get(root["message_id"])
        outcome = _outcome(root, reply, language)
        if outcome is SeedOutcome.KEPT:
            assert reply is not None
            pairs.append(SeedPair(root["message_id"], root["text"].strip(), reply["text"].strip()))
        else:
            text = filters.storable(str(root["text"] or ""), 1000)
            dropped.append(DroppedSeed(str(root["message_id"]), outcome, text))
    return pairs, dropped


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
