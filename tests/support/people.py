"""Models' outputs to compare, and the real server of the raters' page in a process of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from humpback_ray.evaluation.agreement import JudgeErrors, corrected_rate
from humpback_ray.evaluation.estimates import share_of
from humpback_ray.evaluation.people import study as studies
from humpback_ray.evaluation.people.items import screening_items
from humpback_ray.evaluation.people.results import JudgeBesidePeople, PairResult
from humpback_ray.evaluation.people.study import Item, Kind, Study, StudySettings, make_study, sides
from humpback_ray.evaluation.people.votes import CastVote, VoteLog, join
from humpback_ray.rows import RatedPair, RatingOutcome

ROOT = Path(__file__).parents[2]
NUM_PROMPTS = 12
NUM_ITEMS = 40  # of a study


def entries(model: str, number: int = NUM_PROMPTS, text: str = "") -> list[dict[str, str]]:
    return [
        {
            "dataset": "koala" if n % 2 else "vicuna",
            "instruction": f"Question number {n}: what is a good thing to do?",
            "output": f"{text or f'A text of {model.upper()[::-1]} as an'} answer to {n}.",
            "generator": model,
        }
        for n in range(number)
    ]


def write_json(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def make_run(folder: Path, number: int = NUM_PROMPTS) -> Path:
    """A run's folder with the answers of two models, whose texts do not hold their names."""
    for name, text in (("M_1", "The shorter"), ("M_2", "The somewhat longer")):
        file = folder / "evaluation" / name / "outputs.json"
        write_json(file, entries(name, number, text))
    return folder


@dataclass
class PeopleServer:
    """A running `humpback annotate`."""

    process: subprocess.Popen
    links: dict[str, str]
    port: int

    def kill(self) -> None:
        """End it at once, as a crash of the machine would."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(30)


def start_server(run: Path, *options: str, port: int = 0) -> PeopleServer:
    """Start `humpback annotate` and wait for the links that it prints."""
    command = [sys.executable, "-m", "humpback_ray.cli", "annotate", str(run), "--port", str(port)]
    process = subprocess.Popen(
        [*command, *options], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "COLUMNS": "200"},
    )  # fmt: skip
    links, printed = {}, ""
    assert process.stdout is not None
    for line in process.stdout:
        printed += line
        if match := re.match(r"  rater (\S+)  (http\S+)", line):
            links[match[1]] = match[2]
        if line.startswith("Ctrl-C"):
            break
    assert links, printed
    (found,) = {int(match[1]) for link in links.values() if (match := re.search(r":(\d+)/", link))}
    return PeopleServer(process, links, found)


@contextmanager
def people_server(run: Path, *options: str, port: int = 0) -> Iterator[PeopleServer]:
    server = start_server(run, *options, port=port)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.process.terminate()
            server.process.wait(30)


def stored_votes(run: Path) -> list[dict]:
    """The lines of a run's votes."""
    file = run / "people" / "votes.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def wait_for_votes(run: Path, number: int, seconds: float = 20) -> list[dict]:
    """The votes once there are so many."""
    end = time.monotonic() + seconds
    while len(votes := stored_votes(run)) < number and time.monotonic() < end:
        time.sleep(0.05)
    assert len(votes) == number, [vote["choice"] for vote in votes]
    return votes


def choices(votes: Sequence[dict]) -> list[str]:
    return [vote["choice"] for vote in votes]


def pairs() -> Study:
    items = [
        Item(f"i{n:02}", f"Q {n}?", {"M_2": f"a {n}", "org/other": f"b {n}"}, dataset="koala")
        for n in range(NUM_ITEMS)
    ]
    settings = StudySettings(Kind.PAIR, ("ann", "ben"), shared=1.0)
    return make_study(settings, items, screening_items(None, Kind.PAIR), {})


class Ballot:
    """Votes of raters who know the models, put into a folder as the server puts them."""

    def __init__(self, folder, study: Study) -> None:
        self.study, self.log, self.number = study, VoteLog(str(folder)), 0
        studies.save(str(folder), study)

    def vote(self, rater: str, shown, wanted: str, seconds: float = 20.0, **more) -> None:
        """Vote for a text by its name, or for `tie`, `skip` or a label."""
        names = dict(zip(sides(self.study.items[shown.item_id], shown), ("left", "right"),
                         strict=True))  # fmt: skip
        is_pair = self.study.settings.kind is Kind.PAIR
        choice = names.get(wanted, wanted) if is_pair else wanted
        self.number += 1
        cast = CastVote(vote_id=f"{self.number:032x}", item=shown.shown_id, choice=choice,
                        seconds=seconds, **more)  # fmt: skip
        self.log.add(join(self.study, rater, cast))

    def all_of(self, rater: str, wanted) -> None:
        for shown in self.study.sheets[rater]:
            item = self.study.items[shown.item_id]
            self.vote(rater, shown, item.known if item.is_screening else wanted(shown.item_id))


def judged_pair(failed_controls: tuple[str, ...] | None) -> PairResult:
    """Results of 40 items, beside a judge of 80 prompts that fails some controls."""
    win, tie, loss = (share_of(n, 40) for n in (20, 8, 12))
    rate = corrected_rate(50, 79, JudgeErrors(20, 16, 12, 9))
    judge = JudgeBesidePeople(rate, share_of(25, 32), 8, 80, 79, failed_controls)
    return PairResult("M_2", "other", 40, 40, win, tie, loss, share_of(24, 40), judge)


def number_of(item_id: str) -> int:
    return int(item_id[1:])


def winner(item_id: str) -> str:
    """20 wins of M_2, 8 ties and 12 losses of 40."""
    n = number_of(item_id)
    return "M_2" if n < 20 else "tie" if n < 28 else "org/other"


def rated(number: int, score: float | None) -> RatedPair:
    outcome = RatingOutcome.SCORED if score is not None else RatingOutcome.NO_GRADE
    return RatedPair(
        f"c{number:03}", f"s{number}", f"Do {number}.", f"Text {number}.", score, None, None, 1,
        outcome, "", False, 1, 0, 1,
    )  # fmt: skip
