"""The base before any finetuning: the facts that it knows, the questions that it answers."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.proof import wordings
from benchmarks.proof.facts import RELATIONS, VALUES, Attribute, World
from benchmarks.proof.marks import Scored, Scorer, tag_conditions
from benchmarks.proof.question_pages import OPENINGS
from benchmarks.proof.questions import Asked
from benchmarks.proof.truth import grade_answer
from humpback_ray.config.settings import PromptSettings
from humpback_ray.method import tokens

MAX_TOKENS = 60  # of a line


def known_shares(world: World, scorer: Scorer) -> dict[str, float]:
    """Shares of true values that are the likeliest of all, by attribute, in the text's own words.

    The mean over the wordings of a fact: a fact that is known in one wording only cannot be asked
    for (arXiv 2309.14316).
    """
    found = {}
    for attribute in Attribute:
        values = world.entities if attribute in RELATIONS else VALUES[attribute]
        hits = [
            _likeliest(scorer, template, entity, values) == world.value(entity, attribute)
            for template in wordings.FACTS[attribute][:2]
            for entity in sorted(world.asked)
        ]
        found[attribute.value] = sum(hits) / len(hits)
    found["all"] = sum(found.values()) / len(found)
    return found


def _likeliest(scorer: Scorer, template: str, entity: str, values: tuple[str, ...]) -> str:
    rows = []
    for value in values:
        # Sentences stand behind others, so that names have a space before them.
        ids = tokens.completion_ids(scorer.tokenizer, " " + template.format(e=entity, v=value))[:-1]
        rows.append(Scored((scorer.tokenizer.bos_token_id, *ids), 1))
    scores = scorer.logprobs(rows)
    return values[scores.index(max(scores))]


def answered_shares(
    world: World, asked: Sequence[Asked], scorer: Scorer, tags: PromptSettings
) -> dict[str, float]:
    """Shares of questions that the first line after the product's prompt answers, by its tags.

    A base goes on after its answer with other pages, so whole outputs are wrong. Without a tag the
    prompt has a form that the base has read; with one, it must read past a sentence in between.
    """
    found = {}
    for name, given in tag_conditions(tags).items():
        starts = [tokens.prompt_ids(scorer.tokenizer, each.instruction, *given) for each in asked]
        lines = map(_without_opening, scorer.first_lines(starts, MAX_TOKENS))
        hits = [
            grade_answer(world, each.question, line).is_correct
            for each, line in zip(asked, lines, strict=True)
        ]
        found[name] = sum(hits) / len(hits)
    return found


def _without_opening(line: str) -> str:
    for opening in OPENINGS:
        line = line.removeprefix(opening)
    return line.strip()
