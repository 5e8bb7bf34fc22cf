"""A judge stage over models with known answers, and the rows that it reads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from humpback_ray import tables
from humpback_ray.config.placement import JudgeEndpointPlacement, Placement
from humpback_ray.config.settings import JudgeSettings, SamplingSettings
from humpback_ray.execution.stage import Context, Source
from humpback_ray.rows import Evaluated, Finish, TaskKind
from humpback_ray.stages.evaluate import Evaluate
from humpback_ray.stages.judge import Judge
from tests.support.generation import context
from tests.support.judge_server import JudgeServer
from tests.support.judging import SKILLS, answer, prompts

NUM_PROMPTS = 12


def evaluation(name: str) -> Evaluate:
    return Evaluate(
        path=f"evaluation/{name}", name=name, model=Source("", name), seed=Source("", "seed"),
        prompts=Source("", "prompts"), sampling=SamplingSettings(), seed_tag="", web_tag="",
        context_length=1024, dtype="float32", random_seed=0,
    )  # fmt: skip


def evaluated(number: int, instruction: str, output: str, **changes) -> Evaluated:
    row = Evaluated(
        f"prompt-{number:05}", TaskKind.ANSWER, "mine", instruction, output, None, 0, Finish.STOP
    )
    return replace(row, **changes)


def stage(settings: JudgeSettings, **changes) -> Judge:
    fields = {
        "path": "judgement", "evaluations": tuple(map(evaluation, SKILLS)), "judge": None,
        "reference": None, "compared": None, "settings": settings, "context_length": 1024,
        "dtype": "float32", "random_seed": 0,
    }  # fmt: skip
    return Judge(**{**fields, **changes})


def of_endpoint(server: JudgeServer, **changes) -> Judge:
    named = {"num_control_prompts": 6, **changes}
    return stage(JudgeSettings(endpoint=server.settings, **named))


def of_engines(model: str = "/models/judge", **changes) -> Judge:
    settings = JudgeSettings(model=model, num_control_prompts=6)
    return stage(settings, judge=Source(model, "judge"), **changes)


def judge_limits(**changes) -> JudgeEndpointPlacement:
    quick = {"max_retries": 1, "first_retry_seconds": 0.01, **changes}
    return JudgeEndpointPlacement(**quick)


def write_answers(run: Path, instructions: dict[int, str] | None = None) -> None:
    """The answers of all models; `instructions` replaces those of some prompts."""
    for name in SKILLS:
        rows = [
            evaluated(n, (instructions or {}).get(n, prompt.instruction), answer(name, prompt))
            for n, prompt in enumerate(prompts(NUM_PROMPTS))
        ]
        tables.write_rows(f"{run}/evaluation/{name}/rows", rows, Evaluated)


def place_of(run: Path, make_engine=None, **changes) -> Context:
    where = context(run / "judgement", rows_per_batch=40, make_engine=make_engine)
    placement = Placement(judge_endpoint=judge_limits(**changes), engine=where.placement.engine)
    return replace(where, placement=placement)
