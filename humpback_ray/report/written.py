"""Texts that the models of a run wrote: instructions for texts, and answers to one question."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from humpback_ray import storage
from humpback_ray.execution.stage import Stage
from humpback_ray.report.look import select_rows
from humpback_ray.stages.evaluate import OUTPUTS, Evaluate
from humpback_ray.stages.other_answers import OtherAnswers
from humpback_ray.stages.rate import Rate


@dataclass(frozen=True)
class RankedPair:
    """A generated instruction with the text that it is for."""

    place: str  # among the pairs with a score: `best, 1 of 48`
    score: str
    instruction: str
    text: str


@dataclass(frozen=True)
class Answer:
    """A model's answer."""

    model: str
    text: str


@dataclass(frozen=True)
class _Output:
    """The fields of an entry in AlpacaEval's format that the report needs."""

    instruction: str
    output: str


@dataclass(frozen=True)
class Written:
    """Texts of a run for a person to read."""

    pairs: list[RankedPair]  # the best, the middle and the worst by the last rater
    question: str  # empty if the run has answered none
    answers: list[Answer]  # of every model, in the order in which they came to be


def read_written(run_folder: str, stages: Sequence[Stage]) -> Written:
    """Read three pairs of the last rating, and the models' answers to one question."""
    rated = [stage for stage in stages if isinstance(stage, Rate)][-1]
    shown = select_rows(storage.join(run_folder, rated.path), 1, [], ranked=True)
    pairs = []
    for row in shown.rows:
        fields = dict(row.fields)
        place = row.title.rpartition(": ")[0]
        pairs.append(
            RankedPair(place, fields["score"], fields["instruction"].strip(), fields["response"])
        )
    outputs = {
        stage.name: storage.read_as(storage.join(run_folder, stage.path, OUTPUTS), list[_Output])
        for stage in stages
        if isinstance(stage, Evaluate | OtherAnswers)
    }
    return Written(pairs, *_first_answers(outputs))


def _first_answers(outputs: Mapping[str, Sequence[_Output] | None]) -> tuple[str, list[Answer]]:
    """The first question that most models have answered, and their answers."""
    answered = {
        name: {entry.instruction: entry.output for entry in entries or ()}
        for name, entries in outputs.items()
    }
    counts = Counter(question for given in answered.values() for question in given)
    if not counts:
        return "", []
    (question, _), *_ = counts.most_common(1)
    given = {name: answers.get(question) for name, answers in answered.items()}
    return question, [Answer(name, text) for name, text in given.items() if text is not None]
