"""Rows of a stage as a person sees them."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest
from transformers import AutoTokenizer

from humpback_ray import storage, tables
from humpback_ray.errors import UserError
from humpback_ray.method import prompts
from humpback_ray.method.tokens import example_ids
from humpback_ray.report.look import select_rows
from humpback_ray.rows import Origin, RatedPair, RatingOutcome, SeedPair, TrainingExample
from tests.support.records import record
from tests.support.training import make_base


def write_rated(folder, scores: list[float | None]) -> None:
    rows = [
        RatedPair(
            f"s{n:02}-0", f"s{n:02}", f"x {n}", f"y {n}", score, None, None, 1,
            RatingOutcome.SCORED if score is not None else RatingOutcome.NO_GRADE, "", False, 9, 0,
            1,
        )
        for n, score in enumerate(scores)
    ]  # fmt: skip
    half = len(rows) // 2
    tables.write_rows(str(folder / "rows"), rows[half:], RatedPair, name="one")
    tables.write_rows(str(folder / "rows"), rows[:half], RatedPair, name="two")


def titles(folder, number: int, where: list[str], **options) -> list[str]:
    return [row.title for row in select_rows(str(folder), number, where, **options).rows]


def test_look_ranked_shows_best_middle_and_worst_rows_in_order(tmp_path):
    write_rated(tmp_path, [2.0, None, 4.5, 1.0, 3.0, 5.0, 3.5, 1.5, None, 4.0, 2.5])
    assert titles(tmp_path, 2, [], ranked=True) == [
        "best, 1 of 9: s05-0", "best, 2 of 9: s02-0",
        "middle, 4 of 9: s06-0", "middle, 5 of 9: s04-0",
        "worst, 8 of 9: s07-0", "worst, 9 of 9: s03-0",
    ]  # fmt: skip
    assert titles(tmp_path, 1, ["segment_id=s04"], ranked=True) == ["best, 1 of 1: s04-0"]
    assert len(titles(tmp_path, 5, [], ranked=True)) == 9, "no row is shown twice"
    assert len(titles(tmp_path, 2, [])) == 2


def test_look_ranked_of_rows_without_a_score_is_one_line(tmp_path):
    tables.write_rows(str(tmp_path / "rows"), [SeedPair("a", "Why?", "So.")], SeedPair)
    with pytest.raises(UserError, match="no scores to rank by"):
        select_rows(str(tmp_path), 1, [], ranked=True)


# --- conditions -----------------------------------------------------------------------------------


def test_look_where_takes_a_value_as_it_is_shown_for_every_field(tmp_path):
    write_rated(tmp_path, [2.0, None, 4.4999, 1.0])
    assert titles(tmp_path, 9, ["score=4.500"]) == ["s02-0"]
    assert titles(tmp_path, 9, ["score=2"]) == ["s00-0"]
    assert titles(tmp_path, 9, ["score=null"]) == ["s01-0"]
    assert titles(tmp_path, 9, ["outcome=no_grade"]) == ["s01-0"]
    assert titles(tmp_path, 9, ["instruction=x 3"]) == ["s03-0"]
    assert len(titles(tmp_path, 9, ["was_cut=False"])) == 4
    assert len(titles(tmp_path, 9, ["was_cut=false", "num_prompt_tokens=9"])) == 4
    assert titles(tmp_path, 9, ["was_cut=true"]) == []
    assert titles(tmp_path, 9, ["num_generated_tokens=2"]) == []


def test_look_where_takes_every_field_that_it_offers(tmp_path):
    write_rated(tmp_path, [2.0, None])
    with pytest.raises(UserError, match="give field=value with a field of ") as mistake:
        titles(tmp_path, 1, ["probabilities=1"])
    offered = str(mistake.value).rpartition("a field of ")[2].split(", ")
    assert set(offered) == set(tables.arrow_schema(RatedPair).names) - {"probabilities"}
    for field in offered:
        value = "true" if field == "was_cut" else "1"
        titles(tmp_path, 1, [f"{field}={value}"])


@pytest.mark.parametrize(
    ("clause", "wanted"),
    [("score=high", "a number, or null"), ("was_cut=1", "true or false"),
     ("num_prompt_tokens=1.5", "a number")],
)  # fmt: skip
def test_look_where_with_a_value_of_another_type_is_one_line(tmp_path, clause, wanted):
    write_rated(tmp_path, [2.0])
    with pytest.raises(UserError, match=f"^--where {clause}: the value must be {wanted}"):
        titles(tmp_path, 1, [clause])


# --- training examples ----------------------------------------------------------------------------


def look_at_examples(run, max_length: int | None, too_long: str = "truncate"):
    """The shown rows of three examples; without a limit their training has not run."""
    examples = [
        TrainingExample("a-short", "Why?", "A tag.", "Because.", Origin.SEED),
        TrainingExample("b-long", "Why?", "A tag.", LONG, Origin.WEB),
        TrainingExample("c-prompt", "Why? " * 99, "A tag.", "So.", Origin.WEB),
    ]
    tables.write_rows(str(run / "iter-1/examples/rows"), examples, TrainingExample)
    if max_length is not None:
        make_base(run / "iter-1/model")
        settings = {"max_length": max_length, "too_long": too_long}
        content = replace(record(3), identity={"settings": settings})
        storage.write_json(str(run / "iter-1/model/record.json"), asdict(content))
    rows = select_rows(str(run / "iter-1/examples"), 9, []).rows
    return {row.title: dict(row.fields) for row in rows}


LONG = "".join(f"{number}, " for number in range(200))


def test_look_at_examples_shows_what_is_trained_on_and_where_it_is_cut(tmp_path):
    shown = look_at_examples(tmp_path, 120)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "iter-1/model")
    example = example_ids(tokenizer, "Why?", "A tag.", LONG, 120)
    kept = tokenizer.decode(example.ids[example.num_prompt :])
    assert 0 < len(kept) < len(LONG)
    assert LONG.startswith(kept)
    assert shown["a-short"]["trained on"] == "\nBecause.<end>"
    assert shown["b-long"]["trained on"] == f"\n{kept}<cut at max_length 120, no end token>"
    assert shown["c-prompt"] == {
        "origin": "web",
        "masked, no loss": "\n" + prompts.render("Why? " * 99, "A tag."),
        "not trained on": "the prompt leaves no room in max_length 120",
    }


def test_look_at_examples_that_a_training_leaves_out_says_so(tmp_path):
    shown = look_at_examples(tmp_path, 120, "drop")
    assert shown["a-short"]["trained on"] == "\nBecause.<end>"
    assert shown["b-long"]["not trained on"] == "longer than max_length 120, too_long is drop"


def test_look_at_examples_before_their_training_promises_nothing(tmp_path):
    shown = look_at_examples(tmp_path, None)
    assert "trained on" not in shown["b-long"]
    assert shown["b-long"]["to be trained on, up to max_length"] == f"\n{LONG}<end>"
