"""The work of benchmarks before lm-evaluation-harness has counted it."""

from __future__ import annotations

from typing import NamedTuple

from humpback_ray.config.benchmarks import CROWS_PAIRS, BenchmarkSettings
from humpback_ray.sizing.time import GenerationWork


class TaskSize(NamedTuple):
    """Questions of a task, answers that are scored for each, tokens of both; the last is a guess.

    Every answer is a separate prompt, from which the model writes one token.
    """

    num_questions: int
    num_answers: int
    num_tokens: int
    num_parts: int = 1  # tasks, each of which `limit` cuts


SIZES = {
    "social_iqa": TaskSize(1954, 3, 50),
    "piqa": TaskSize(1838, 2, 50),
    "arc_easy": TaskSize(2376, 4, 40),
    "arc_challenge": TaskSize(1172, 4, 45),
    "openbookqa": TaskSize(500, 4, 25),
    "mmlu": TaskSize(14042, 4, 150, num_parts=57),
    CROWS_PAIRS: TaskSize(1677, 2, 20),
}
CATEGORY = TaskSize(SIZES[CROWS_PAIRS].num_questions // 9, 2, 20)  # of CrowS-Pairs
UNKNOWN = SIZES["piqa"]  # for a task that is not of the paper


def benchmark_work(settings: BenchmarkSettings) -> GenerationWork:
    """The prompts of one model, with their mean tokens."""
    num_prompts = num_tokens = 0
    for task in dict.fromkeys(settings.tasks):
        size = SIZES.get(task) or (CATEGORY if task.startswith(f"{CROWS_PAIRS}_") else UNKNOWN)
        num_questions = size.num_questions
        if settings.limit:
            num_questions = min(num_questions, settings.limit * size.num_parts)
        num_prompts += num_questions * size.num_answers
        num_tokens += num_questions * size.num_answers * size.num_tokens
    return GenerationWork(num_prompts, num_tokens / num_prompts, 1)
