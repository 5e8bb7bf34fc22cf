"""Root verbs and their direct objects, by a spaCy model where one is installed.

The paper shows the diversity of instructions by them (arXiv 2308.06259, figure 5), as Self-Instruct
does (arXiv 2212.10560, section 2.4).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any

from humpback_ray.errors import UserError
from humpback_ray.figures.diversity_types import Verb, VerbFigures
from humpback_ray.figures.pair_sets import RunRows, sets_of

MAX_PARSED = 1_000  # instructions of each set; a parser reads a few hundred in a second
MAX_CHARACTERS = 300  # of an instruction: its first sentence is what counts
NUM_VERBS, NUM_OBJECTS = 20, 4
OPTION = "--parser"
INSTALL = (
    "install the extra `parser` of this package, and a spaCy model of English, such as "
    "en_core_web_sm of https://github.com/explosion/spacy-models"
)
OBJECTS = ("dobj", "obj")


def verbs_of(rows: RunRows, name: str | None) -> list[VerbFigures]:
    """The verbs of the seed, of A, and of each selection.

    Args:
        name: of a spaCy model; None: the first installed one of English.

    Raises:
        UserError: there is no such model, or no spaCy.
    """
    parser = load_parser(name)
    return [
        _figures(set_name, parser, [text for text, _ in pairs.drawn(MAX_PARSED)])
        for set_name, pairs in sets_of(rows).items()
        if pairs.size
    ]


@cache
def load_parser(name: str | None) -> Any:
    """A spaCy model with its parser.

    Raises:
        UserError: as in `verbs_of`.
    """
    try:
        import spacy
    except ImportError as error:
        raise UserError(f"spaCy, which parses English, is not installed: {INSTALL}") from error
    installed = sorted(spacy.util.get_installed_models())
    english = [each for each in installed if each.startswith("en")]
    if name is None and not english:
        raise UserError(f"spaCy has no model of English here: {INSTALL}")
    try:
        parser = spacy.load(name or english[0], exclude=["ner"])
    except (OSError, ValueError) as error:
        raise UserError(
            f"{OPTION} {name}: spaCy cannot load it; installed are {', '.join(installed) or 'none'}"
        ) from error
    if "parser" not in parser.pipe_names:
        raise UserError(f"{OPTION} {name}: this model has no parser of sentences")
    return parser


def _figures(name: str, parser: Any, texts: Sequence[str]) -> VerbFigures:
    pairs: Counter[tuple[str, str]] = Counter()
    for document in parser.pipe(text[:MAX_CHARACTERS] for text in texts):
        if found := _verb_and_object(document):
            pairs[found] += 1
    verbs: Counter[str] = Counter()
    for (verb, _), count in pairs.items():
        verbs[verb] += count
    shown = [
        Verb(verb, count, dict(_objects(pairs, verb).most_common(NUM_OBJECTS)))
        for verb, count in verbs.most_common(NUM_VERBS)
    ]
    model = f"{parser.meta['lang']}_{parser.meta['name']} {parser.meta['version']}"
    return VerbFigures(name, model, len(texts), pairs.total(), len(pairs), shown)


def _objects(pairs: Counter[tuple[str, str]], verb: str) -> Counter[str]:
    return Counter({thing: count for (of, thing), count in pairs.items() if of == verb})


def _verb_and_object(document: Any) -> tuple[str, str] | None:
    """Lemmas of the first sentence's root verb and its direct object; None without both."""
    sentence = next(iter(document.sents), None)
    if sentence is None or sentence.root.pos_ != "VERB":
        return None
    thing = next((child for child in sentence.root.children if child.dep_ in OBJECTS), None)
    return thing and (sentence.root.lemma_.lower(), thing.lemma_.lower())
