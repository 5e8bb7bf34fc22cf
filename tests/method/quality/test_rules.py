"""Every rule of the named sets: a text just inside and one just outside of its number."""

import pytest

from humpback_ray.config.settings import CorpusSettings
from humpback_ray.method.filters import outcome_of
from humpback_ray.method.quality import c4, fineweb, forms, gopher
from humpback_ray.method.quality.rules import first_broken
from humpback_ray.method.quality.text import Text
from humpback_ray.method.segmenting import Section
from humpback_ray.rows import SegmentOutcome as Outcome
from tests.support.rule_texts import PROSE, lines, repeated, words

RULES = {
    rule.outcome: rule for rule in (*gopher.RULES, *c4.RULES, *fineweb.RULES, *forms.RULES.values())
}


def joined(*parts):
    return " ".join(word for part in parts for word in part)


def paragraphs(text):
    return text.replace("\n", "\n\n")


SENTENCE = "The whale sings a song."  # five words

# Outcome of the rule, a text that it keeps with its measure, a text that it drops with its measure.
CASES = [
    (Outcome.GOPHER_WORDS, joined(words(50)), 50, joined(words(49)), 49),
    (Outcome.GOPHER_WORDS, "w " * 100_000, 100_000, "w " * 100_001, 100_001),
    (Outcome.GOPHER_WORD_LENGTH, joined(words(100, 3)), 3, joined(words(99, 3), ["of"]), 2.99),
    (Outcome.GOPHER_WORD_LENGTH, joined(words(100, 10)), 10,
     joined(words(99, 10), words(1, 11)), 10.01),
    (Outcome.GOPHER_HASHES, joined(words(99), ["#" * 10]), 0.1,
     joined(words(98), ["#" * 10, "c#"]), 0.11),
    (Outcome.GOPHER_ELLIPSES, joined(words(99), ["a..." * 10]), 0.1,
     joined(words(98), ["a..." * 5, "b…" * 6]), 0.11),
    (Outcome.GOPHER_BULLET_LINES, lines([(9, "- {}"), (1, "{}")]), 0.9,
     lines([(10, "- {}"), (6, "• {}"), (3, "  * {}"), (1, "{}")]), 0.95),
    (Outcome.GOPHER_ELLIPSIS_LINES, lines([(3, "{}..."), (7, "{}.")]), 0.3,
     lines([(2, "{}..."), (2, "{}… "), (6, "{}.")]), 0.4),
    (Outcome.GOPHER_ALPHABETIC_WORDS, joined(words(79), ["b2"], ["12"] * 20), 0.8,
     joined(words(79), ["--"], ["12"] * 20), 0.79),
    (Outcome.GOPHER_STOP_WORDS, "Whales sing to “The” moon", 2, "the the THE other", 1),
    (Outcome.GOPHER_LINES, lines([(7, "{}")]) + "\nx" * 4, 3 / 11, lines([(6, "{}")]) + "\nx" * 5,
     4 / 11),
    (Outcome.GOPHER_LINES, lines([(6, "{}")]) + "\nx" * 4, 0.3, lines([(5, "{}")]) + "\nx\n" * 5,
     0.4),
    (Outcome.GOPHER_PARAGRAPHS, paragraphs(lines([(6, "{}")]) + "\nx" * 4), 0.3,
     paragraphs(lines([(5, "{}")]) + "\nx" * 5), 0.4),
    (Outcome.GOPHER_LINE_CHARACTERS, "\n".join(["a" * 20, "a" * 20, "b" * 60]), 0.2,
     "\n".join(["a" * 21, "a" * 21, "b" * 58]), 0.21),
    (Outcome.GOPHER_PARAGRAPH_CHARACTERS, "\n\n".join(["a" * 20, "a" * 20, "b" * 60]), 0.2,
     "\n\n".join(["a" * 21, "a" * 21, "b" * 58]), 0.21),
    (Outcome.GOPHER_TOP_2_GRAM, repeated(2, 1, 20), 0.2, repeated(2, 1, 19), 4 / 19),
    (Outcome.GOPHER_TOP_3_GRAM, repeated(3, 2, 50), 0.18, repeated(3, 2, 49), 9 / 49),
    (Outcome.GOPHER_TOP_4_GRAM, repeated(4, 1, 50), 0.16, repeated(4, 1, 49), 8 / 49),
    (Outcome.GOPHER_5_GRAMS, repeated(5, 3, 100), 0.15, repeated(5, 3, 99), 15 / 99),
    (Outcome.GOPHER_6_GRAMS, repeated(6, 7, 300), 0.14, repeated(6, 7, 299), 42 / 299),
    (Outcome.GOPHER_7_GRAMS, repeated(7, 13, 700), 0.13, repeated(7, 13, 699), 91 / 699),
    (Outcome.GOPHER_8_GRAMS, repeated(8, 3, 200), 0.12, repeated(8, 3, 199), 24 / 199),
    (Outcome.GOPHER_9_GRAMS, repeated(9, 11, 900), 0.11, repeated(9, 11, 899), 99 / 899),
    (Outcome.GOPHER_10_GRAMS, repeated(10, 1, 100), 0.1, repeated(10, 1, 99), 10 / 99),
    (Outcome.C4_LOREM_IPSUM, "Lorem, ipsum", 0, "So: Lorem Ipsum dolor", 1),
    (Outcome.C4_CURLY_BRACKET, "f(x) [y]", 0, "a }", 1),
    (Outcome.C4_SENTENCES, f"{SENTENCE} Why? It can.", 3, f"{SENTENCE} It can, e.g. at sea.", 2),
    (Outcome.C4_SENTENCES, "\n".join([SENTENCE] * 3), 3,
     "\n".join([SENTENCE, SENTENCE, "Four words, not more."]), 2),
    (Outcome.FINEWEB_LINE_ENDS, lines([(13, "{}."), (87, "{}")]), 0.13,
     lines([(12, "{}?"), (88, "{},")]), 0.12),
    (Outcome.FINEWEB_DUPLICATE_LINES, "\n".join(["a" * 9, "a" * 9, "b" * 82]), 0.09,
     "\n".join(["a" * 10, "a" * 10, "b" * 80]), 0.1),
    (Outcome.FINEWEB_SHORT_LINES, lines([(66, "{}" + "a" * 25), (34, "{}" + "a" * 26)]), 0.66,
     lines([(67, "{}" + "a" * 25), (33, "{}" + "a" * 26)]), 0.67),
    (Outcome.FINEWEB_LINE_BREAKS, "a b c\n\nd e f\n\ng h\ni j", 0.3,
     "a b\nc d\ne f\ng h\ni j", 0.4),
    (Outcome.FORM_LIST, lines([(3, "- {}"), (2, "12. {}"), (5, "{}")]), 0.5,
     lines([(3, "• {}"), (3, "(1) {}"), (4, "{}")]), 0.6),
    (Outcome.FORM_HOW_TO, "Step 1: dive\nStep by step", 1, "First, dive\nthen, eat\n- Step 3", 3),
    (Outcome.FORM_HOW_TO, "Whales\n\nHow to feed them", 0, "How do whales sing?\n\nLoudly", 3),
    (Outcome.FORM_FIRST_PERSON, joined(words(96), ["I", "I’ve", "my", "(me)"]), 0.04,
     joined(words(95), ["I", "I’ve", "my", "(me)", "Myself."]), 0.05),
]  # fmt: skip


