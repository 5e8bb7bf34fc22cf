"""Prompt files in their published formats: read, counted, and named where one is missing."""

from __future__ import annotations

import json
import re

import pytest

from humpback_ray.errors import UserError
from humpback_ray.evaluation import prompt_sets
from humpback_ray.evaluation.prompt_sets import SOURCES
from humpback_ray.stages.evaluate import read_prompts
from tests.support.hub_datasets import write_dataset

VICUNA = [
    {"question_id": 1, "text": "How can I improve?", "category": "generic"},
    {"question_id": 2, "text": "Name  a FRUIT. ", "category": "generic"},
]
SELF_INSTRUCT = [
    {"id": "user_oriented_task_0", "motivation_app": "Grammarly", "instruction": "Rewrite it.",
     "instances": [{"input": "If you have.", "output": "x"}]},
    {"id": "user_oriented_task_1", "motivation_app": "x", "instruction": "Name a fruit.",
     "instances": [{"input": " ", "output": "x"}]},
]  # fmt: skip
OPEN_ASSISTANT = [
    {"message_id": "a", "parent_id": None, "role": "prompter", "text": "Why?", "lang": "en"},
    {"message_id": "b", "parent_id": "a", "role": "assistant", "text": "So.", "lang": "en"},
    {"message_id": "c", "parent_id": "b", "role": "prompter", "text": "And?", "lang": "en"},
    {"message_id": "d", "role": "prompter", "text": "Warum?", "lang": "de"},
    {"message_id": "e", "role": "prompter", "text": "Gone.", "lang": "en", "deleted": True},
]
KOALA = [{"id": "koala_0", "prompt": "Write a poem."}]
HH_RLHF = [
    {"chosen": "\n\nHuman: What is it?\nTell me.\n\nAssistant: It.\n\nHuman: More?\n\nAssistant: -",
     "rejected": "-"},
    {"chosen": "\n\nHuman: Only this?", "rejected": "-"},
]  # fmt: skip
LIMA = [{"conversations": ["Plan a trip."], "source": "multi_turn"}]
OWN = [{"instruction": "Mine."}]
ALPACA = [
    {"instruction": "How can I improve?", "dataset": "vicuna", "output": "x", "generator": "y"},
    {"instruction": "Of HH.", "dataset": "helpful_base", "output": "x", "generator": "y"},
]
FILES = {
    "vicuna": VICUNA, "self_instruct": SELF_INSTRUCT, "open_assistant": OPEN_ASSISTANT,
    "koala": KOALA, "hh_rlhf": HH_RLHF, "lima": LIMA, "own": OWN, "alpaca_eval": ALPACA,
}  # fmt: skip


def write(folder, *names, as_list=("own", "alpaca_eval")):
    for name in names:
        rows = FILES[name]
        if name in as_list:
            (folder / f"{name}.json").write_text(json.dumps(rows))
        else:
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            (folder / f"{name}.jsonl").write_text("\ufeff" + lines, "utf-8")


def counts(prompts):
    return {count.source.file: (count.num_prompts, count.num_new) for count in prompts.counts}


def test_every_source_is_read_as_it_is_published(tmp_path):
    write(tmp_path, *FILES)
    found = prompt_sets.read_prompt_sets(str(tmp_path))
    assert [(row["dataset"], row["instruction"]) for row in found.rows] == [
        ("vicuna", "How can I improve?"),
        ("vicuna", "Name  a FRUIT."),
        ("self_instruct", "Rewrite it.\n\nIf you have."),
        ("open_assistant", "Why?"),
        ("koala", "Write a poem."),
        ("hh_rlhf", "What is it?\nTell me."),
        ("hh_rlhf", "Only this?"),
        ("lima", "Plan a trip."),
        ("own", "Mine."),
        ("alpaca_eval", "Of HH."),
    ]
    assert counts(found) == {
        "vicuna": (2, 2), "self_instruct": (2, 1), "open_assistant": (1, 1), "koala": (1, 1),
        "hh_rlhf": (2, 2), "lima": (1, 1), "own": (1, 1), "alpaca_eval": (2, 1),
    }  # fmt: skip
    assert sum(count.num_new for count in found.counts) == len(found.rows)
    assert not found.missing


