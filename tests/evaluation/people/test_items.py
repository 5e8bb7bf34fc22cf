"""Items out of files of outputs and of rated pairs: every one that is left out has a reason."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from humpback_ray import tables
from humpback_ray.errors import UserError
from humpback_ray.evaluation.people import items, outputs, setup
from humpback_ray.evaluation.people.items import label_items, pair_items, screening_items
from humpback_ray.evaluation.people.study import Kind
from humpback_ray.rows import RatedPair
from tests.support.people import entries, make_run, rated, write_json


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "run")


def read(run, *models: str):
    return outputs.read_all(str(run), models)


# --- outputs --------------------------------------------------------------------------------------


def test_models_of_a_run_and_of_files_are_read_under_their_names(run, tmp_path):
    guanaco = write_json(tmp_path / "g.json", entries("guanaco-65b"))
    unnamed = write_json(
        tmp_path / "plain.json", [{"instruction": "Hi.", "output": "Hello.", "input": "Ben"}]
    )
    found = read(run, "M_2", str(guanaco), f"old={guanaco}", str(unnamed))
    assert [each.model for each in found] == ["M_2", "guanaco-65b", "old", "plain"]
    assert list(found[3].by_prompt) == ["Hi.\n\nBen"]
    assert found[0].by_prompt["Question number 1: what is a good thing to do?"].dataset == "koala"


def test_wrong_models_are_user_errors(run, tmp_path):
    with pytest.raises(UserError, match="two models or more"):
        read(run, "M_2")
    with pytest.raises(UserError, match="name one of M_1, M_2"):
        read(run, "M_2", "M_3")
    with pytest.raises(UserError, match="2 models have the name M_2"):
        read(run, "M_2", str(run / "evaluation" / "M_2" / "outputs.json"))
    with pytest.raises(UserError, match="no file of model outputs"):
        read(run, "M_2", str(tmp_path / "none.json"))


def test_pairs_and_reasons_add_up_to_the_prompts(run, tmp_path):
    other = entries("other", 14, "Different")[4:]
    other[0]["output"] = f"{entries('M_2', text='The somewhat longer')[4]['output']}\n"
    file = write_json(tmp_path / "other.json", other)
    drawn = pair_items(read(run, "M_2", str(file)), 5, seed=0)
    assert len(drawn.items) == 5
    assert drawn.left_out == {
        "other: prompt not answered": 4, "other: same answer": 1, "other: not drawn": 2,
    }  # fmt: skip
    assert all(list(item.texts) == ["M_2", "other"] for item in drawn.items)


def test_first_model_meets_every_other(run, tmp_path):
    file = write_json(tmp_path / "third.json", entries("third"))
    drawn = pair_items(read(run, "M_2", "M_1", str(file)), 100, seed=0)
    assert Counter(tuple(item.texts) for item in drawn.items) == {
        ("M_2", "M_1"): 12, ("M_2", "third"): 12,
    }  # fmt: skip
    assert len({item.item_id for item in drawn.items}) == 24


def test_models_without_a_common_prompt_are_a_user_error(run, tmp_path):
    rows = [{"instruction": "Elsewhere.", "output": "x", "generator": "far"}]
    file = write_json(tmp_path / "far.json", rows)
    with pytest.raises(UserError, match="share no prompt with different answers"):
        pair_items(read(run, "M_2", str(file)), 10, seed=0)


# --- rated pairs ----------------------------------------------------------------------------------


@pytest.fixture
def rated_run(tmp_path):
    scores = [1.2] * 60 + [2.9] * 30 + [4.5] * 6 + [4.6] * 2 + [None] * 2
    rows = [rated(number, score) for number, score in enumerate(scores)]
    for iteration, start in ((1, 0), (2, 50)):
        folder = str(tmp_path / f"iter-{iteration}" / "rated" / "rows")
        tables.write_rows(folder, rows[start:60], RatedPair, "part-0")
        tables.write_rows(folder, rows[60:], RatedPair, "part-1")
    return str(tmp_path)


def test_labels_are_drawn_equally_from_every_grade(rated_run):
    drawn = label_items(rated_run, 1, 26, seed=0)
    assert Counter(item.stratum for item in drawn.items) == {"1": 9, "3": 9, "5": 8}
    assert drawn.pool == {"1": 60, "3": 30, "5": 8}
    assert drawn.left_out == {"no score": 2, "not drawn": 72}
    item = drawn.items[0]
    assert item.texts == {"response": f"Text {int(item.candidate_id[1:])}."}


def test_labels_default_to_the_last_iteration_and_to_all_there_are(rated_run):
    drawn = label_items(rated_run, None, 1000, seed=0)
    assert drawn.pool == {"1": 10, "3": 30, "5": 8}
    assert len(drawn.items) == 48


def test_missing_rating_is_a_user_error(rated_run, tmp_path):
    with pytest.raises(UserError, match=r"rated iterations are \[1, 2\]"):
        label_items(rated_run, 3, 10, seed=0)
    with pytest.raises(UserError, match=r"rated iterations are \(none\)"):
        label_items(str(tmp_path / "elsewhere"), None, 10, seed=0)


def test_rating_without_scores_is_a_user_error(tmp_path):
    folder = str(tmp_path / "iter-1" / "rated" / "rows")
    tables.write_rows(folder, [rated(1, None)], RatedPair)
    with pytest.raises(UserError, match="has a score"):
        label_items(str(tmp_path), None, 10, seed=0)


# --- screening items, raters ----------------------------------------------------------------------


def test_screening_answers_are_labels_one_by_one():
    assert {item.known for item in screening_items(None, Kind.PAIR)} == {"better"}
    labels = screening_items(None, Kind.LABEL)
    assert Counter(item.known for item in labels) == {"good": 6, "bad": 6}


def test_screening_file_of_another_form_is_a_user_error(tmp_path):
    own = write_json(tmp_path / "own.json", [{"instruction": "a", "better": "b", "worse": "c"}] * 2)
    assert len(screening_items(str(own), Kind.PAIR)) == 1
    for content in ("[", "{}", json.dumps([{"instruction": "a", "better": "b"}])):
        own.write_text(content)
        with pytest.raises(UserError, match="--screening"):
            screening_items(str(own), Kind.PAIR)


def test_raters_are_a_number_or_names():
    assert setup.parse_raters("3") == ("1", "2", "3")
    assert setup.parse_raters("ann, ben") == ("ann", "ben")
    for wrong in ("0", "1000", "", "ann,ann", "ann/ben", "<b>"):
        with pytest.raises(UserError, match="--raters"):
            setup.parse_raters(wrong)


def test_equal_shares_end_where_no_candidate_is_left():
    assert items._equal_shares({"1": ["a"], "5": ["b", "c"]}, 9, 0).keys() == {"a", "b", "c"}
