"""The seed loader on the shipped file, on other containers of the format, and on what is not it."""

from __future__ import annotations

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from humpback_ray.corpus.oasst import pairs_of, read_messages
from humpback_ray.rows import SeedOutcome


def message(identifier, parent, role, text, lang="en", rank=None, **more):
    return {"message_id": identifier, "parent_id": parent, "role": role, "text": text,
            "lang": lang, "rank": rank, **more}  # fmt: skip


TREES = [
    message("q1", None, "prompter", "What is an apple?"),
    message("a1", "q1", "assistant", "A fruit.", rank=0),
    message("a1b", "q1", "assistant", "A company.", rank=1),
    message("q1b", "a1", "prompter", "And a pear?"),
    message("a1c", "q1b", "assistant", "A fruit as well.", rank=0),
    message("q2", None, "prompter", "Was ist ein Apfel?", lang="de"),
    message("a2", "q2", "assistant", "Eine Frucht.", lang="de", rank=0),
    message("q3", None, "prompter", "Nobody ranked this."),
    message("a3", "q3", "assistant", "Right.", rank=None),
    message("q4", None, "prompter", "  "),
    message("a4", "q4", "assistant", "Empty question.", rank=0),
    message("q5", None, "prompter", "A lone \ud800 surrogate"),
    message("a5", "q5", "assistant", "Here.", rank=0),
    message("q6", None, "prompter", "Deleted?", deleted=True),
    message("a6", "q6", "assistant", "Yes.", rank=0),
    message("q7", None, "prompter", "Ranked in Parquet"),
    message("a7", "q7", "assistant", "As a float.", rank=0.0),
]


def test_first_turns_with_the_best_reply_are_kept_and_the_rest_has_reasons():
    pairs, dropped = pairs_of(TREES, "en")
    assert [(p.pair_id, p.instruction, p.response) for p in pairs] == [
        ("q1", "What is an apple?", "A fruit."),
        ("q7", "Ranked in Parquet", "As a float."),
    ]
    assert {row.message_id: row.outcome for row in dropped} == {
        "q2": SeedOutcome.OTHER_LANGUAGE,
        "q3": SeedOutcome.NO_TOP_REPLY,
        "q4": SeedOutcome.EMPTY_TEXT,
        "q5": SeedOutcome.INVALID_CHARACTERS,
        "q6": SeedOutcome.DELETED,
    }


def test_the_shipped_seed_has_many_pairs_and_every_kind_of_distractor(seed_file):
    messages = list(read_messages(str(seed_file)))
    pairs, dropped = pairs_of(messages, "en")
    assert len(pairs) >= 150
    assert len({pair.instruction for pair in pairs}) == len(pairs)
    assert {row.outcome for row in dropped} == {SeedOutcome.OTHER_LANGUAGE}
    assert sum(m["rank"] == 1 for m in messages) >= 5
    assert sum(m["role"] == "prompter" and m["parent_id"] is not None for m in messages) >= 5
    assert all(pair.response and len(pair.instruction) < 1000 for pair in pairs)


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "parquet"])
def test_containers_of_the_export(tmp_path, kind):
    path = tmp_path / f"export.{kind}"
    rows = [row for row in TREES if "\ud800" not in row["text"]]
    lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
    if kind == "jsonl":
        path.write_bytes(lines)
    elif kind == "jsonl.gz":
        path.write_bytes(gzip.compress(lines))
    else:
        columns = ("message_id", "parent_id", "role", "text", "lang", "rank", "deleted")
        pq.write_table(pa.table({c: [row.get(c) for row in rows] for c in columns}), path)
    pairs, _ = pairs_of(read_messages(str(path)), "en")
    assert {pair.pair_id for pair in pairs} == {"q1", "q7"}


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("seed.jsonl", b"not json\n", "line 1 is not JSON"),
        ("seed.jsonl", b'{"instruction": "x", "output": "y"}\n', "line 1 has no field message_id"),
        ("seed.jsonl", b"[1, 2]\n", "line 1 has no field message_id"),
        ("seed.jsonl.gz", b"plain", "is not gzip"),
    ],
)
def test_what_is_not_the_format_is_one_line(tmp_path, name, content, problem):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=problem):
        list(read_messages(str(tmp_path / name)))


def test_a_parquet_file_with_other_columns_is_named(tmp_path):
    pq.write_table(pa.table({"instruction": ["x"]}), tmp_path / "seed.parquet")
    with pytest.raises(ValueError, match="no column message_id"):
        list(read_messages(str(tmp_path / "seed.parquet")))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"no seed file .*settings\.seed\.path"):
        list(read_messages(str(tmp_path / "nothing.jsonl")))