def test_missing_source_is_named_and_the_others_still_count(tmp_path):
    write(tmp_path, "lima", "own")
    found = prompt_sets.read_prompt_sets(str(tmp_path))
    assert [row["instruction"] for row in found.rows] == ["Plan a trip.", "Mine."]
    assert len(found.missing) == len(SOURCES) - 2
    assert "Vicuna: no file vicuna.json or .jsonl" in found.missing


def test_alpaca_evals_file_stands_in_for_its_five_sources(tmp_path):
    write(tmp_path, "alpaca_eval", "koala")
    found = prompt_sets.read_prompt_sets(str(tmp_path))
    by_file = {count.source.file: count for count in found.counts}
    assert by_file["vicuna"].read_from == by_file["hh_rlhf"].read_from == "alpaca_eval.json"
    assert by_file["koala"].read_from == "koala.jsonl"
    assert (by_file["alpaca_eval"].num_prompts, by_file["alpaca_eval"].num_new) == (2, 0)
    assert {count.source.name for count in found.counts if not count.read_from} == {
        "Self-Instruct", "Open Assistant", "LIMA", "own"
    }  # fmt: skip


def test_the_papers_sources_have_its_numbers_and_each_has_a_licence():
    of_paper = {source.file: source.num_published for source in SOURCES}
    of_alpaca = [source for source in SOURCES if source.alpaca_dataset]
    assert sum(source.num_published for source in of_alpaca) == of_paper.pop("alpaca_eval") == 805
    assert sum(of_paper.values()) == 1169, "1,130 of them are unique, says the paper"
    assert all(source.licence and source.origin for source in SOURCES)


def test_development_set_has_no_prompt_of_alpaca_eval(tmp_path):
    write(tmp_path, *FILES)
    found = prompt_sets.read_prompt_sets(str(tmp_path))
    of_alpaca = prompt_sets.alpaca_prompts(str(tmp_path))
    drawn = prompt_sets.development_set(found, 5, of_alpaca)
    assert len(drawn.rows) == 5
    assert not {row["instruction"] for row in drawn.rows} & {"How can I improve?", "Of HH."}
    assert prompt_sets.development_set(found, 5, of_alpaca).rows == drawn.rows
    assert len(prompt_sets.development_set(found, 8, of_alpaca).rows) == 8
    with pytest.raises(UserError, match="8 prompts are left without AlpacaEval's, and 9 are"):
        prompt_sets.development_set(found, 9, of_alpaca)
    (tmp_path / "alpaca_eval.json").unlink()
    with pytest.raises(UserError, match=r"no alpaca_eval\.json"):
        prompt_sets.alpaca_prompts(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("vicuna.jsonl", '{"text": "x"}\n{', r"vicuna\.jsonl is no file of JSON lines"),
        ("vicuna.jsonl", '{"question": "x"}', r"entry 0 has another format.*'text'"),
        ("vicuna.jsonl", '{"text": 7}', "entry 0 has no text as its prompt, but 7"),
        ("koala.json", "[", r"koala\.json is no JSON list"),
        ("self_instruct.jsonl", '{"instruction": "x", "instances": []}', "entry 0 has another"),
        ("lima.jsonl", '{"conversations": []}', "entry 0 has another format"),
        ("own.json", '["text"]', "entry 0 has another format"),
        ("alpaca_eval.json", '[{"dataset": "x"}]', "entry 0 has another format"),
        ("README.md", "x", "no file of prompts in .*vicuna, self_instruct"),
    ],
)
def test_file_in_another_format_is_refused_in_one_line(tmp_path, name, content, reason):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=reason) as error:
        prompt_sets.read_prompt_sets(str(tmp_path))
    assert "\n" not in str(error.value)


def test_line_separators_inside_of_a_text_end_no_entry(tmp_path):
    row = json.dumps({"text": "one\u2028two\x85three"}, ensure_ascii=False)
    (tmp_path / "vicuna.jsonl").write_text(row + "\r\n", "utf-8")
    (found,) = prompt_sets.read_prompt_sets(str(tmp_path)).rows
    assert found["instruction"] == "one\u2028two\x85three"


