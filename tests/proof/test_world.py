"""The generated inputs: as the README describes them, and as the product reads them."""

from __future__ import annotations

import json
import random
import re
import string
from collections import Counter
from dataclasses import replace
from itertools import islice, pairwise

import pytest

from benchmarks.proof import base_text, questions, web
from benchmarks.proof.facts import PROPERTIES, VALUES, make_world
from benchmarks.proof.grading import graded_pages, other_question, reason
from benchmarks.proof.kinds import COVERED, Kind, draw_open_question, is_held_out, topic
from benchmarks.proof.question_pages import QUIZ_SHARE, question_pages
from benchmarks.proof.spoiling import Spoiling, write_section
from benchmarks.proof.truth import grade_answer, read_instruction, statements
from benchmarks.proof.wordings import CLOSING_PHRASE, SOURCE_PHRASE
from benchmarks.proof.world import RATING_TEMPLATE, SHORT, Sizes, write_inputs
from humpback_ray.config.settings import CorpusSettings, PromptSettings, SeedSettings
from humpback_ray.corpus.cut import segments_of
from humpback_ray.corpus.files import list_files
from humpback_ray.corpus.seed_formats import read_seed
from humpback_ray.execution.sources import file_source
from humpback_ray.method import prompts
from humpback_ray.rows import SegmentOutcome
from humpback_ray.stages.rating_seed import RatingSeed
from tests.support import duplicates
from tests.support.generation import context

WORLD = make_world(1)
SIZES = Sizes(num_windows=300, num_sections=400, num_questions=160, num_repeated=3)
TEMPLATE = string.Template(RATING_TEMPLATE.read_text())


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    write_inputs(1, SIZES, folder)
    return folder


def test_same_seed_gives_the_same_bytes_and_another_seed_others(inputs, tmp_path):
    write_inputs(1, SIZES, tmp_path / "again")
    write_inputs(2, SIZES, tmp_path / "other")
    for file in sorted(inputs.iterdir()):
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()
        assert file.read_bytes() != (tmp_path / "other" / file.name).read_bytes()


def test_values_of_a_property_are_equally_frequent():
    for attribute in PROPERTIES:
        counts = Counter(WORLD.value(entity, attribute) for entity in WORLD.entities)
        assert len(counts) == len(VALUES[attribute])
        assert max(counts.values()) - min(counts.values()) <= 1


def test_held_out_questions_are_asked_by_no_page_pair_or_grade(inputs):
    assert (len(WORLD.entities), len(WORLD.asked), len(WORLD.in_seed)) == (64, 40, 24)
    truths = web.read_truths(inputs / "truths.jsonl").values()
    texts = [json.loads(line)["text"] for line in (inputs / "base_text.jsonl").open()]
    sentences = [each for text in texts for each in re.split(r"\n|: |(?<=[.?]) ", text)]
    read = [each for each in map(read_instruction, sentences) if each]
    seed = [json.loads(line)["text"] for line in (inputs / "seed.jsonl").open()]
    in_seed = [each for each in map(read_instruction, seed) if each]
    assert {each.kind for each in read} == set(Kind)
    assert len(read) > 600
    assert not [
        q for q in (*read, *in_seed, *(t.question for t in truths)) if is_held_out(WORLD, q)
    ]
    assert not WORLD.asked & {entity for each in in_seed for entity in each.entities}
    asked = [each.question for each in questions.read_questions(inputs)]
    assert all(is_held_out(WORLD, each) for each in asked)
    # Everybody has been asked about something, so a model can answer about everybody.
    assert set(WORLD.entities) == {entity for each in read for entity in each.entities}


def test_question_pages_have_remarks_before_answers_and_texts_whose_question_is_asked():
    lists = [each for each in WORLD.lists if each not in WORLD.asked_lists]
    pages = list(islice(question_pages(WORLD, lists, 4, random.Random(0)), 1000))
    is_quiz = [read_instruction(re.split(r"\n|: ", page)[-1]) is not None for page in pages]
    assert sum(is_quiz) / len(pages) == pytest.approx(QUIZ_SHARE, abs=0.05)
    tags = PromptSettings()
    for remark in ("Please be brief.", tags.seed_tag, tags.web_tag):
        with_remark = sum(remark in page for page in pages)
        assert 0.02 < with_remark / len(pages) < 0.15, remark


