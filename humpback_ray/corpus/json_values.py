"""Values of JSON files: lines, one array, or values over several lines."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

from humpback_ray.corpus.opening import DAMAGE, MAX_LINE, lines_of


@dataclass(frozen=True, slots=True)
class JsonValue:
    """One value of a file, or why there is none."""

    index: int  # of the line, or of the element in its array
    place: str  # for a person, such as "line 3"
    value: Any = None
    problem: str = ""


MAX_WHOLE = 2**29  # bytes of a value over several lines, which is in memory as a whole


def json_values(stream: Any) -> Iterator[JsonValue]:
    """Each value of a file: one per line, or the elements of the array that the file is.

    A line that is not JSON spoils no other line. A file whose first line begins a longer value is
    read as a whole, because no line of it means anything alone; of one above MAX_WHOLE bytes, only
    the values that end before.

    Raises:
        One of `opening.DAMAGE`: the stream is damaged; the values before it have been given.
    """
    lines = _utf8_lines(lines_of(stream))
    before: list[bytes] = []  # the first line that is not empty, and the one after it
    damage: Exception | None = None
    try:
        for line in lines:
            before.append(line)
            if line.strip():
                before += islice(lines, 1)
                break
    except DAMAGE as error:
        damage = error  # and `lines` has ended
    filled = [line for line in before if line.strip()]
    if filled and damage is None and _goes_on(*filled):
        yield from _values_of_text(before, lines)
        return
    for index, line in enumerate(chain(before, lines)):
        if line.strip():
            yield _value_of_line(index, line)
    if damage is not None:
        raise damage


def _utf8_lines(lines: Iterator[bytes]) -> Iterator[bytes]:
    """Lines without a byte order mark; a file in UTF-16 becomes one of UTF-8."""
    first = next(lines, b"")
    if first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        text = b"".join([first, *lines]).decode("utf-16", "replace")
        yield from text.encode("utf-8", "replace").splitlines(keepends=True)
        return
    if first := first.removeprefix(codecs.BOM_UTF8):
        yield first
    yield from lines


def _value_of_line(index: int, line: bytes) -> JsonValue:
    place = f"line {index + 1}"
    if len(line) > MAX_LINE:
        return JsonValue(index, place, problem=f"has more than {MAX_LINE:,} bytes")
    try:
        return JsonValue(index, place, json.loads(line.decode("utf-8", "replace")))
    except json.JSONDecodeError as error:
        return JsonValue(index, place, problem=f"is not JSON ({error.msg})")
    except (ValueError, RecursionError) as error:
        return JsonValue(index, place, problem=f"is not JSON ({error})")


def _goes_on(first: bytes, second: bytes = b"") -> bool:
    """True where a line begins an array of objects, or a value that ends on another line."""
    text = first.decode("utf-8", "replace").strip()
    if text.startswith("["):
        return text == "[" or text[1:].lstrip().startswith(("{", "]"))
    # Behind a damaged line the next one is a value; behind the beginning of a value it is not.
    return text.startswith("{") and not _is_json(first) and not _is_json(second)


def _is_json(line: bytes) -> bool:
    return not _value_of_line(0, line).problem


def _values_of_text(before: list[bytes], lines: Iterator[bytes]) -> Iterator[JsonValue]:
    damage: Exception | None = None
    pieces = list(before)
    num_bytes = sum(map(len, pieces))
    try:
        while num_bytes <= MAX_WHOLE and (line := next(lines, b"")):
            pieces.append(line)
            num_bytes += len(line)
    except DAMAGE as error:
        damage = error
    if num_bytes > MAX_WHOLE:
        damage = EOFError(f"one value has more than {MAX_WHOLE:,} bytes: write one row a line")
    yield from _scan(b"".join(pieces).decode("utf-8", "replace"), is_whole=damage is None)
    if damage is not None:
        raise damage


def _scan(text: str, *, is_whole: bool) -> Iterator[JsonValue]:
    decoder, index = json.JSONDecoder(), 0
    position = _skip(text, 0)
    in_array = text.startswith("[", position)
    if in_array:
        position = _skip(text, position + 1)
    while position < len(text) and not (in_array and text[position] == "]"):
        try:
            value, position = decoder.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            if is_whole:
                reason = getattr(error, "msg", None) or str(error)
                yield JsonValue(
                    index, f"element {index + 1}", problem=f"and the rest is not JSON ({reason})"
                )
            return
        yield JsonValue(index, f"element {index + 1}", value)
        index += 1
        position = _skip(text, position)
        if in_array and text.startswith(",", position):
            position = _skip(text, position + 1)
    if in_array and is_whole and _skip(text, position + 1) != len(text):
        problem = "is not there: the array has no end, or more follows behind it"
        yield JsonValue(index, f"element {index + 1}", problem=problem)


def _skip(text: str, position: int) -> int:
    while position < len(text) and text[position] in " \t\r\n":
        position += 1
    return position
