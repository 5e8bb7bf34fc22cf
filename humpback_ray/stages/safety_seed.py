"""The safety pairs: a second seed file, of which forward models see a share of their own.

A stage apart from the seed, because M_yx and the candidates do not depend on it: another safety
file costs the trainings of the forward models again, and no generation of instructions.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

from humpback_ray import tables
from humpback_ray.config.placement import Placement
from humpback_ray.config.settings import SafetySeedSettings, Settings
from humpback_ray.corpus.hub_datasets import datasets_read
from humpback_ray.corpus.seed_formats import read_seeds
from humpback_ray.corpus.seed_rows import check_seed
from humpback_ray.errors import UserError
from humpback_ray.execution.sources import file_source
from humpback_ray.execution.stage import Context, Part, Result, Source, Stage
from humpback_ray.method import filters
from humpback_ray.rows import DroppedSeed, SeedOutcome, SeedPair
from humpback_ray.stages.seed import shuffle_key, without_texts_of

KEY = "settings.seed.safety"


@dataclass(frozen=True, kw_only=True)
class SafetySeed(Stage):
    """Pairs of the safety file that the forward models train on, and dropped ones with reasons."""

    kind: ClassVar[str] = "safety-seed"
    version: ClassVar[int] = 2  # repeated pairs of Open Assistant
    part: ClassVar[Part] = "prepare"

    safety_file: Source
    seed: Stage
    settings: SafetySeedSettings
    language: str
    random_seed: int

    def check(self, placement: Placement) -> None:
        """Refuse a dataset that is not reached."""
        for place in self.safety_file.places:
            check_seed(place, f"{KEY}.path")

    def run(self, context: Context) -> Result:
        """Write `rows` (trained on) and `dropped`."""
        path, places = self.safety_file.location, self.safety_file.places
        content = read_seeds(places, self.language, f"{KEY}.path")
        pairs, dropped = content.pairs, content.dropped
        trained, held_out = (
            tables.read_rows(context.of(self.seed, name), SeedPair) for name in ("rows", "held_out")
        )
        apart, shared = without_texts_of(held_out, pairs)
        known = set(map(_texts, trained))
        new = [pair for pair in apart if _texts(pair) not in known]
        if not new:
            reason = content.problem or "each is in the seed or held out"
            raise UserError(f"{path} ({KEY}.path) has no pair to train on: {reason}")
        new.sort(key=lambda pair: shuffle_key(self.random_seed, pair.pair_id))
        number = self._number(len(trained), len(new), path)
        repeated = [pair for pair in apart if _texts(pair) in known]
        for outcome, some in (
            (SeedOutcome.HELD_OUT_TEXT, shared),
            (SeedOutcome.IN_SEED, repeated),
            (SeedOutcome.SURPLUS, new[number:]),
        ):
            dropped += [DroppedSeed(pair.pair_id, outcome, pair.instruction) for pair in some]
        tables.write_rows(context.path("rows"), new[:number], SeedPair)
        tables.write_rows(context.path("dropped"), dropped, DroppedSeed)
        outcomes = Counter(row.outcome.value for row in dropped)
        outcomes[SeedOutcome.KEPT.value] = number
        share = number / (number + len(trained))
        figures = {**content.figures, **datasets_read(places, f"{KEY}.path")}
        return Result(outcomes.total(), outcomes, {"share": round(share, 4), **figures})

    def _number(self, num_seed: int, num_there: int, path: str) -> int:
        """Pairs that make up the share of all human pairs, one at least."""
        share = self.settings.share
        if share is None:
            return num_there
        number = max(round(share * num_seed / (1 - share)), 1)
        if number > num_there:
            most = math.floor(1000 * num_there / (num_there + num_seed)) / 1000
            lower = f"lower the share to {most:g}, " if most else ""
            raise UserError(
                f"{KEY}.share={share:g} needs {number:,} pairs beside the seed's {num_seed:,}, and "
                f"{path} has {num_there:,}: add pairs, {lower}or leave the share out, which takes "
                "all of them"
            )
        return number


def safety_seed(s: Settings, seed: Stage) -> SafetySeed | None:
    """The safety pairs of a recipe; None if it names no file of them."""
    if s.seed.safety is None:
        return None
    file = file_source(s.seed.safety.path, "safety seed file", f"{KEY}.path")
    return SafetySeed(
        path="safety-seed", safety_file=file, seed=seed, settings=s.seed.safety,
        language=s.seed.language, random_seed=s.random_seed,
    )  # fmt: skip


def _texts(pair: SeedPair) -> tuple[str, str]:
    return filters.normalise(pair.instruction), filters.normalise(pair.response)