@pytest.mark.parametrize(("outcome", "inside", "kept", "outside", "dropped"), CASES)
def test_rule_keeps_a_text_at_its_number_and_drops_one_beyond(
    outcome, inside, kept, outside, dropped
):
    rule = RULES[outcome]
    assert rule.measure(Text(inside)) == pytest.approx(kept)
    assert rule.measure(Text(outside)) == pytest.approx(dropped)
    assert first_broken(inside, [rule]) is None
    assert first_broken(outside, [rule]) is outcome


def test_every_rule_has_a_case_and_an_outcome_of_its_own():
    names = ("gopher_", "c4_", "fineweb_", "form_")
    outcomes = {outcome for outcome in Outcome if outcome.value.startswith(names)}
    assert outcomes == RULES.keys() == {case[0] for case in CASES}
    assert len(gopher.RULES) + len(c4.RULES) + len(fineweb.RULES) + len(forms.RULES) == len(RULES)


@pytest.mark.parametrize(
    "line",
    [
        "The whale sings a song",
        "The whale sings a song...",
        "Please turn on JavaScript to sing.",
        "We use cookies, as whales do.",
        "See our Terms of Use and sing.",
    ],
)
def test_sentences_of_lines_that_c4_takes_out_do_not_count(line):
    assert c4.num_sentences(Text(f"{SENTENCE}\n{line}")) == 1


@pytest.mark.parametrize("text", ["", " \n\n ", "#"])
def test_text_without_words_has_measures(text):
    for rule in RULES.values():
        assert rule.measure(Text(text)) >= 0


def test_measure_of_repeated_ngrams_does_not_depend_on_those_asked_before():
    text = Text(repeated(7, 2, 60))
    found = [text.share_in_repeated_ngrams(n) for n in (10, 8, 7, 6, 5)]
    assert found == [0, 0, *(Text(text.text).share_in_repeated_ngrams(n) for n in (7, 6, 5))]
    assert found[2:] == pytest.approx([14 / 60] * 3)


def test_overlapping_repeated_ngrams_count_their_characters_once():
    assert Text("a b " * 10).share_in_repeated_ngrams(5) == pytest.approx(18 / 20)


# --- sets of rules by name ----------------------------------------------------------------------

GOOD = " ".join(f"The whale of the {word} sings to its calf with care." for word in words(12))


def outcome(text, **rules):
    settings = CorpusSettings(path="corpus", **rules)
    return outcome_of(Section("Whales", text, 0), settings)


def test_no_set_is_on_by_default():
    assert outcome(GOOD + " {lorem ipsum}") is Outcome.KEPT


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ({"quality_rules": ["c4"]}, Outcome.C4_CURLY_BRACKET),
        ({"quality_rules": ["fineweb"]}, Outcome.FINEWEB_DUPLICATE_LINES),
        ({"quality_rules": ["fineweb", "gopher"]}, Outcome.GOPHER_HASHES),
        ({"form_rules": ["first_person", "list"]}, Outcome.FORM_LIST),
        ({"form_rules": ["first_person"]}, Outcome.KEPT),
        ({"quality_rules": ["c4"], "form_rules": ["list"]}, Outcome.C4_CURLY_BRACKET),
    ],
)
def test_named_sets_give_the_outcome_of_their_first_broken_rule(rules, expected):
    text = GOOD + " {}" + "\n- # whale." * 60
    assert outcome(text, **rules) is expected


def test_prose_breaks_no_rule_of_any_set():
    rules = {"quality_rules": ["gopher", "c4", "fineweb"]}
    assert outcome(PROSE, **rules, form_rules=["list", "how_to", "first_person"]) is Outcome.KEPT


def test_sets_in_another_order_are_the_same_settings():
    one, other = (CorpusSettings(path="corpus", quality_rules=names).identity()
                  for names in (["c4", "gopher"], ["gopher", "c4"]))  # fmt: skip
    assert one == other
