"""Who sees what: orders, sides, repeats, shares, and what a page gets to know."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from humpback_ray.errors import UserError
from humpback_ray.evaluation.people import study
from humpback_ray.evaluation.people.items import screening_items
from humpback_ray.evaluation.people.study import Item, Kind, StudySettings, make_study

RATERS = ("ann", "ben", "eve")


def items(number: int = 60) -> list[Item]:
    return [
        Item(f"item-{n:02}", f"Question {n}?", {"M_2": f"first {n}", "guanaco": f"second {n}"})
        for n in range(number)
    ]


def drawn(number: int = 60, raters=RATERS, **changes) -> study.Study:
    settings = StudySettings(Kind.PAIR, raters, **changes)
    return make_study(settings, items(number), screening_items(None, Kind.PAIR), {"not drawn": 3})


def test_sheet_begins_with_every_screening_item():
    made = drawn()
    num_screening = sum(item.is_screening for item in made.items.values())
    assert num_screening == 6
    for sheet in made.sheets.values():
        flags = [made.items[shown.item_id].is_screening for shown in sheet]
        assert flags == [True] * num_screening + [False] * (len(sheet) - num_screening)


def test_shared_items_reach_every_rater_and_others_one():
    made = drawn(shared=0.2)
    counts = Counter(
        shown.item_id
        for sheet in made.sheets.values()
        for shown in sheet
        if not shown.is_repeat and not made.items[shown.item_id].is_screening
    )
    assert Counter(counts.values()) == {3: 12, 1: 48}


def test_order_differs_between_raters_and_is_the_same_when_drawn_again():
    made = drawn(shared=1.0)
    orders = [[s.item_id for s in sheet if not s.is_repeat] for sheet in made.sheets.values()]
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(orders[2])
    assert len({tuple(order) for order in orders}) == 3
    assert drawn(shared=1.0) == made
    assert drawn(shared=1.0, random_seed=1).sheets != made.sheets


def test_sides_are_balanced_for_each_rater_and_differ_between_raters():
    made = drawn(shared=1.0, repeated=0.0)
    left = {
        rater: {s.item_id: s.left for s in sheet if s.item_id.startswith("item-")}
        for rater, sheet in made.sheets.items()
    }
    for sides in left.values():
        assert Counter(sides.values()) == {"M_2": 30, "guanaco": 30}
    same = sum(left["ann"][name] == left["ben"][name] for name in left["ann"])
    assert 15 < same < 45  # of 60; independent draws give 30


def test_screening_sides_are_balanced_too():
    for sheet in drawn().sheets.values():
        assert Counter(s.left for s in sheet[:6]) == {"better": 3, "worse": 3}


def test_repeats_are_a_twentieth_with_swapped_sides_and_far_from_the_first_time():
    for sheet in drawn(shared=1.0).sheets.values():
        places = {shown.item_id: n for n, shown in enumerate(sheet) if not shown.is_repeat}
        repeats = [(n, shown) for n, shown in enumerate(sheet) if shown.is_repeat]
        assert len(repeats) == 3
        for n, shown in repeats:
            first = sheet[places[shown.item_id]]
            assert {first.left, shown.left} == {"M_2", "guanaco"}
            assert first.shown_id != shown.shown_id
            assert n > places[shown.item_id]
        assert all(n >= 6 + 30 for n, _ in repeats)  # in the second half


def test_short_sheet_repeats_nothing():
    assert not any(s.is_repeat for s in drawn(9, ("ann",)).sheets["ann"])


def test_payload_holds_texts_and_opaque_ids_alone():
    made = drawn()
    payload = made.payload("ann")
    assert payload.keys() == {"study", "rater", "kind", "items"}
    assert all(item.keys() == {"id", "instruction", "left", "right"} for item in payload["items"])
    text = json.dumps(payload)
    for word in ("M_2", "guanaco", 'better"', "known", "item-", "repeat", "score", "model"):
        assert word not in text, word
    ids = [{item["id"] for item in made.payload(rater)["items"]} for rater in RATERS]
    assert not ids[0] & ids[1]


def test_payload_of_a_label_has_one_text():
    settings = StudySettings(Kind.LABEL, ("ann",))
    one = Item("c1", "Do it.", {"response": "Done."}, candidate_id="c1", stratum="4")
    made = make_study(settings, [one], [], {}, {"4": 10})
    (shown,) = made.payload("ann")["items"]
    assert shown == {"id": made.sheets["ann"][0].shown_id, "instruction": "Do it.", "left": "Done."}


@pytest.mark.parametrize("text", ["plain", "\ud800 lone", "a\u2028b\0\u202e"])
def test_saved_study_is_read_back_unchanged(tmp_path, text):
    settings = StudySettings(Kind.PAIR, RATERS)
    one = Item("i", text, {"a": text, "b": "other"}, dataset="vicuna")
    made = make_study(settings, [one], screening_items(None, Kind.PAIR), {"x": 1}, {"4": 2})
    study.save(str(tmp_path), made)
    (tmp_path / "votes.jsonl").write_text("")
    assert study.load_all(str(tmp_path)) == {made.study_id: made}


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda plan: plan["items"]["item-07"]["texts"].pop("M_2"), "item item-07 has 1 texts"),
        (lambda plan: plan["items"]["item-07"]["texts"].update(c=""), "item item-07 has 3 texts"),
        (lambda plan: plan["items"].pop("item-07"), "shows a text that is not there"),
        (lambda plan: plan["sheets"]["eve"][5].update(left="M_7"), "the sheet of eve shows a text"),
    ],
)
def test_study_whose_parts_do_not_fit_is_refused(tmp_path, damage, named):
    made = drawn()
    study.save(str(tmp_path), made)
    file = tmp_path / made.study_id / study.PLAN
    plan = json.loads(file.read_text())
    damage(plan)
    file.write_text(json.dumps(plan))
    with pytest.raises(UserError, match=named):
        study.load_all(str(tmp_path))


def test_study_id_follows_texts_and_settings():
    made = drawn()
    last = Item("item-59", "Another?", {"M_2": "", "guanaco": "x"})
    other = make_study(made.settings, [*items(59), last], [], {})
    assert len({made.study_id, other.study_id, drawn(shared=0.5).study_id}) == 3