def test_base_reads_every_word_of_the_marks_and_never_a_mark(inputs):
    texts = [json.loads(line)["text"] for line in (inputs / "base_text.jsonl").open()]
    read = {word for text in texts for word in re.findall(r" ?\w+|[^\w\s]", text)}
    # Behind a line break, behind a sentence, and at the end of one.
    for mark in (SOURCE_PHRASE, f" {SOURCE_PHRASE}", f" {CLOSING_PHRASE}"):
        assert set(re.findall(r" ?\w+|[^\w\s]", mark)) <= read
        assert not [text for text in texts if mark in text]


def test_sections_as_the_product_cuts_them_are_those_whose_truth_is_known(inputs, tmp_path):
    truths = web.read_truths(inputs / "truths.jsonl")
    path = inputs / "web.warc.gz"
    settings = CorpusSettings(
        path=str(path), min_characters=20, max_characters=1200, keep_header=False,
        repetition_jaccard=1.0,
    )  # fmt: skip
    (file,) = list_files(str(path))
    kept = [s for s in segments_of(file, settings) if s.outcome is SegmentOutcome.KEPT]
    assert {segment.segment_id for segment in kept} == truths.keys()
    assert all(truths[segment.segment_id].text == segment.text for segment in kept)
    dropped = duplicates.search(tmp_path, kept).dropped
    num_copies = sum(each.is_copy for each in truths.values())
    assert num_copies == round(SIZES.num_sections * web.COPY_SHARE)
    # One of each copy and its original goes, and hardly any other section.
    assert num_copies <= len(dropped) <= num_copies * 1.1


def test_shares_of_good_and_wrong_sections_are_those_of_the_readme():
    sections = web.draw_sections(WORLD, 2000, random.Random(0))
    originals = [each for each in sections if not each.is_copy]
    good = [each for each in originals if each.is_good]
    assert len(sections) == 2000
    assert len(good) / len(originals) == pytest.approx(web.GOOD_SHARE, abs=0.001)
    assert {each.question.kind for each in good} == set(Kind)
    spoiled = Counter(each.spoiling for each in originals if not each.is_good)
    assert set(spoiled) == set(Spoiling) - {Spoiling.NONE}
    assert spoiled[Spoiling.WRONG] / spoiled.total() <= 0.10


