"""Control arms that know the truth, and ablations: further models of a finished run.

An arm is a table of examples. The product finetunes the run's base on it and lets it answer the
same questions, as stages in the same run folder, so an arm repeats nothing else.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from benchmarks.proof.kinds import instruction
from benchmarks.proof.marks import tag_conditions
from benchmarks.proof.truth import read_instruction
from benchmarks.proof.web import Truth
from benchmarks.proof.wordings import NUM_KNOWN_WORDINGS
from humpback_ray import storage, tables
from humpback_ray.config.recipe import Recipe
from humpback_ray.config.settings import PromptSettings
from humpback_ray.corpus.files import content_identity, list_files
from humpback_ray.execution.stage import Source, Stage
from humpback_ray.method import prompts
from humpback_ray.rows import Direction, Origin, RatedPair, SeedPair, TrainingExample
from humpback_ray.stages.evaluate import Evaluate
from humpback_ray.stages.examples import num_repeats, repeated, seed_examples
from humpback_ray.stages.finetune import Finetune
from humpback_ray.stages.rate import Rate

Kind = TypeVar("Kind", bound=Stage)
RATED = "arms/rated"  # and the method

CORE = ("oracle", "random", "true_instructions")
ABLATIONS = ("web_only", "best_quarter", "best_double", "random_double")
RATINGS = ("expected", "text", "mean")  # methods by which M_0 rates the same pairs once more
TAGGED = tuple(tag_conditions(PromptSettings()))  # ways to ask, of which one is the run's own


@dataclass(frozen=True)
class Pool:
    """The rated pairs of the last iteration, and the truth about each."""

    pairs: Sequence[RatedPair]
    truths: Mapping[str, Truth]
    num_selected: int  # as many as the run selects

    def is_good(self, pair: RatedPair) -> bool:
        """True for a good section with an instruction that asks for what it says."""
        truth = self.truths[pair.segment_id]
        asked = read_instruction(pair.instruction)
        return truth.is_good and asked is not None and asked.means(truth.question)

    @property
    def whole(self) -> list[RatedPair]:
        """Pairs with a whole instruction, which alone can be selected."""
        return [pair for pair in self.pairs if pair.score is not None]

    def best(self, number: int) -> list[RatedPair]:
        """The pairs with the highest scores."""
        return sorted(self.whole, key=lambda pair: (-(pair.score or 0), pair.candidate_id))[:number]


def read_pool(run: str, recipe: Recipe, truths: Mapping[str, Truth]) -> Pool:
    """The pool of a finished run."""
    folder = storage.join(run, f"iter-{recipe.settings.iterations}", "rated", "rows")
    pairs = sorted(tables.read_rows(folder, RatedPair), key=lambda pair: pair.candidate_id)
    return Pool(pairs, truths, recipe.settings.selection.num_best)


def chosen_pairs(arm: str, pool: Pool, drawn: random.Random) -> list[tuple[str, str, str]]:
    """(candidate_id, instruction, answer) of an arm's web pairs, equally many in all core arms."""
    n = pool.num_selected
    if arm == "true_instructions":
        good = [pair for pair in pool.pairs if pool.truths[pair.segment_id].is_good]
        return [
            (pair.candidate_id, _true_instruction(pool, pair, drawn), pair.response)
            for pair in drawn.sample(good, min(n, len(good)))
        ]
    pairs = {
        "oracle": lambda: _sample([p for p in pool.whole if pool.is_good(p)], n, drawn),
        "random": lambda: _sample(pool.whole, n, drawn),
        "random_double": lambda: _sample(pool.whole, 2 * n, drawn),
        "web_only": lambda: pool.best(n),
        "best_quarter": lambda: pool.best(n // 4),
        "best_double": lambda: pool.best(2 * n),
    }[arm]()
    return [(pair.candidate_id, pair.instruction, pair.response) for pair in pairs]


def _sample(pairs: Sequence[RatedPair], number: int, drawn: random.Random) -> list[RatedPair]:
    return drawn.sample(pairs, min(number, len(pairs)))


def _true_instruction(pool: Pool, pair: RatedPair, drawn: random.Random) -> str:
    question = pool.truths[pair.segment_id].question
    return instruction(question, drawn.randrange(NUM_KNOWN_WORDINGS))


def arm_stages(
    arm: str, pool: Pool, recipe: Recipe, stages: Sequence[Stage], run: str
) -> list[Stage]:
    """Write an arm's examples, and declare its training and its answers."""
    folder = storage.join(run, "arms", arm, "examples")
    drawn = random.Random(f"{arm}/{recipe.settings.random_seed}")
    web_tag = recipe.settings.prompts.web_tag
    web = [
        TrainingExample(f"{Origin.WEB}-{name}", asked, web_tag, answer, Origin.WEB)
        for name, asked, answer in chosen_pairs(arm, pool, drawn)
    ]
    human = [] if arm == "web_only" else _human_examples(run, recipe, num_web=len(web))
    if not storage.exists(folder):
        tables.write_rows(folder, [*human, *web], TrainingExample)
    identity = content_identity(list_files(folder, (".parquet",), f"arm {arm}"))
    by_path = {stage.path: stage for stage in stages}
    model = replace(
        _of(by_path, "forward-0/model", Finetune), path=f"arms/{arm}/model",
        examples=Source(folder, identity),
    )  # fmt: skip
    answers = replace(
        _of(by_path, "evaluation/M_0", Evaluate), path=f"evaluation/{arm}", name=arm, model=model
    )
    return [model, answers]


def rating_stages(recipe: Recipe, stages: Sequence[Stage]) -> list[Rate]:
    """Declare ratings of the first iteration's pairs by M_0, each by another method than the run's.

    M_0 has learnt from the seed to rate by the run's own.
    """
    rated = _of({stage.path: stage for stage in stages}, "iter-1/rated", Rate)
    return [
        replace(
            rated, path=f"{RATED}-{method}",
            # A method that scores few pairs is a finding, and no reason to end the proof.
            settings=recipe.settings.rating.model_copy(
                update={"method": method, "min_scored_share": 0.0}
            ),
        )
        for method in RATINGS if method != recipe.settings.rating.method
    ]  # fmt: skip


def tag_stages(recipe: Recipe, stages: Sequence[Stage]) -> list[Evaluate]:
    """Declare the last model's answers with each combination of tags but the run's own."""
    tags = recipe.settings.prompts
    name = f"M_{recipe.settings.iterations}"
    answers = _of({stage.path: stage for stage in stages}, f"evaluation/{name}", Evaluate)
    found = []
    for condition, given in tag_conditions(tags).items():
        seed_tag, web_tag = (tag if tag in given else "" for tag in (tags.seed_tag, tags.web_tag))
        if (seed_tag, web_tag) != prompts.inference_tags(tags):
            arm = f"{name}-{condition}"
            found.append(replace(
                answers, path=f"evaluation/{arm}", name=arm, seed_tag=seed_tag, web_tag=web_tag
            ))  # fmt: skip
    return found


def _human_examples(run: str, recipe: Recipe, num_web: int) -> list[TrainingExample]:
    """The examples of every M_t beside its web pairs: the seed, and a run's ratings."""
    pairs = tables.read_rows(storage.join(run, "seed", "rows"), SeedPair)
    examples = list(seed_examples(pairs, Direction.FORWARD, recipe.settings.prompts.seed_tag))
    if storage.exists(folder := storage.join(run, "rating-seed", "rows")):
        ratings = tables.read_rows(folder, TrainingExample)
        num_others, share = len(examples) + num_web, recipe.settings.seed.rating_share
        examples += repeated(ratings, num_repeats(len(ratings), num_others, share))
    return examples


def _of(by_path: Mapping[str, Stage], path: str, kind: type[Kind]) -> Kind:
    stage = by_path[path]
    assert isinstance(stage, kind)
    return stage


def arms_in(run: str, last: str) -> Iterator[str]:
    """Arms that have answered in a run, and its last model under other tags."""
    for arm in (*CORE, *ABLATIONS, *(f"{last}-{condition}" for condition in TAGGED)):
        if (Path(run) / "evaluation" / arm / "record.json").exists():
            yield arm
