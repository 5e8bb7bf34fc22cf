"""Seeds in every format that is read: the same pairs, a reason for each other row, one line."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma

import datasets
import pyarrow as pa
import pytest

from humpback_ray.config.placement import Placement
from humpback_ray.config.settings import SeedSettings
from humpback_ray.corpus.seed_formats import read_seed, read_seeds
from humpback_ray.corpus.seed_rows import check_seed
from humpback_ray.errors import UserError
from humpback_ray.execution.sources import file_source
from humpback_ray.rows import SeedOutcome
from humpback_ray.stages.seed import Seed
from tests.support.generation import context
from tests.support.hub_datasets import FORMS, write_dataset

ASKED, ANSWERED = ("What is an apple?", "What is a pear?"), ("A fruit.", "Another fruit.")


def message(identifier, parent, role, text, rank=None):
    return {"message_id": identifier, "parent_id": parent, "role": role, "text": text,
            "lang": "en", "rank": rank}  # fmt: skip


def rows_of(form: str) -> list[dict]:
    """The two pairs as rows of a format."""
    both = list(zip(ASKED, ANSWERED, strict=True))
    if form == "oasst_messages":
        return [
            row
            for n, (asked, answered) in enumerate(both)
            for row in (
                message(f"q{n}", None, "prompter", asked),
                message(f"a{n}", f"q{n}", "assistant", answered, 0),
            )
        ]
    if form == "oasst_trees":
        deeper = [{**message("q9", None, "prompter", "And?"), "replies": []}]
        return [
            {
                "message_tree_id": f"q{n}",
                "tree_state": "ready_for_export",
                "prompt": {
                    **message(f"q{n}", None, "prompter", asked),
                    "replies": [
                        {**message("b", None, "assistant", "Worse.", 1), "replies": deeper},
                        {**message(f"a{n}", None, "assistant", answered, 0), "replies": deeper},
                    ],
                },
            }
            for n, (asked, answered) in enumerate(both)
        ]
    if form == "messages":
        roles = ("system", "user", "assistant", "user", "assistant")
        return [
            {
                "messages": [
                    {"role": role, "content": text}
                    for role, text in zip(roles, ("Be brief.", q, a, "And?", "No."), strict=True)
                ]
            }
            for q, a in both
        ]
    if form == "sharegpt":
        return [
            {"conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}]}
            for q, a in both
        ]
    if form == "lima":
        return [{"conversations": [q, a, "And?", "No."], "source": "x"} for q, a in both]
    if form == "response":
        return [{"instruction": q, "response": a} for q, a in both]
    return [{"instruction": q, "input": "", "output": a} for q, a in both]


RECOGNISED = {
    "oasst_messages": "oasst_messages", "oasst_trees": "oasst_trees", "messages": "messages",
    "sharegpt": "sharegpt", "lima": "sharegpt", "response": "pairs", "alpaca": "pairs",
}  # fmt: skip


def write(path, rows: list) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def texts(content) -> list[tuple[str, str]]:
    return [(pair.instruction, pair.response) for pair in content.pairs]


BOTH = list(zip(ASKED, ANSWERED, strict=True))


@pytest.mark.parametrize("form", RECOGNISED)
def test_every_format_gives_the_first_turns_and_is_named(tmp_path, form):
    content = read_seed(write(tmp_path / "seed.jsonl", rows_of(form)), "en")
    assert texts(content) == BOTH
    assert content.figures == {"format": RECOGNISED[form]}
    assert not content.dropped
    assert len({pair.pair_id for pair in content.pairs}) == 2


@pytest.mark.parametrize("form", RECOGNISED)
@pytest.mark.parametrize("folder", FORMS)
def test_every_format_is_read_from_a_dataset(tmp_path, form, folder):
    location = write_dataset(tmp_path / "set", folder, rows_of(form), num_files=1)
    assert texts(read_seed(location, "en")) == BOTH
    assert file_source(location, "seed file", "settings.seed.path").identity


@pytest.mark.parametrize(
    ("ending", "compress"),
    [
        ("json", lambda data: json.dumps([json.loads(s) for s in data.splitlines()]).encode()),
        ("jsonl.gz", gzip.compress),
        ("jsonl.xz", lzma.compress),
        ("jsonl.bz2", bz2.compress),
        ("jsonl.zst", lambda data: pa.compress(data, codec="zstd", asbytes=True)),
    ],
)
def test_every_container_gives_the_same_pairs_with_the_same_ids(tmp_path, ending, compress):
    plain = read_seed(write(tmp_path / "seed.jsonl", rows_of("messages")), "en")
    data = (tmp_path / "seed.jsonl").read_bytes()
    (tmp_path / f"a.{ending}").write_bytes(compress(data))
    assert read_seed(str(tmp_path / f"a.{ending}"), "en").pairs == plain.pairs


def test_several_places_of_any_formats_are_one_seed_and_repeated_pairs_go(tmp_path):
    more = [{"instruction": "Third?", "output": "Yes."}]
    places = [
        write(tmp_path / "trees.jsonl", rows_of("oasst_trees")),
        write(tmp_path / "pairs.jsonl", [*rows_of("alpaca"), *more]),
        write(tmp_path / "messages.jsonl", rows_of("oasst_messages")),
    ]
    content = read_seeds(places, "en")
    assert texts(content) == [*BOTH, ("Third?", "Yes.")]
    assert content.figures == {"format": "oasst_trees, pairs, oasst_messages"}
    assert [row.outcome for row in content.dropped] == [SeedOutcome.REPEATED] * 4
    assert read_seeds(places[:1], "en") == read_seed(places[0], "en")


def test_pair_that_an_export_has_under_two_ids_is_trained_on_once(tmp_path):
    rows = rows_of("oasst_messages")
    again = [{**row, "message_id": f"{row['message_id']}x"} for row in rows[:2]]
    again[1]["parent_id"] += "x"
    content = read_seed(write(tmp_path / "a.jsonl", [*rows, *again]), "en")
    assert texts(content) == BOTH
    [repeated] = content.dropped
    assert (repeated.message_id, repeated.outcome) == ("q0x", SeedOutcome.REPEATED)


def test_damaged_place_of_several_is_refused_with_its_name(tmp_path):
    good = write(tmp_path / "good.jsonl", rows_of("alpaca"))
    other = write(tmp_path / "other.jsonl", [{"prompt": "Why?"}])
    with pytest.raises(UserError, match=r"other\.jsonl"):
        read_seeds([good, other], "en")


def test_identity_of_several_files_is_that_of_their_contents_in_order(tmp_path):
    one = write(tmp_path / "one.jsonl", rows_of("alpaca"))
    two = write(tmp_path / "two.jsonl", rows_of("lima"))
    (tmp_path / "moved").mkdir()
    moved = write(tmp_path / "moved" / "x.jsonl", rows_of("lima"))

    def identity(*paths: str) -> str | None:
        return file_source(paths, "seed file", "settings.seed.path").identity

    assert identity(one, two) == identity(one, moved) != identity(two, one)
    missing = file_source((one, str(tmp_path / "no.jsonl")), "seed file", "settings.seed.path")
    assert missing.identity is None
    assert "no.jsonl" in missing.problem


def test_input_and_context_belong_to_the_instruction(tmp_path):
    rows = [
        {"instruction": "Sum it up.", "input": " A text. ", "output": "Short."},
        {"instruction": "Sum it up.", "context": "Another.", "output": "Shorter."},
    ]
    assert texts(read_seed(write(tmp_path / "seed.jsonl", rows), "en")) == [
        ("Sum it up.\n\nA text.", "Short."), ("Sum it up.\n\nAnother.", "Shorter."),
    ]  # fmt: skip


def test_nulls_written_and_left_out_give_the_same_pairs_and_outcomes(tmp_path):
    rows = [
        {"instruction": "Q", "input": None, "output": "A", "response": None},
        {"instruction": "Q2", "input": None, "output": None, "response": "A2"},
        {"instruction": None, "input": "More.", "output": "A3", "response": None},
    ]
    without = [{k: v for k, v in row.items() if v is not None} for row in rows]
    without[2]["instruction"] = None  # its key is what makes the row a pair
    written = read_seed(write(tmp_path / "a.jsonl", rows), "en")
    left_out = read_seed(write(tmp_path / "b.jsonl", without), "en")
    assert texts(written) == texts(left_out) == [("Q", "A"), ("Q2", "A2")]
    assert [row.outcome for row in written.dropped] == [SeedOutcome.EMPTY_TEXT]
    assert written.dropped == left_out.dropped


@pytest.mark.parametrize("name", ["messages", "conversations"])
@pytest.mark.parametrize(
    ("speaker", "text", "roles"),
    [("role", "content", ("user", "assistant")), ("from", "value", ("Human", "GPT"))],
)
def test_messages_and_conversations_have_the_keys_of_each_other(
    tmp_path, name, speaker, text, roles
):
    said = [{speaker: role, text: words}
            for role, words in zip(roles, BOTH[0], strict=True)]  # fmt: skip
    assert texts(read_seed(write(tmp_path / "seed.jsonl", [{name: said}]), "en")) == BOTH[:1]


@pytest.mark.parametrize("role", ["system", "developer"])
def test_message_of_a_system_is_left_out(tmp_path, role):
    said = [{"role": role, "content": "Be brief."}, {"role": "user", "content": ASKED[0]},
            {"role": "assistant", "content": ANSWERED[0]}]  # fmt: skip
    content = read_seed(write(tmp_path / "seed.jsonl", [{"messages": said}]), "en")
    assert texts(content) == BOTH[:1]


@pytest.mark.parametrize(
    ("row", "outcome"),
    [
        ({"messages": []}, SeedOutcome.NO_FIRST_TURN),
        ({"messages": None}, SeedOutcome.NO_FIRST_TURN),
        ({"messages": "text"}, SeedOutcome.NO_FIRST_TURN),
        ({"messages": [{"role": "assistant", "content": "A"}]}, SeedOutcome.NO_FIRST_TURN),
        ({"messages": [{"role": "user", "content": "Q"}]}, SeedOutcome.NO_TOP_REPLY),
        ({"messages": [{"role": "user", "content": "Q"}] * 2}, SeedOutcome.NO_TOP_REPLY),
        ({"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": None}]},
         SeedOutcome.EMPTY_TEXT),
        ({"messages": [{"role": "user", "content": "Q \ud800"},
                       {"role": "assistant", "content": "A"}]}, SeedOutcome.INVALID_CHARACTERS),
        ({"messages": [{"role": "user", "content": ASKED[0]},
                       {"role": "assistant", "content": ANSWERED[0]}]}, SeedOutcome.REPEATED),
    ],
)  # fmt: skip
def test_conversation_without_a_pair_has_a_reason(tmp_path, row, outcome):
    content = read_seed(write(tmp_path / "seed.jsonl", [*rows_of("messages"), row]), "en")
    assert texts(content) == BOTH
    assert [dropped.outcome for dropped in content.dropped] == [outcome]


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([{"title": "x", "body": "y"}], r"line 1 has the keys 'title', 'body': it must hold"),
        ([{"instruction": "x", "input": "y"}], "line 1 has the keys 'instruction', 'input'"),
        ([{"prompt": "x", "completion": "y"}], "line 1 has the keys 'prompt', 'completion'"),
        ([7], "line 1 has no keys"),
        ([*rows_of("alpaca"), {"messages": []}],
         "line 3 has the keys 'messages', and the first row is of the format pairs"),
        ([*rows_of("messages"), {"instruction": "x", "output": "y"}], "of the format messages"),
    ],
)  # fmt: skip
def test_file_of_unknown_or_mixed_format_is_refused_with_keys_and_formats(tmp_path, rows, reason):
    with pytest.raises(UserError, match=reason) as error:
        read_seed(write(tmp_path / "seed.jsonl", rows), "en")
    line = str(error.value)
    assert "\n" not in line
    assert "settings.seed.path" in line
    assert all(word in line for word in ("message_id", "replies", "response", "content", "value"))


def test_empty_file_says_so(tmp_path):
    assert read_seed(write(tmp_path / "seed.jsonl", []), "en").problem == "it holds no row"


def test_messages_without_a_root_are_counted_and_the_others_give_pairs(tmp_path):
    lost = [
        message("o1", "gone", "assistant", "Its parent is not in the file.", 0),
        message("o2", "o1", "prompter", "Below it."),
        message("c1", "c2", "assistant", "A circle.", 0),
        message("c2", "c1", "prompter", "A circle."),
        message("c3", "c3", "prompter", "Its own parent."),
    ]
    content = read_seed(write(tmp_path / "a.jsonl", [*lost, *rows_of("oasst_messages")]), "en")
    assert texts(content) == BOTH
    assert content.figures == {"format": "oasst_messages", "num_without_root": 5}


def test_dataset_of_a_seed_that_cannot_be_used_is_refused_before_it_is_read(tmp_path):
    location = write_dataset(tmp_path / "set", "json", rows_of("alpaca"))
    check_seed(location, "settings.seed.path")
    with pytest.raises(UserError, match="names a column, and a pair is read from several"):
        check_seed(f"{location}&column=output", "settings.seed.path")
    with pytest.raises(UserError, match=r"Bad split: x\. Available splits: \['train'\]"):
        check_seed(location.replace("train", "x"), "settings.seed.path")
    with pytest.raises(UserError, match=r"Couldn't reach 'no/such'.*settings\.seed\.path"):
        check_seed("dataset://no/such", "settings.seed.path")


def test_dataset_of_messages_without_a_column_is_refused_with_its_name(tmp_path):
    rows = [{k: v for k, v in row.items() if k != "rank"} for row in rows_of("oasst_messages")]
    datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / "set"))
    with pytest.raises(UserError, match=r"row 1 has no column rank: .*settings\.seed\.path"):
        read_seed(f"dataset://{tmp_path}/set", "en")


def test_stage_trains_on_pairs_of_a_dataset_and_records_the_format(tmp_path):
    location = write_dataset(tmp_path / "set", "parquet", rows_of("alpaca"))
    source = file_source(location, "seed file", "settings.seed.path")
    stage = Seed(path="seed", file=source, settings=SeedSettings(path=location), random_seed=0)
    stage.check(Placement())
    result = stage.run(context(tmp_path / "run" / "seed"))
    assert result.outcomes == {"kept": 2, "held_out": 0}
    assert result.figures == {"format": "pairs", "dataset": location}
