"""Training examples: which pairs a model is finetuned on, in which direction, with which tag."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from humpback_ray import storage, tables
from humpback_ray.config.settings import PromptSettings
from humpback_ray.execution.stage import Context, Result
from humpback_ray.method import prompts
from humpback_ray.rows import Direction, Origin, SeedPair, TrainingExample


def run_seed(context: Context, *, seed: str, direction: Direction, tags: PromptSettings) -> Result:
    """Examples of M_yx (reversed pairs) or of M_0 (pairs as they are), from the seed alone."""
    examples = list(of_seed(tables.read_rows(seed, SeedPair), direction, tags))
    storage.delete(context.path("rows"))
    tables.write_rows(context.path("rows"), examples, TrainingExample)
    return Result(len(examples), {Origin.SEED.value: len(examples)})


def of_seed(
    pairs: Iterable[SeedPair], direction: Direction, tags: PromptSettings
) -> Iterator[TrainingExample]:
    """Seed pairs as examples with the tag S_a, in one direction."""
    for pair in pairs:
        if direction is Direction.BACKWARD:
            prompt, completion = prompts.backward_prompt(pair.response), pair.instruction
        else:
            prompt, completion = pair.instruction, pair.response
        yield TrainingExample(
            f"{Origin.SEED}-{pair.pair_id}", prompt, tags.seed_tag, completion, Origin.SEED
        )
