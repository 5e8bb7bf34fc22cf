"""A finished run of the proof whose every figure is planted, without engines or trainings."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.proof import questions, web
from benchmarks.proof.facts import World
from benchmarks.proof.kinds import answer
from benchmarks.proof.world import Sizes, write_inputs
from humpback_ray import storage, tables
from humpback_ray.config.recipe import Recipe
from humpback_ray.execution.stage import Result, Source
from humpback_ray.rows import (
    Candidate,
    Evaluated,
    Finish,
    Origin,
    PlainText,
    RatedPair,
    RatingOutcome,
    SeedPair,
    TaskKind,
    TrainingExample,
)
from humpback_ray.stages.base import BaseText

SIZES = Sizes(
    num_entities=32, num_windows=60, num_sections=300, num_questions=150, num_repeated=5,
    num_samples=4,
)  # fmt: skip
SHARES = {
    "base": 0.0, "M_0": 0.3, "M_1": 0.6, "M_2": 0.7, "oracle": 0.9, "random": 0.5,
    "best_quarter": 0.6, "best_double": 0.8,
}  # fmt: skip
FALSE_ANSWER = "So it is."
BUSY_SECONDS = 6.0  # of the engines in each rating


@dataclass(frozen=True)
class ProofRun:
    """A run folder, its recipe, and where its inputs lie."""

    run: str
    recipe: Recipe
    world: World
    inputs: Path


def write_run(
    folder: Path, recipe: Recipe, model: str,
    instruction_of: Callable[[int, list[web.Truth]], str],
    score_of: Callable[[int, list[web.Truth]], float],
) -> ProofRun:  # fmt: skip
    """Write the folder.

    Args:
        folder: for inputs and run.
        recipe: of the run.
        model: folder of any model, in place of every model.
        instruction_of: the instruction of the section at a place.
        score_of: its score, in both iterations.
    """
    inputs, run = folder / "inputs", str(folder / "run")
    world = write_inputs(1, SIZES, inputs)
    truths = list(web.read_truths(inputs / "truths.jsonl").values())
    tables.write_rows(f"{run}/seed/rows", [SeedPair("a", "Why?", "Because.")], SeedPair)
    rows = [PlainText(truth.segment_id, truth.text) for truth in truths]
    tables.write_rows(f"{run}/segments/rows", rows, PlainText)
    asked = [instruction_of(at, truths) for at in range(len(truths))]
    candidates = [
        Candidate(f"{truth.segment_id}-0", truth.segment_id, text, truth.text, Finish.STOP, False,
                  9, 0, 3)
        for truth, text in zip(truths, asked, strict=True)
    ]  # fmt: skip
    tables.write_rows(f"{run}/candidates/rows", candidates, Candidate)
    for t in (1, 2):
        _write_iteration(f"{run}/iter-{t}", candidates, score_of, truths, recipe)
        finish(run, f"iter-{t}/rated", len(candidates), {"engines": {"busy_seconds": BUSY_SECONDS}})
    for path in ("base/model", "forward-0/model", "iter-1/model", "iter-2/model"):
        Path(run, path).parent.mkdir(parents=True, exist_ok=True)
        Path(run, path).symlink_to(model)
    for name, share in SHARES.items():
        _write_answers(run, name, share, world, questions.read_questions(inputs))
    return ProofRun(run, recipe, world, inputs)


def _write_iteration(
    folder: str, candidates: list[Candidate], score_of: Callable[[int, list[web.Truth]], float],
    truths: list[web.Truth], recipe: Recipe,
) -> None:  # fmt: skip
    rated = [
        RatedPair(c.candidate_id, c.segment_id, c.instruction, c.response, score_of(at, truths),
                  None, None, 1, RatingOutcome.SCORED, "", False, 9, 0, 1)
        for at, c in enumerate(candidates)
    ]  # fmt: skip
    tables.write_rows(f"{folder}/rated/rows", rated, RatedPair)
    best = sorted(rated, key=lambda pair: (-(pair.score or 0), pair.candidate_id))
    examples = [
        TrainingExample(f"web-{p.candidate_id}", p.instruction, "", p.response, Origin.WEB)
        for p in best[: recipe.settings.selection.num_best]
    ]
    tables.write_rows(f"{folder}/examples/rows", examples, TrainingExample)


def _write_answers(
    run: str, name: str, share: float, world: World, asked: list[questions.Asked]
) -> None:
    """Exactly that share of right answers, the same questions first in every model."""
    drawn = random.Random(0)
    num_right = round(share * len([each for each in asked if each.sample == 0]))
    rows = [
        Evaluated(
            f"prompt-{at:05}", TaskKind.ANSWER, "", each.instruction,
            " ".join(answer(world, each.question, drawn)) if at < num_right else FALSE_ANSWER,
            None, 0, Finish.STOP,
        )
        for at, each in enumerate(asked)
    ]  # fmt: skip
    tables.write_rows(f"{run}/evaluation/{name}/rows", rows, Evaluated)
    finish(run, f"evaluation/{name}", len(rows), {})


def finish(run: str, path: str, num_rows: int, figures: dict[str, Any]) -> None:
    """Mark a stage's folder as done, with the record of any stage."""
    stage = BaseText(path=path, corpus=Source("", "none"))
    stage.finish(run, Result(num_rows, {"stop": num_rows}, figures), 2.0, {})
    assert storage.exists(f"{run}/{path}/record.json")
