"""The corpus rules, one outcome at a time."""

import pytest

from humpback_ray.config.settings import CorpusSettings
from humpback_ray.method.filters import gives_way, normalise, outcome_of, segment_id, storable
from humpback_ray.method.segmenting import Section
from humpback_ray.rows import SegmentOutcome

SETTINGS = CorpusSettings(path="corpus", min_characters=40, max_characters=400)
GOOD = "Whales sing long songs. The songs change a little every year, and nobody knows why."
REPEATED = "Our shop sells the very best blue whales in town{}."


def outcome(text=GOOD, header="Whales", settings=SETTINGS):
    return outcome_of(Section(header=header, text=text, start=0), settings)


@pytest.mark.parametrize("header", ["Whales", None, "API reference", "X", "2.0", "日本語", "I am"])
def test_good_segment_with_an_ordinary_header_is_kept(header):
    assert outcome(header=header) is SegmentOutcome.KEPT


@pytest.mark.parametrize(
    ("expected", "case"),
    [
        (SegmentOutcome.INVALID_CHARACTERS, {"text": GOOD + "\0"}),
        (SegmentOutcome.INVALID_CHARACTERS, {"text": "\ufffd " + GOOD}),
        (SegmentOutcome.INVALID_CHARACTERS, {"text": GOOD + " \ud800 end"}),
        (SegmentOutcome.EMPTY_HEADER, {"header": ""}),
        (SegmentOutcome.EMPTY_HEADER, {"header": " \u00a0"}),
        (SegmentOutcome.UPPERCASE_HEADER, {"header": "ALL ABOUT WHALES"}),
        (SegmentOutcome.UPPERCASE_HEADER, {"header": "FAQ"}),
        (SegmentOutcome.UPPERCASE_HEADER, {"header": "ÉTÉ 2024!"}),
        (SegmentOutcome.NAVIGATION_HEADER, {"header": "Our Forums"}),
        (SegmentOutcome.NAVIGATION_HEADER, {"header": "Quick Links"}),
        (SegmentOutcome.TOO_SHORT, {"text": GOOD[:39]}),
        (SegmentOutcome.TOO_SHORT, {"text": ""}),
        (SegmentOutcome.TOO_LONG, {"text": "word " * 81}),
        (SegmentOutcome.REPETITIVE, {"text": f"{REPEATED.format(' today')} {REPEATED.format('')}"}),
        (SegmentOutcome.REPETITIVE, {"text": f"{REPEATED.format('')}\n{REPEATED.format('')}"}),
    ],
)  # fmt: skip
def test_segment_that_breaks_a_rule_has_the_outcome_of_that_rule(expected, case):
    assert outcome(**case) is expected


def test_segment_that_breaks_several_rules_has_the_outcome_of_the_first():
    assert outcome(text="\0", header="") is SegmentOutcome.INVALID_CHARACTERS
    assert outcome(text="short", header="FORUM") is SegmentOutcome.UPPERCASE_HEADER
    assert outcome(text="short", header="Forum") is SegmentOutcome.NAVIGATION_HEADER


def test_length_limits_are_inclusive():
    at_limits = SETTINGS.model_copy(
        update={"min_characters": len(GOOD), "max_characters": len(GOOD)}
    )
    assert outcome(settings=at_limits) is SegmentOutcome.KEPT


def test_repeated_short_lines_are_kept():
    assert outcome(text="pip install whales\n" * 10) is SegmentOutcome.KEPT


@pytest.mark.parametrize(
    ("threshold", "expected"),
    [(0.79, SegmentOutcome.REPETITIVE), (0.8, SegmentOutcome.KEPT)],
)
def test_repetition_above_the_threshold_is_dropped(threshold, expected):
    # 8 and 10 three-word grams, 8 of them shared: a Jaccard index of exactly 0.8.
    text = REPEATED.format("") + " " + REPEATED.format(" right now")
    settings = SETTINGS.model_copy(update={"repetition_jaccard": threshold})
    assert outcome(text=text, settings=settings) is expected


def test_texts_that_are_equal_when_normalised_have_one_segment_id():
    assert normalise(" Ｗhales\u00a0 SING\n\n") == "whales sing"
    assert segment_id("Whales  sing\n") == segment_id("whales SING")
    assert segment_id("whales sing") != segment_id("whales sang")
    assert len(segment_id("\ud800")) == 32
    assert segment_id("whales sing") == "b77c1b7ca89e37ad2c4951b401e3a434"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("abc", "abc"), ("abcdefgh", "abcde"), ("a\0b\udfff", "a\ufffdb\ufffd"), ("😀" * 9, "😀" * 5)],
)
def test_storable_text_is_cut_and_valid_utf8(text, expected):
    stored = storable(text, 5)
    assert stored == expected
    stored.encode("utf-8")


@pytest.mark.parametrize(
    ("header", "text", "expected"),
    [
        ("Whales", GOOD, False),
        ("Whales", GOOD[:39], False),
        ("", GOOD, True),
        ("WHALES", GOOD, True),
        ("Forum", GOOD, True),
        ("Forum", GOOD[:39], False),  # nothing of the right length can be in it
        ("Whales", "word " * 81, True),
        ("Whales", f"{REPEATED.format('')} {REPEATED.format('')}", True),
    ],
)
def test_section_gives_way_if_it_is_refused_and_long_enough(header, text, expected):
    section = Section(header=header, text=text, start=0)
    assert gives_way(section, outcome_of(section, SETTINGS), SETTINGS) is expected