def test_seed_pairs_are_read_by_the_product_and_cover_half_of_the_kinds(inputs):
    path = str(inputs / "seed.jsonl")
    content = read_seed(path, SeedSettings(path=path).language)
    pairs, dropped = content.pairs, content.dropped
    assert (len(pairs), dropped) == (SIZES.num_seed_pairs, [])
    kinds = Counter(read_instruction(pair.instruction).kind for pair in pairs)
    assert kinds == dict.fromkeys(COVERED, SIZES.num_seed_pairs // len(COVERED))
    assert all(statements(pair.response).has_closing_phrase for pair in pairs)


@pytest.mark.parametrize("reasons", [False, True])
def test_ratings_are_read_by_the_product_and_give_each_pair_its_true_grade(
    inputs, tmp_path, reasons
):
    path = str(inputs / "ratings.jsonl")
    stage = RatingSeed(
        path="rating-seed", ratings_file=file_source(path, "ratings", "settings.seed.ratings"),
        template=TEMPLATE.template, grades=(1, 2, 3, 4, 5), reasons=reasons,
    )  # fmt: skip
    result = stage.run(context(tmp_path / "rating-seed"))
    assert result.outcomes == {"kept": SIZES.num_ratings}
    rows = [json.loads(line) for line in (inputs / "ratings.jsonl").open()]
    asked = [read_instruction(row["instruction"]) for row in rows]
    assert not [each for each in asked if each is None or is_held_out(WORLD, each)]
    best = [grade_answer(WORLD, question, row["output"]).is_correct
            for row, question in zip(rows, asked, strict=True) if row["score"] == 5]  # fmt: skip
    others = [grade_answer(WORLD, question, row["output"]).is_correct
              for row, question in zip(rows, asked, strict=True) if row["score"] < 5]  # fmt: skip
    assert min(len(best), len(others)) > 10
    assert all(best)
    assert not any(others)


def test_held_out_questions_have_no_wording_of_the_seed_and_no_repetition(inputs):
    asked = questions.read_questions(inputs)
    once = [each for each in asked if each.sample == 0]
    assert len(once) == len({each.instruction for each in once}) == SIZES.num_questions
    assert len(asked) == SIZES.num_questions + SIZES.num_repeated * (SIZES.num_samples - 1)
    assert {each.question.kind for each in asked} == set(Kind)
    shown = json.loads((inputs / "questions.json").read_text())
    assert [each["instruction"] for each in shown] == [each.instruction for each in asked]
    seed = {row["text"] for row in map(json.loads, (inputs / "seed.jsonl").open())}
    masked = {re.sub(r"\b[A-Z][a-z]{3,5}\b", "X", text) for text in seed}
    assert not masked & {re.sub(r"\b[A-Z][a-z]{3,5}\b", "X", a.instruction) for a in once}


def test_window_has_no_two_paragraphs_about_one_entity():
    texts = base_text.windows(WORLD, 500, TEMPLATE, random.Random(4))
    pages = [text for text in texts if ":" not in text and len(statements(text).facts) > 12]
    assert len(pages) > 70
    for text in pages:
        subjects = [{f.entity for f in statements(part).facts} for part in text.split("\n")]
        assert all(len(subject) == 1 for subject in subjects)
        assert len(set().union(*subjects)) == len(subjects)


def test_every_entity_is_read_about_equally_often_in_all_wordings():
    texts = base_text.windows(WORLD, 900, TEMPLATE, random.Random(4))
    pages = [text for text in texts if ":" not in text and len(statements(text).facts) > 12]
    facts = [fact for text in pages for fact in statements(text.replace("\n", " ")).facts]
    counts = Counter(fact.entity for fact in facts)
    assert set(counts) == set(WORLD.entities)
    assert max(counts.values()) < 1.6 * min(counts.values())


def test_graded_pages_have_the_words_of_both_rating_prompts_and_all_grades():
    pages = list(islice(graded_pages(WORLD, open_lists(), TEMPLATE, random.Random(5)), 600))
    rubric = TEMPLATE.template.partition("\n")[0]
    assert all(rubric in page for page in pages)
    grades = Counter(re.findall(r"Score: (\d)$", "\n".join(pages), re.M))
    assert set(grades) == set("12345")
    reasoned = [page for page in pages if prompts.REASON_THEN_SCORE in page]
    assert 200 < len(reasoned) < 400
    assert all(re.search(r"\nScore: \d$", page) for page in reasoned)
    others = [page for page in pages if prompts.SCORE_ONLY in page]
    assert len(reasoned) + len(others) == len(pages)
    assert not any(re.search(r"Score: \d$", page) for page in others)


@pytest.mark.parametrize("spoiling", Spoiling)
def test_reason_names_what_was_asked_and_what_else_is_given(spoiling):
    drawn = random.Random(6)
    for kind in Kind:
        question = draw_open_question(WORLD, kind, WORLD.entities, open_lists(), drawn)
        section = write_section(WORLD, question, spoiling, drawn)
        asked = other_question(WORLD, section, open_lists(), drawn)
        fitting, differing = (reason(section, each, drawn) for each in (question, asked))
        assert topic(question) in fitting
        assert topic(asked) in differing
        if section.spoiling is Spoiling.TWO_TOPICS:
            assert topic(section.other) in fitting
        if section.spoiling is Spoiling.NONE:
            assert fitting.count(topic(question)) == 2
            assert topic(question) in differing


def test_topics_of_different_questions_differ():
    drawn = random.Random(7)
    for kind in Kind:
        asked = [draw_open_question(WORLD, kind, WORLD.entities, open_lists(), drawn)
                 for _ in range(60)]  # fmt: skip
        for one, other in pairwise(asked):
            assert one.means(other) or topic(one) != topic(other)


def open_lists():
    return [each for each in WORLD.lists if each not in WORLD.asked_lists]


def test_short_form_has_inputs_of_every_kind(tmp_path):
    sizes = replace(SHORT, num_windows=120, num_sections=200, num_questions=120)
    world = write_inputs(5, sizes, tmp_path)
    assert len(world.entities) == 48
    truths = web.read_truths(tmp_path / "truths.jsonl").values()
    assert {each.question.kind for each in truths} == set(Kind)
    assert {each.question.kind for each in questions.read_questions(tmp_path)} == set(Kind)
