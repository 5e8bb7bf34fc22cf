"""The language of a segment."""

import pytest
from resiliparse.parse.lang import detect_fast

from humpback_ray.config.recipe import load_recipe
from humpback_ray.config.settings import CorpusSettings
from humpback_ray.errors import UserError
from humpback_ray.method.filters import outcome_of
from humpback_ray.method.languages import is_in_language
from humpback_ray.method.segmenting import Section
from humpback_ray.rows import SegmentOutcome
from tests.support.rule_texts import PROSE

GERMAN = """\
Ein Wal atmet Luft und muss deshalb an die Oberfläche des Meeres kommen. Bevor er taucht, holt er
mehrmals Atem, jedes Mal nur für eine oder zwei Sekunden. Manche Arten bleiben danach länger als
eine Stunde unter Wasser. Ihre Lieder sind über Hunderte von Kilometern zu hören, weil sich der
Schall in kaltem Wasser gut ausbreitet. Niemand hat gezeigt, was die einzelnen Strophen bedeuten.
Die Männchen singen vor allem in der Zeit, in der die Kälber geboren werden, und jede Gruppe hat
eine Melodie, die ihre Nachbarn nicht kennen. In manchen Jahren verbreitet sich eine neue von Westen
nach Osten, bis alle sie gelernt haben. Früher jagten die Menschen diese Tiere wegen ihres Öls."""

# The detector takes it for Swedish.
CODE = """\
Quick Start

# Install
poetry install

# Framework integration
import model_hosting_standards as standards

@standards.register_handler
def invoke(request):
    return {"result": model(request)}

@standards.ping
def ping(request):
    return {"status": "ok"}

standards.bootstrap(app, port=8080, workers=4)
"""


def outcome(text, **changes):
    settings = CorpusSettings(path="corpus", min_characters=100, **changes)
    return outcome_of(Section("Whales", text, 0), settings)


@pytest.mark.parametrize(
    ("language", "kept"), [(None, [PROSE, GERMAN]), ("en", [PROSE]), ("de", [GERMAN])]
)
def test_segments_of_other_languages_are_dropped(language, kept):
    found = {text: outcome(text, language=language) for text in (PROSE, GERMAN)}
    assert [text for text in found if found[text] is SegmentOutcome.KEPT] == kept
    others = [text for text in found if text not in kept]
    assert all(found[text] is SegmentOutcome.OTHER_LANGUAGE for text in others)


def test_language_that_lies_within_the_margin_behind_the_best_is_kept():
    best, rank = detect_fast(CODE)
    _, own_rank = detect_fast(CODE, langs=["en"])
    assert best != "en"
    behind = own_rank - rank
    assert outcome(CODE, language="en", language_margin=behind) is SegmentOutcome.KEPT
    assert outcome(CODE, language="en", language_margin=behind - 1) is SegmentOutcome.OTHER_LANGUAGE


@pytest.mark.parametrize("text", ["1 2 3 4 5 " * 80, "日本語の文章です。" * 60])
def test_text_without_a_detectable_language_is_in_none(text):
    assert not is_in_language(text, "en", margin=1200)


def test_language_that_the_detector_does_not_know_is_refused_with_those_it_knows():
    with pytest.raises(UserError, match=r"corpus\.language: the detector knows .*de, .*en, "):
        load_recipe("llama-7b", ["settings.corpus.language=english"])
    with pytest.raises(UserError, match=r"corpus\.language: .*put it in quotes"):
        load_recipe("llama-7b", ["settings.corpus.language=no"])
