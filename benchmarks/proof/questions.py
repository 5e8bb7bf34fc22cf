"""The seed's pairs and ratings, and the held-out questions."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path

from benchmarks.proof.facts import World
from benchmarks.proof.grading import other_question, reason
from benchmarks.proof.kinds import (
    COVERED,
    Group,
    Kind,
    Question,
    answer,
    draw_question,
    group_of,
    is_held_out,
)
from benchmarks.proof.kinds import instruction as worded
from benchmarks.proof.spoiling import MISMATCHED_GRADE, VISIBLE, Spoiling, write_section
from benchmarks.proof.web import read_question
from benchmarks.proof.wordings import CLOSING_PHRASE, NUM_KNOWN_WORDINGS, NUM_WORDINGS

CASES = ("good", "spoiled", "good", "spoiled", "mismatched")  # of graded pairs, in turn
MAX_TRIES = 200  # for a kind: after so many repetitions it has no further question


@dataclass(frozen=True)
class Asked:
    """A held-out question as the models get it."""

    question: Question
    instruction: str
    sample: int  # 0; 1 to 15 for the further samples of pass@16

    @property
    def group(self) -> Group:
        return group_of(self.question.kind)


def seed_messages(world: World, number: int, drawn: random.Random) -> Iterator[dict[str, object]]:
    """Pairs of the covered kinds in the rows of an Open Assistant export, no question twice."""
    entities = world.in_seed
    seen: set[str] = set()
    while len(seen) < number:
        kind = COVERED[len(seen) % len(COVERED)]
        question = draw_question(world, kind, entities, (), drawn)
        asked = worded(question, drawn.randrange(NUM_KNOWN_WORDINGS))
        if asked in seen:
            continue
        text = " ".join([*answer(world, question, drawn), CLOSING_PHRASE])
        prompt = f"seed-{len(seen):04}"
        seen.add(asked)
        yield {"message_id": prompt, "role": "prompter", "text": asked, "lang": "en"}
        yield {"message_id": f"{prompt}-answer", "parent_id": prompt, "role": "assistant",
               "text": text, "lang": "en", "rank": 0}  # fmt: skip


def rating_rows(world: World, number: int, drawn: random.Random) -> Iterator[dict[str, object]]:
    """Graded pairs of the covered kinds, by somebody who knows the truth about each.

    Of each five two are good, two spoiled in a visible way, and one is a good answer to another
    question. Two topics and lost ends, the hardest to see, are three times as frequent as others.
    """
    lists = [each for each in world.lists if each not in world.asked_lists]
    hard = (Spoiling.TWO_TOPICS, Spoiling.CUT_OFF)
    spoilings = cycle((*VISIBLE, *hard, *hard))
    for at in range(number):
        kind = COVERED[at % len(COVERED)]
        question = draw_question(world, kind, world.in_seed, (), drawn)
        case = CASES[at // len(COVERED) % len(CASES)]
        spoiling = next(spoilings) if case == "spoiled" else Spoiling.NONE
        section = write_section(world, question, spoiling, drawn)
        asked, grade = question, section.grade
        if case == "mismatched":
            asked, grade = other_question(world, section, lists, drawn), MISMATCHED_GRADE
        wording = worded(asked, drawn.randrange(NUM_KNOWN_WORDINGS))
        yield {"instruction": wording, "output": section.text, "score": grade,
               "rationale": reason(section, asked, drawn)}  # fmt: skip


def held_out_questions(
    world: World, number: int, num_repeated: int, num_samples: int, drawn: random.Random
) -> list[Asked]:
    """Questions in wordings that the seed has not, about entities that the seed has not.

    Kinds take turns; a kind with few possible questions leaves its turns to the others. The first
    `num_repeated` of them, after the shuffle, are asked `num_samples` times.
    """
    entities, lists = sorted(world.asked), sorted(world.asked_lists)
    found: dict[str, Question] = {}
    tries = dict.fromkeys(Kind, 0)
    while len(found) < number and (open_kinds := [k for k in Kind if tries[k] < MAX_TRIES]):
        for kind in open_kinds[: number - len(found)]:
            question = draw_question(world, kind, entities, lists, drawn)
            if not is_held_out(world, question):
                tries[kind] += 1
                continue
            text = worded(question, drawn.randrange(NUM_KNOWN_WORDINGS, NUM_WORDINGS))
            tries[kind] = tries[kind] + 1 if text in found else 0
            found[text] = question
    items = list(found.items())
    drawn.shuffle(items)
    once = [Asked(question, text, 0) for text, question in items]
    again = [Asked(each.question, each.instruction, sample)
             for each in once[:num_repeated] for sample in range(1, num_samples)]  # fmt: skip
    return once + again


def write_questions(folder: Path, asked: Sequence[Asked]) -> None:
    """Write `questions.json` for the product, and `questions.jsonl` with the truth beside it."""
    prompts = [{"dataset": each.question.kind.value, "instruction": each.instruction}
               for each in asked]  # fmt: skip
    (folder / "questions.json").write_text(json.dumps(prompts, indent=0) + "\n")
    rows = "".join(json.dumps(asdict(each)) + "\n" for each in asked)
    (folder / "questions.jsonl").write_text(rows)


def read_questions(folder: Path) -> list[Asked]:
    """The questions in the order in which the product numbers its tasks."""
    rows = map(json.loads, (folder / "questions.jsonl").read_text().splitlines())
    return [Asked(read_question(row["question"]), row["instruction"], row["sample"])
            for row in rows]  # fmt: skip
