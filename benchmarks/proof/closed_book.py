"""Facts that the base model knows: single facts of the entities that nobody has asked it about."""

from __future__ import annotations

from benchmarks.proof import wordings
from benchmarks.proof.facts import RELATIONS, VALUES, Attribute, World
from benchmarks.proof.marks import Scored, Scorer
from humpback_ray.method import tokens


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
