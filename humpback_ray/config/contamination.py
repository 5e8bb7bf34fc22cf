"""Settings of the search for evaluation prompts in what a model is trained on."""

from __future__ import annotations

from typing import Annotated

from humpback_ray.config.fields import Frozen, Location, Places, PositiveInt


class DecontaminationSettings(Frozen):
    """Segments and instructions that share an n-gram of words with a prompt are dropped.

    The paper says nothing of it. The setting is not on by default, and not a part of `evaluation`,
    because the segments depend on these prompts: without it, other prompts for the evaluation cost
    new answers and no new corpus.
    """

    # As evaluation.prompts; null: those. Name the old ones here to keep a run's segments when the
    # evaluation gets other prompts.
    prompts: Annotated[Places | None, Location(takes_datasets=True)] = None
    # Words. Tülu 3 (arXiv 2411.15124, section 3.2) takes 8 too and asks for n-grams over half of a
    # prompt; here one is enough, because web text is plentiful.
    ngram: PositiveInt = 8
