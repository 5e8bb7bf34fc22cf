"""Training examples from the seed alone: for M_yx (reversed pairs) and for M_0.

M_0 sees safety pairs and ratings, and M_yx does not: it learns which request a good answer is for.
A refusal fits nearly every harmful request, so it would teach M_yx to write such requests for
ordinary web text. The candidates then depend on neither file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from humpback_ray import storage, tables
from humpback_ray.execution.stage import Context, Part, Result, Stage
from humpback_ray.method import prompts
from humpback_ray.rows import Direction, Origin, SeedPair, TrainingExample


@dataclass(frozen=True, kw_only=True)
class HumanExamples(Stage):
    """Base of the stages that write training examples from what people have written."""

    seed: Stage
    safety: Stage | None = None  # more pairs; forward only
    ratings: Stage | None = None  # examples of the rating prompt; forward only
    rating_share: float | None = None  # of all examples; None: each rating once

    def unread(self) -> set[str]:
        """Safety pairs, ratings and their share where there are none."""
        names = ("safety", "ratings", "rating_share")
        return {name for name in names if getattr(self, name) is None}

    def write_human_examples(
        self, context: Context, direction: Direction, tag: str, *, num_web: int = 0
    ) -> dict[str, int]:
        """Add them to the rows; returns the numbers of examples by origin.

        Args:
            num_web: selected pairs beside them, which the share of the ratings counts.
        """
        examples: dict[Origin, Sequence[TrainingExample]] = {}
        for origin, stage in ((Origin.SEED, self.seed), (Origin.SAFETY, self.safety)):
            if stage:
                pairs = tables.read_rows(context.of(stage, "rows"), SeedPair)
                examples[origin] = list(seed_examples(pairs, direction, tag, origin))
        if self.ratings:
            ratings = tables.read_rows(context.of(self.ratings, "rows"), TrainingExample)
            num_others = num_web + sum(map(len, examples.values()))
            number = num_repeats(len(ratings), num_others, self.rating_share)
            examples[Origin.RATING] = list(repeated(ratings, number))
        for origin, rows in examples.items():
            tables.write_rows(context.path("rows"), rows, TrainingExample, name=origin.value)
        return {origin.value: len(rows) for origin, rows in examples.items()}


@dataclass(frozen=True, kw_only=True)
class SeedExamples(HumanExamples):
    """Seed pairs as examples with the tag S_a, in one direction."""

    kind: ClassVar[str] = "seed-examples"
    version: ClassVar[int] = 1
    part: ClassVar[Part] = "finetune"

    direction: Direction
    tag: str

    def wording(self) -> dict[str, str]:
        """The backward request, in the backward direction."""
        template = prompts.BACKWARD_TEMPLATE.template
        return {"template": template if self.direction is Direction.BACKWARD else ""}

    def run(self, context: Context) -> Result:
        """Write one example for each pair."""
        more = self.safety or self.ratings
        assert not (more and self.direction is Direction.BACKWARD), self.path
        storage.delete(context.path("rows"))
        outcomes = self.write_human_examples(context, self.direction, self.tag)
        assert sum(outcomes.values()) == tables.assert_unique(context.path("rows"), "example_id")
        return Result(sum(outcomes.values()), outcomes)


def num_repeats(num_ratings: int, num_others: int, share: float | None) -> int:
    """How often each rating is an example, so that they are about this share of all; 1 or more."""
    if share is None or not num_ratings:
        return 1
    return max(round(num_others * share / (1 - share) / num_ratings), 1)


def repeated(examples: Sequence[TrainingExample], number: int) -> Iterator[TrainingExample]:
    """Each example so many times, every time with an id of its own."""
    for example in examples:
        yield example
        for n in range(2, number + 1):
            yield replace(example, example_id=f"{example.example_id}-{n}")


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
