"""Rating examples: pairs with a person's grade, which teach the forward models to rate.

Self-Rewarding (arXiv 2401.10020) trains on such examples beside the seed, and its rater agrees with
people more often than one that has seen none. The paper of this method has none. A stage apart from
the seed, because M_yx and the candidates do not depend on it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import chain
from typing import Any, ClassVar

from humpback_ray import tables
from humpback_ray.config.placement import Placement
from humpback_ray.config.settings import Settings
from humpback_ray.corpus.hub_datasets import datasets_read
from humpback_ray.corpus.seed_formats import OUTPUTS, identifier_of, text_of
from humpback_ray.corpus.seed_rows import MAX_SHOWN, SeedRow, check_seed, read_seed_rows
from humpback_ray.errors import UserError
from humpback_ray.execution.sources import file_source
from humpback_ray.execution.stage import Context, Part, Result, Source, Stage
from humpback_ray.method import filters, prompts
from humpback_ray.rows import DroppedSeed, Origin, SeedOutcome, TrainingExample

KEY = "settings.seed.ratings"
FORMAT = (
    "rows with instruction, output or response, score, and a rationale where the rater gives one"
)


@dataclass(frozen=True, kw_only=True)
class RatingSeed(Stage):
    """Rated pairs as examples of the rating prompt, and dropped ones with reasons."""

    kind: ClassVar[str] = "rating-seed"
    version: ClassVar[int] = 1
    part: ClassVar[Part] = "prepare"

    ratings_file: Source
    template: str
    grades: tuple[int, ...]
    reasons: bool  # the rationale stands before the score

    def wording(self) -> dict[str, str]:
        """The sentence that asks for the score, and the beginning of its line."""
        answer_format = prompts.REASON_THEN_SCORE if self.reasons else prompts.SCORE_ONLY
        return {"answer_format": answer_format, "score_line": prompts.SCORE_LINE}

    def check(self, placement: Placement) -> None:
        """Refuse a dataset that is not reached."""
        for place in self.ratings_file.places:
            check_seed(place, KEY)

    def run(self, context: Context) -> Result:
        """Write `rows` (trained on) and `dropped`.

        Raises:
            UserError: a file that is not there, damaged or without these columns, or no row to
                train on.
        """
        path, places = self.ratings_file.location, self.ratings_file.places
        examples: dict[str, TrainingExample] = {}
        dropped: list[DroppedSeed] = []
        for row in chain.from_iterable(read_seed_rows(place, FORMAT, KEY) for place in places):
            identifier, example, outcome = self._read(row)
            if identifier in examples:
                outcome = SeedOutcome.REPEATED
            if outcome is SeedOutcome.KEPT:
                examples[identifier] = example
            else:
                text = filters.storable(text_of(row.values["instruction"]), MAX_SHOWN)
                dropped.append(DroppedSeed(identifier, outcome, text))
        outcomes = Counter(row.outcome.value for row in dropped)
        if not examples:
            counts = ", ".join(f"{n} {name}" for name, n in sorted(outcomes.items())) or "no row"
            raise UserError(f"{path} ({KEY}) has no rating to train on: {counts}")
        outcomes[SeedOutcome.KEPT.value] = len(examples)
        tables.write_rows(context.path("rows"), examples.values(), TrainingExample)
        tables.write_rows(context.path("dropped"), dropped, DroppedSeed)
        scores = Counter(example.completion[-1] for example in examples.values())
        figures: dict[str, Any] = {"scores": dict(sorted(scores.items()))}
        return Result(outcomes.total(), outcomes, {**figures, **datasets_read(places, KEY)})

    def _read(self, row: SeedRow) -> tuple[str, TrainingExample, SeedOutcome]:
        """A row's id, its example, and what speaks against it."""
        values = row.values
        has_output = any(name in values for name in OUTPUTS)
        if not ("instruction" in values and has_output and "score" in values):
            keys = ", ".join(map(repr, values)) or "none"
            raise UserError(f"{row.place} has the keys {keys}: the file must hold {FORMAT} ({KEY})")
        instruction = text_of(values["instruction"])
        response = next(filter(None, (text_of(values.get(name)) for name in OUTPUTS)), "")
        rationale = text_of(values.get("rationale")) if self.reasons else ""
        score = _grade(values["score"])
        prompt = prompts.rating_prompt(
            prompts.rating_template(self.template), instruction, response, reasoning=self.reasons
        )
        completion = "\n".join(filter(None, [rationale, f"{prompts.SCORE_LINE} {score}"]))
        identifier = identifier_of(instruction, response)
        example = TrainingExample(
            f"{Origin.RATING}-{identifier}", prompt, "", completion, Origin.RATING
        )
        return identifier, example, self._outcome(instruction, response, score, rationale)

    def _outcome(
        self, instruction: str, response: str, score: int | None, rationale: str
    ) -> SeedOutcome:
        texts = (instruction, response, rationale)
        if not instruction or not response:
            return SeedOutcome.EMPTY_TEXT
        if any(map(filters.has_invalid_characters, texts)):
            return SeedOutcome.INVALID_CHARACTERS
        if score not in self.grades:
            return SeedOutcome.NO_GRADE
        if self.reasons and not rationale:
            return SeedOutcome.NO_RATIONALE
        return SeedOutcome.KEPT


def rating_seed(s: Settings, template: str) -> RatingSeed | None:
    """The rating examples of a recipe; None if it names no file of them.

    Args:
        template: the rating prompt that the forward models get.
    """
    if s.seed.ratings is None:
        return None
    return RatingSeed(
        path="rating-seed", ratings_file=file_source(s.seed.ratings, "file of ratings", KEY),
        template=template, grades=tuple(s.rating.grades), reasons=s.rating.reasons,
    )  # fmt: skip


def _grade(value: object) -> int | None:
    """A whole number, also where JSON or Parquet has it as a float or a text."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str) and value.strip().isascii() and value.strip().isdigit():
        value = float(value)
    if isinstance(value, int | float) and float(value).is_integer():
        return int(value)
    return None
