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
def test_kept(header):
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
def test_dropped(expected, case):
    assert outcome(**case) is expected


def test_the_first_rule_names_the_outcome():
    assert outcome(text="\0", header="") is SegmentOutcome.INVALID_CHARACTERS
    assert outcome(text="short", header="FORUM") is SegmentOutcome.UPPERCASE_HEADER
    assert outcome(text="short", header="Forum") is SegmentOutcome.NAVIGATION_HEADER


def test_length_limits_are_inclusive():
    at_limits = SETTINGS.model_copy(
        update={"min_characters": len(GOOD), "max_characters": len(GOOD)}
    )
    assert outcome(settings=at_limits) is SegmentOutcome.KEPT


def test_short_lines_may_repeat():
    assert outcome(text="pip install whales\n" * 10) is SegmentOutcome.KEPT


@pytest.mark.parametrize(
    ("threshold", "expected"),
    [(0.79, SegmentOutcome.REPETITIVE), (0.8, SegmentOutcome.KEPT)],
)
def test_repetition_threshold(threshold, expected):
    # 8 and 10 three-word grams, 8 of them shared: a Jaccard index of exactly 0.8.
    text = REPEATED.format("") + " " + REPEATED.format(" right now")
    settings = SETTINGS.model_copy(update={"repetition_jaccard": threshold})
    assert outcome(text=text, settings=settings) is expected


def test_normalised_texts_are_the_same_segment():
    assert normalise(" Ｗhales\u00a0 SING\n\n") == "whales sing"
    assert segment_id("Whales  sing\n") == segment_id("whales SING")
    assert segment_id("whales sing") != segment_id("whales sang")
    assert len(segment_id("\ud800")) == 32
    assert segment_id("whales sing") == "b77c1b7ca89e37ad2c4951b401e3a434"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("abc", "abc"), ("abcdefgh", "abcde"), ("a\0b\udfff", "a\ufffdb\ufffd"), ("😀" * 9, "😀" * 5)],
)
def test_storable(text, expected):
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
def test_section_gives_way_where_it_is_refused_and_not_too_short(header, text, expected):
    section = Section(header=header, text=text, start=0)
    assert gives_way(section, outcome_of(section, SETTINGS), SETTINGS) is expected
