"""Training examples from the seed alone: for M_yx (reversed pairs) and for M_0."""

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

    def wording(self) -> dict[str, str]:
        """The backward request, in the backward direction."""
        template = prompts.BACKWARD_TEMPLATE.template
        return {"template": template if self.direction is Direction.BACKWARD else ""}

    def run(self, context: Context) -> Result:
        """Write one example for each pair."""
        pairs = tables.read_rows(context.of(self.seed, "rows"), SeedPair)
        examples = list(seed_examples(pairs, self.direction, self.tag))
        storage.delete(context.path("rows"))
        tables.write_rows(context.path("rows"), examples, TrainingExample)
        return Result(len(examples), {Origin.SEED.value: len(examples)})


def seed_examples(
    pairs: Iterable[SeedPair], direction: Direction, tag: str
) -> Iterator[TrainingExample]:
    """Seed pairs as examples with a tag, in one direction."""
    for pair in pairs:
        if direction is Direction.BACKWARD:
            prompt, completion = prompts.backward_prompt(pair.response), pair.instruction
        else:
            prompt, completion = pair.instruction, pair.response
        yield TrainingExample(f"{Origin.SEED}-{pair.pair_id}", prompt, tag, completion, Origin.SEED)