def test_written_set_is_a_file_of_evaluation_prompts(tmp_path):
    write(tmp_path, *FILES)
    rows = prompt_sets.read_prompt_sets(str(tmp_path)).rows
    (tmp_path / "prompts.json").write_text(json.dumps(rows))
    assert read_prompts([str(tmp_path / "prompts.json")]) == rows


# --- sources that are named -----------------------------------------------------------------------


def test_dataset_and_file_elsewhere_are_read_as_their_source_publishes_them(tmp_path):
    (tmp_path / "prompts").mkdir()
    write(tmp_path / "prompts", "own", "lima")
    write(tmp_path, "koala")
    lima = write_dataset(tmp_path / "lima", "parquet", [{"conversations": ["From a set.", "A."]}])
    oasst = write_dataset(tmp_path / "oasst", "saved", OPEN_ASSISTANT[:3])
    options = [f"lima={lima}", f"open_assistant={oasst}", f"koala={tmp_path}/koala.jsonl"]
    found = prompt_sets.read_prompt_sets(
        str(tmp_path / "prompts"), prompt_sets.named_sources(options)
    )
    assert [row["instruction"] for row in found.rows] == [
        "Why?", "Write a poem.", "From a set.", "Mine.",
    ]  # fmt: skip
    by_file = {count.source.file: count.read_from for count in found.counts}
    assert (by_file["lima"], by_file["koala"]) == (lima, "koala.jsonl")


def test_column_of_a_dataset_is_its_prompt(tmp_path):
    rows = [{"category": "x", "prompt": "Name a fruit."}]
    location = write_dataset(tmp_path / "set", "json", rows) + "&column=prompt"
    found = prompt_sets.read_prompt_sets(str(tmp_path), {"own": location})
    assert found.rows == [{"dataset": "own", "instruction": "Name a fruit."}]


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        (
            "dataset://no/such",
            r"LIMA: the dataset dataset://no/such cannot be read: Couldn't reach",
        ),
        ("dataset://{}/set?split=test", r"LIMA: .*Available splits: \['train'\]"),
        ("dataset://{}/set?column=body", "LIMA: .*has no column 'body'; it has conversations"),
        ("{}/gone.jsonl", "LIMA: no file of prompts .*gone.jsonl"),
    ],
)
def test_named_source_that_is_not_there_is_named_and_the_others_count(tmp_path, place, reason):
    write(tmp_path, "own")
    write_dataset(tmp_path / "set", "parquet", LIMA)
    named = prompt_sets.named_sources([f"lima={place.format(tmp_path)}"])
    found = prompt_sets.read_prompt_sets(str(tmp_path), named)
    assert [row["instruction"] for row in found.rows] == ["Mine."]
    assert len(found.missing) == len(SOURCES) - 1
    assert any(re.match(reason, line) for line in found.missing)
    (tmp_path / "own.json").unlink()
    with pytest.raises(UserError, match="no source of prompts can be read"):
        prompt_sets.read_prompt_sets(str(tmp_path), named)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["lima"], "takes NAME=PLACE"),
        (["lima=dataset://a/b/c"], "a dataset is ORG/NAME"),
        (["vicunja=x.json"], "no source is called 'vicunja': name one of vicuna"),
    ],
)
def test_wrong_option_of_a_source_is_refused(tmp_path, options, reason):
    with pytest.raises(UserError, match=reason):
        prompt_sets.read_prompt_sets(str(tmp_path), prompt_sets.named_sources(options))


def test_alpaca_eval_of_a_dataset_stands_in_for_its_sources_and_for_development(tmp_path):
    write(tmp_path, "own")
    named = {"alpaca_eval": write_dataset(tmp_path / "set", "parquet", ALPACA)}
    found = prompt_sets.read_prompt_sets(str(tmp_path), named)
    assert counts(found)["vicuna"] == (1, 1)
    of_alpaca = prompt_sets.alpaca_prompts(str(tmp_path), named)
    assert [r["instruction"] for r in prompt_sets.development_set(found, 1, of_alpaca).rows] == [
        "Mine."
    ]
