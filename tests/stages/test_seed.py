"""The seed loader on the shipped file, on other containers of the format, and on what is not it."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from humpback_ray import tables
from humpback_ray.config.placement import Placement
from humpback_ray.config.recipe import load_recipe
from humpback_ray.config.settings import SeedSettings
from humpback_ray.corpus.oasst import SeenMessages, pairs_of
from humpback_ray.corpus.seed_formats import read_seed
from humpback_ray.execution.metrics import Metrics
from humpback_ray.execution.progress import StageProgress
from humpback_ray.execution.sources import file_source
from humpback_ray.execution.stage import Context
from humpback_ray.rows import SeedOutcome, SeedPair
from humpback_ray.stages.seed import Seed


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
    messages = [json.loads(line) for line in seed_file.read_text("utf-8").splitlines()]
    content = read_seed(str(seed_file), "en")
    pairs, dropped = content.pairs, content.dropped
    assert len(pairs) >= 150
    assert len({pair.instruction for pair in pairs}) == len(pairs)
    assert {row.outcome for row in dropped} == {SeedOutcome.OTHER_LANGUAGE}
    assert sum(m.get("rank") == 1 for m in messages) >= 5
    assert sum(m["role"] == "prompter" and m.get("parent_id") is not None for m in messages) >= 5
    assert all(pair.response and len(pair.instruction) < 1000 for pair in pairs)


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "parquet"])
def test_export_in_every_container_gives_the_same_pairs(tmp_path, kind):
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
    pairs = read_seed(str(path), "en").pairs
    assert {pair.pair_id for pair in pairs} == {"q1", "q7"}


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("seed.jsonl", b"not json\n", "line 1 is not JSON"),
        ("seed.jsonl", b'{"title": "x", "body": "y"}\n', "line 1 has the keys 'title', 'body'"),
        ("seed.jsonl", b"[1, 2]\n", "line 1 has no keys"),
        ("seed.jsonl", b'{"message_id": null, "role": "x"}\n', "line 1 has no field message_id"),
        ("seed.jsonl.gz", b"plain", "is not gzip"),
    ],
)
def test_seed_in_another_format_is_refused_with_the_line(tmp_path, name, content, problem):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=problem):
        read_seed(str(tmp_path / name), "en")


def test_parquet_seed_without_a_column_of_messages_is_refused_with_its_name(tmp_path):
    pq.write_table(pa.table({"message_id": ["x"], "role": ["y"]}), tmp_path / "seed.parquet")
    with pytest.raises(ValueError, match="row 1 has no column text"):
        read_seed(str(tmp_path / "seed.parquet"), "en")


def test_missing_seed_is_refused_with_its_setting(tmp_path):
    with pytest.raises(ValueError, match=r"no seed file .*settings\.seed\.path"):
        read_seed(str(tmp_path / "nothing.jsonl"), "en")


# --- exports as people have them ----------------------------------------------------------------

PAIR = [
    message("q1", None, "prompter", "What is an apple?"),
    message("a1", "q1", "assistant", "A fruit.", rank=0),
]


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def pairs_in(path, content=None, language="en"):
    if content is not None:
        path.write_bytes(content)
    pairs = read_seed(str(path), language).pairs
    return [(pair.pair_id, pair.instruction, pair.response) for pair in pairs]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("nulls.jsonl", lines([{k: v for k, v in m.items() if v is not None} for m in PAIR])),
        ("bom.jsonl", b"\xef\xbb\xbf" + lines(PAIR)),
        ("crlf.jsonl", lines(PAIR).replace(b"\n", b"\r\n")),
        ("utf16.jsonl", lines(PAIR).decode().encode("utf-16")),
        ("array.json", json.dumps(PAIR, indent=1).encode()),
        ("UPPER.JSONL.GZ", gzip.compress(lines(PAIR))),
        ("a.jsonl.xz", lzma.compress(lines(PAIR))),
        ("a.jsonl.bz2", bz2.compress(lines(PAIR))),
        ("a.jsonl.zst", pa.compress(lines(PAIR), codec="zstd", asbytes=True)),
        ("a::b [c]?.jsonl", lines(PAIR)),
    ],
)
def test_export_in_another_encoding_or_compression_is_read(tmp_path, name, content):
    expected = [("q1", "What is an apple?", "A fruit.")]
    assert pairs_in(tmp_path / name, content) == expected
    assert file_source(str(tmp_path / name), "seed file", "settings.seed.path").identity


@pytest.mark.parametrize(
    ("root", "parent", "none"), [(1, 1, None), (1, 1.0, float("nan")), (1, "1", ""), ("1", 1, None)]
)
def test_numeric_ids_of_different_types_match(tmp_path, root, parent, none):
    rows = [
        message(root, none, "prompter", "Q"),
        message(2, parent, "assistant", "A", rank=0.0),
    ]
    assert pairs_in(tmp_path / "a.jsonl", lines(rows)) == [("1", "Q", "A")]


def test_numeric_ids_of_parquet_with_nulls_are_read(tmp_path):
    columns = {"message_id": [1, 2], "parent_id": [None, 1.0], "role": ["prompter", "assistant"],
               "text": ["Q", "A"], "lang": ["en", "en"], "rank": [None, 0.0]}  # fmt: skip
    pq.write_table(pa.table(columns), tmp_path / "a.PARQUET")
    assert pairs_in(tmp_path / "a.PARQUET") == [("1", "Q", "A")]


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("other", [{"deleted": True}, {"lang": "de"}, {"text": " "}])
def test_unusable_reply_of_rank_0_does_not_displace_a_usable_one(order, other):
    replies = [
        message("a1", "q1", "assistant", "A fruit.", rank=0),
        {**message("a2", "q1", "assistant", "Other.", rank=0), **other},
    ]
    rows = [PAIR[0], *replies[::order]]
    pairs, dropped = pairs_of([{"deleted": None, **row} for row in rows], "en")
    assert ([pair.response for pair in pairs], dropped) == (["A fruit."], [])


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 83000\n"
MANY = gzip.compress(lines([message(f"m{n}", None, "x", os.urandom(99).hex()) for n in range(99)]))


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.parquet", POINTER, "Git LFS pointer"),
        ("a.jsonl.gz", POINTER, "Git LFS pointer"),
        ("a.jsonl", POINTER, "Git LFS pointer"),
        ("a.parquet", b"junk" * 100, "damaged or cut"),
        ("a.jsonl.gz", MANY[: len(MANY) // 2], "damaged or cut"),
        ("a.jsonl.gz", MANY[:-8] + b"\xff" * 8, "damaged or cut"),
        ("a.jsonl.xz", lzma.compress(lines(PAIR))[:-9], "damaged or cut"),
        ("a.json", json.dumps(PAIR).encode()[:-9], "is not JSON"),
        ("a.html", b"<!DOCTYPE html>", "is not JSON"),
    ],
)
def test_damaged_seed_is_refused_in_one_line_with_file_and_setting(
    tmp_path, name, content, problem
):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=problem) as error:
        read_seed(str(tmp_path / name), "en")
    assert "\n" not in str(error.value)
    assert str(tmp_path / name) in str(error.value)
    assert "settings.seed.path" in str(error.value)


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([], "holds no message"),
        ([{**PAIR[0], "role": "user"}, PAIR[1]], r"roles user \(1\), assistant \(1\)"),
        ([{**PAIR[0], "parent_id": "x"}, PAIR[1]],
         "no prompter message is a first turn.*, and 2 messages belong to no first turn: their "),
        ([PAIR[0]], r"^no message answers \(role assistant\): take the whole export$"),
        ([PAIR[1]], r"^no message asks \(role prompter\), and 1 messages belong to no first "),
        ([{**PAIR[0], "lang": "de"}, PAIR[1]], r"language 'en' .*de \(1\)"),
        ([PAIR[0], {**PAIR[1], "rank": None}], "rank 0"),
        ([{**row, "text": None} for row in PAIR], "field text"),
    ],
)  # fmt: skip
def test_export_without_a_pair_says_what_is_wrong(rows, problem):
    seen = SeenMessages()
    pairs, _ = pairs_of(rows, "en", seen)
    assert not pairs
    assert re.search(problem, seen.problem("en"))


def test_language_that_yaml_reads_as_false_is_refused_with_the_quoted_form():
    with pytest.raises(ValueError, match=r'put it in quotes, as in language: "no"'):
        load_recipe("tiny", ["settings.seed.language=no"])
    recipe = load_recipe("tiny", ['settings.seed.language="no"'])
    assert recipe.settings.seed.language == "no"
    assert recipe.settings.seed.max_pairs == 3200


def test_dangling_link_to_a_seed_is_named_with_its_target(tmp_path):
    os.symlink("gone.jsonl", tmp_path / "seed.jsonl")
    source = file_source(str(tmp_path / "seed.jsonl"), "seed file", "settings.seed.path")
    assert "is a link to gone.jsonl, which is no file: set settings.seed.path" in source.problem


# --- the stage ----------------------------------------------------------------------------------


def test_held_out_pairs_share_no_text_with_trained_ones(tmp_path):
    rows = []
    for number in range(40):
        rows += [
            message(
                f"q{number}", None, "prompter", f"Question {number % 20}?" + " " * (number > 20)
            ),
            message(f"a{number}", f"q{number}", "assistant", f"Answer {number}.", rank=0),
        ]
    (tmp_path / "seed.jsonl").write_bytes(lines(rows))
    settings = SeedSettings(path="seed.jsonl", num_held_out=5, max_pairs=20)
    source = file_source(str(tmp_path / "seed.jsonl"), "seed file", "settings.seed.path")
    stage = Seed(path="seed", file=source, settings=settings, random_seed=0)
    progress = StageProgress(Console(quiet=True), "seed")
    context = Context(str(tmp_path), "seed", Placement(), progress, Metrics(str(tmp_path / "m")))
    result = stage.run(context)
    held_out, trained = (
        tables.read_rows(str(tmp_path / "seed" / name), SeedPair) for name in ("held_out", "rows")
    )
    assert not {p.instruction.strip() for p in held_out} & {p.instruction.strip() for p in trained}
    assert (len(held_out), len(trained)) == (5, 20)
    num_shared = result.outcomes[SeedOutcome.HELD_OUT_TEXT]
    assert 1 <= num_shared <= 5
    assert result.outcomes[SeedOutcome.SURPLUS] == 40 - 25 - num_shared
    assert result.num_rows == 40
