"""READ FIRST: every input of a run, out of one seed.

facts ──┬── base text    facts in many wordings, question pages, quizzes, grades
        ├── web          pages of good and spoiled sections, as WARC
        ├── seed         pairs of half of the kinds about three of eight entities
        ├── ratings      graded pairs about the same entities
        └── questions    about the other entities, in wordings that the seed has not
"""

from __future__ import annotations

import json
import random
import string
from dataclasses import dataclass
from pathlib import Path

from benchmarks.proof import base_text, questions, web
from benchmarks.proof.facts import NUM_ENTITIES, World, make_world

RATING_TEMPLATE = Path(__file__).parent / "rating_template.txt"


@dataclass(frozen=True)
class Sizes:
    """Sizes of a world and of its inputs."""

    num_entities: int = NUM_ENTITIES
    num_windows: int = 64000  # of the base's training; the recipe's steps read each of them once
    num_sections: int = 4000
    num_seed_pairs: int = 176  # 16 of them held out for the loss
    num_ratings: int = 60  # graded pairs in the seed
    num_questions: int = 2000
    num_repeated: int = 50  # questions that are asked `num_samples` times, for pass@16
    num_samples: int = 16


SHORT = Sizes(
    num_entities=48, num_windows=21600, num_sections=1500, num_questions=500, num_repeated=0
)


def write_inputs(seed: int, sizes: Sizes, folder: Path) -> World:
    """Write the inputs of a run and the truth about them; the same seed gives the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    world = make_world(seed, sizes.num_entities)
    template = string.Template(RATING_TEMPLATE.read_text())

    def drawn(part: str) -> random.Random:
        return random.Random(f"{part}/{seed}")

    texts = base_text.windows(world, sizes.num_windows, template, drawn("base"))
    rows = "".join(json.dumps({"text": text}) + "\n" for text in texts)
    (folder / "base_text.jsonl").write_text(rows)

    sections = web.draw_sections(world, sizes.num_sections, drawn("web"))
    web.write_warc(folder / "web.warc.gz", web.pages(sections, drawn("pages")))
    web.write_truths(folder / "truths.jsonl", map(web.truth_of, sections))

    messages = questions.seed_messages(world, sizes.num_seed_pairs, drawn("seed"))
    (folder / "seed.jsonl").write_text("".join(json.dumps(each) + "\n" for each in messages))

    ratings = questions.rating_rows(world, sizes.num_ratings, drawn("ratings"))
    (folder / "ratings.jsonl").write_text("".join(json.dumps(each) + "\n" for each in ratings))

    asked = questions.held_out_questions(
        world, sizes.num_questions, sizes.num_repeated, sizes.num_samples, drawn("questions")
    )
    questions.write_questions(folder, asked)
    return world
