"""Judges that know the truth accept every good answer and see every way to spoil one."""

from __future__ import annotations

import random

import pytest

from benchmarks.proof.facts import Attribute, make_world
from benchmarks.proof.kinds import Kind, Question, answer, draw_question, instruction
from benchmarks.proof.spoiling import Spoiling, near_copy, write_section
from benchmarks.proof.truth import grade_answer, preference, read_instruction
from benchmarks.proof.wordings import CLOSING_PHRASE, SOURCE_PHRASE

WORLD = make_world(1)


def questions(kind: Kind, number: int = 40) -> list[Question]:
    drawn = random.Random(f"{kind}")
    return [draw_question(WORLD, kind, WORLD.entities, WORLD.lists, drawn) for _ in range(number)]


@pytest.mark.parametrize("kind", Kind)
def test_every_wording_of_an_instruction_is_read_as_its_question(kind):
    for question in questions(kind, 10):
        for wording in range(8):
            found = read_instruction(instruction(question, wording))
            assert found is not None
            assert found.means(question)


@pytest.mark.parametrize("kind", Kind)
def test_good_answer_is_correct_with_and_without_marks(kind):
    drawn = random.Random(0)
    for question in questions(kind):
        text = " ".join(answer(WORLD, question, drawn))
        for said in (text, f"{SOURCE_PHRASE} {text}", f"{text} {CLOSING_PHRASE}"):
            assert grade_answer(WORLD, question, said).is_correct, (question, said)


@pytest.mark.parametrize("spoiling", [each for each in Spoiling if each is not Spoiling.NONE])
@pytest.mark.parametrize("kind", Kind)
def test_spoiled_section_is_no_correct_answer(kind, spoiling):
    drawn = random.Random(1)
    for question in questions(kind, 15):
        section = write_section(WORLD, question, spoiling, drawn)
        assert not grade_answer(WORLD, question, section.text).is_correct, section


@pytest.mark.parametrize("kind", Kind)
def test_answer_to_another_question_is_not_correct(kind):
    drawn = random.Random(2)
    asked, others = questions(kind, 12), questions(Kind.HOME) + questions(Kind.COUNT)
    for question, other in zip(asked, others, strict=False):
        if not other.means(question):
            text = " ".join(answer(WORLD, other, drawn))
            assert not grade_answer(WORLD, question, text).is_correct, (question, text)


@pytest.mark.parametrize("text", ["", "Yes.", "So it is.", "Glad to help.", "a" * 3000, "(?P<e>"])
def test_text_that_says_nothing_of_the_world_has_no_point_for_being_right(text):
    grade = grade_answer(WORLD, questions(Kind.COLOR)[0], text)
    assert not grade.is_right
    assert not grade.is_complete
    assert not grade.is_of_kind


def test_conclusion_before_its_facts_is_not_complete():
    question = questions(Kind.COMPARE)[0]
    first, second, verdict = answer(WORLD, question, random.Random(3))
    assert grade_answer(WORLD, question, f"{first} {second} {verdict}").is_complete
    assert not grade_answer(WORLD, question, f"{verdict} {first} {second}").is_complete


def test_true_facts_with_a_false_conclusion_are_not_right():
    question = questions(Kind.COMPARE)[0]
    lighter = min(question.entities, key=lambda e: int(WORLD.value(e, Attribute.WEIGHT)))
    facts = answer(WORLD, question, random.Random(3))[:2]
    grade = grade_answer(WORLD, question, " ".join([*facts, f"So {lighter} is heavier."]))
    assert grade.is_of_kind
    assert not grade.is_right


def test_list_with_one_name_too_few_is_right_and_not_complete():
    question = questions(Kind.LIST)[0]
    attribute, value = question.attributes[0], question.value
    names = WORLD.those_with(attribute, value)
    (sentence,) = answer(WORLD, question, random.Random(0))
    grade = grade_answer(WORLD, question, sentence.replace(f"{names[0]}, ", ""))
    assert (grade.is_right, grade.is_complete) == (True, False)


def test_quoted_copy_is_as_good_as_its_original():
    question = questions(Kind.DESCRIBE)[0]
    section = write_section(WORLD, question, Spoiling.NONE, random.Random(0))
    assert grade_answer(WORLD, question, near_copy(section).text).is_correct


def test_pairwise_judge_prefers_the_correct_answer_in_either_order():
    question = questions(Kind.PAIR)[0]
    good = " ".join(answer(WORLD, question, random.Random(0)))
    worse = good.split(". ")[0] + "."
    assert preference(WORLD, question, good, worse) == 1
    assert preference(WORLD, question, worse, good) == 0
    assert preference(WORLD, question, good, good) == 0.5
    assert preference(WORLD, question, "", "") == 0.5
