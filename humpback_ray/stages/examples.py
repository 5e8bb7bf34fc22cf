"""Training examples from the seed alone: for M_yx (reversed pairs) and for M_0.

M_0 sees the safety pairs and M_yx does not: it learns which request a good answer is for, and a
refusal fits nearly every harmful request, so it would teach M_yx to write such requests for
ordinary web text. The candidates then depend on no safety file either.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

from humpback_ray import storage, tables
from humpback_ray.execution.stage import Context, Part, Result, Stage
from humpback_ray.method import prompts
from humpback_ray.rows import Direction, Origin, SeedPair, TrainingExample


@dataclass(frozen=True, kw_only=True)
class SeedExamples(Stage):
    """Seed pairs as examples with the tag S_a, in one direction."""

    kind: ClassVar[str] = "seed-examples"
    version: ClassVar[int] = 1
    part: ClassVar[Part] = "finetune"

    seed: Stage
    direction: Direction
    tag: str
    safety: Stage | None = None  # more pairs; forward only

    def unread(self) -> set[str]:
        """The safety pairs where there are none."""
        return set() if self.safety else {"safety"}

    def wording(self) -> dict[str, str]:
        """The backward request, in the backward direction."""
        template = prompts.BACKWARD_TEMPLATE.template
        return {"template": template if self.direction is Direction.BACKWARD else ""}

    def run(self, context: Context) -> Result:
        """Write one example for each pair."""
        assert not (self.safety and self.direction is Direction.BACKWARD), self.path
        storage.delete(context.path("rows"))
        outcomes = write_seed_examples(context, self.seed, self.safety, self.direction, self.tag)
        assert sum(outcomes.values()) == tables.assert_unique(context.path("rows"), "example_id")
        return Result(sum(outcomes.values()), outcomes)


def write_seed_examples(
    context: Context, seed: Stage, safety: Stage | None, direction: Direction, tag: str
) -> dict[str, int]:
    """Add the pairs of seed and safety file to a stage's rows; returns their numbers by origin."""
    stages = {Origin.SEED: seed, **({Origin.SAFETY: safety} if safety else {})}
    numbers = {}
    for origin, stage in stages.items():
        pairs = tables.read_rows(context.of(stage, "rows"), SeedPair)
        examples = seed_examples(pairs, direction, tag, origin)
        tables.write_rows(context.path("rows"), examples, TrainingExample, name=origin.value)
        numbers[origin.value] = len(pairs)
    return numbers


def seed_examples(
    pairs: Iterable[SeedPair], direction: Direction, tag: str, origin: Origin = Origin.SEED
) -> Iterator[TrainingExample]:
    """Seed pairs as examples with a tag, in one direction."""
    for pair in pairs:
        if direction is Direction.BACKWARD:
            prompt, completion = prompts.backward_prompt(pair.response), pair.instruction
        else:
            prompt, completion = pair.instruction, pair.response
        yield TrainingExample(f"{origin}-{pair.pair_id}", prompt, tag, completion, origin)
