"""Prompts, answers, and a judge whose liking is known."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass

from humpback_ray import tables
from humpback_ray.evaluation import games, judging
from humpback_ray.evaluation.games import Contestants, Prompt
from humpback_ray.evaluation.judging import VerdictsBy
from humpback_ray.rows import Comparison, Verdict, VerdictOutcome

# Comparisons as rows: of two answers, in the other order, and without one of the answers.
COMPARISON = tables.as_dict(
    Comparison("id", "key", "M_1", "M_0", False, "prompt-0", "mine", "Why?", "So.", "No.", True)
)
TURNED = COMPARISON | {"is_model_first": False}
NOT_ANSWERED = COMPARISON | {"opponent_output": None}
SKILLS = {"base": 0.3, "M_0": 1.0, "M_1": 1.3, "M_2": 1.6}


def prompts(number: int) -> list[Prompt]:
    return [Prompt(f"prompt-{n:05}", "mine", f"What is number {n}?") for n in range(number)]


def answer(model: str, prompt: Prompt) -> str:
    """An answer whose first word is its quality: the model's skill and some luck."""
    digest = hashlib.sha256(f"{model}/{prompt.prompt_id}".encode()).digest()
    quality = SKILLS[model] + digest[0] / 255
    return f"{quality:.3f} is what {model} says" + " more" * (digest[1] % 7)


def question_key(instruction: str, first: str, second: str) -> str:
    asked = judging.question(instruction, first, second, VerdictsBy.TEXT)
    return judging.question_key({"model": "a judge"}, asked)


def asked(
    num_prompts: int, num_control_prompts: int = 30, missing: Collection[tuple[str, str]] = ()
) -> list[Comparison]:
    """The comparisons of a run with these prompts; `missing` (model, prompt id) have no answer."""
    answers = {
        model: {
            prompt.prompt_id: answer(model, prompt)
            for prompt in prompts(num_prompts)
            if (model, prompt.prompt_id) not in missing
        }
        for model in SKILLS
    }
    contestants = Contestants(tuple(SKILLS), (), "M_0")
    return list(
        games.comparisons(
            contestants, prompts(num_prompts), answers, num_control_prompts, question_key
        )
    )


@dataclass(frozen=True)
class Quality:
    """A judge who prefers the answer with the greater first word.

    Args:
        for_first: added to the quality of the answer A.
        falls_for: an answer that wins in either place.
    """

    for_first: float = 0.0
    falls_for: str | None = None

    def preference_for_first(self, first: str, second: str) -> float:
        of_first, of_second = self._quality(first) + self.for_first, self._quality(second)
        return 0.5 if of_first == of_second else float(of_first > of_second)

    def _quality(self, text: str) -> float:
        if text == self.falls_for:
            return 9.0
        word = text.split()[0] if text.split() else ""
        return float(word) if word.replace(".", "", 1).isdigit() else 0.0


def judged(rows: list[Comparison], judge: Quality) -> list[Verdict]:
    return [_judged(row, judge) for row in rows]


def _judged(row: Comparison, judge: Quality) -> Verdict:
    preference, outcome = None, VerdictOutcome.NO_ANSWER
    if row.output is not None and row.opponent_output is not None:
        pair = (row.output, row.opponent_output)
        of_first = judge.preference_for_first(*(pair if row.is_model_first else pair[::-1]))
        preference = of_first if row.is_model_first else 1 - of_first
        outcome = VerdictOutcome.JUDGED
    return Verdict(
        **tables.as_dict(row), preference=preference, letter_mass=None, outcome=outcome, said="",
        num_prompt_tokens=9, num_cached_tokens=0, num_generated_tokens=1,
    )  # fmt: skip
