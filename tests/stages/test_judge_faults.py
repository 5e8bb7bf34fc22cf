"""A judge's faults in the counts and the figures of a game: nonsense, half, nothing, 429, 500."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest

from humpback_ray import tables
from humpback_ray.evaluation import games
from humpback_ray.evaluation.games import Contestants, Game, Prompt
from humpback_ray.evaluation.judging import VerdictsBy
from humpback_ray.rows import Comparison, Verdict, VerdictOutcome
from humpback_ray.serving.endpoint import try_and_count
from tests.support.chat_server import limits
from tests.support.judge_server import OUTCOMES, JudgeServer, judge_server
from tests.support.judge_stage import of_endpoint
from tests.support.judging import Quality, answer, judged, question_key

FAULTS = ("nonsense", "half", "nothing", "busy", "broken")
SENT_AGAIN = ("busy", "broken")  # 429 and 500; a reply with status 200 is final
NUM_RETRIES = 2


@pytest.fixture
def server() -> Iterator[JudgeServer]:
    with judge_server() as server:
        yield server


def comparisons(instructions: list[str]) -> list[Comparison]:
    """Both orders of M_1 against M_0 on each instruction."""
    prompts = [Prompt(f"prompt-{n:05}", "mine", text) for n, text in enumerate(instructions)]
    answers = {name: {each.prompt_id: answer(name, each) for each in prompts}
               for name in ("M_0", "M_1")}  # fmt: skip
    players = Contestants(("M_0", "M_1"), (), "M_0")
    return list(games.comparisons(players, prompts, answers, 0, question_key))


def ask(server: JudgeServer, row: Comparison, by: VerdictsBy) -> tuple[Verdict, int]:
    """The server's verdict as the stage reads it, and the number of requests that it took."""
    judge = of_endpoint(server).endpoint_judge
    fields = tables.as_dict(row)
    request = judge.to_chat_request(fields, by)
    assert request is not None
    quick = limits(max_retries=NUM_RETRIES, first_retry_seconds=0.001)
    reply, num_sent = try_and_count(server.settings, quick, request)
    found = judge.from_chat_reply(fields, reply, by)
    return Verdict(**found | {"outcome": VerdictOutcome(found["outcome"])}), num_sent


@pytest.mark.parametrize("by", list(VerdictsBy))
def test_every_fault_is_counted_by_its_outcome_and_no_prompt_twice(server, by):
    server.faults = set(FAULTS)
    rows = comparisons([f"A {word} one?" for word in (*FAULTS, "good", "fine", "sound")])
    asked = [ask(server, row, by) for row in rows]
    outcomes = Counter(verdict.outcome.value for verdict, _ in asked)
    assert outcomes == {
        "no_verdict": 2, "cut": 2, "empty": 2, "engine_error": 4, "judged": 6
    }  # fmt: skip
    for verdict, num_sent in asked:
        is_sent_again = verdict.instruction.split()[1] in SENT_AGAIN
        assert num_sent == (1 + NUM_RETRIES if is_sent_again else 1), verdict.instruction
    assert len(server.requests) == sum(num_sent for _, num_sent in asked) == 12 + 4 * 3
    (game,) = games.games_of([verdict for verdict, _ in asked])
    figures = game.figures(seed=0)
    assert (figures["num_prompts"], figures["num_judged"]) == (8, 3)
    assert figures["win_rate"] is None, "too few prompts are judged"


@pytest.mark.parametrize("word", FAULTS)
def test_fault_in_one_order_leaves_its_prompt_out_of_the_win_rate(server, word):
    """It is no loss, no win and no draw, of which each would move the win rate."""
    rows = comparisons([f"A {word} one?", *(f"What is number {n}?" for n in range(99))])
    verdicts = judged(rows, Quality())
    server.faults = {word}
    verdicts[0], _ = ask(server, rows[0], VerdictsBy.PROBABILITIES)
    assert verdicts[0].outcome == OUTCOMES[word]
    figures, others = game(verdicts).figures(0), game(verdicts[2:]).figures(0)
    assert (figures["num_prompts"], figures["num_judged"]) == (100, 99)
    assert figures["num_wins"] + figures["num_losses"] + figures["num_draws"] == 99
    assert figures["win_rate"] == pytest.approx(others["win_rate"])
    for preference in (0.0, 0.5, 1.0):
        wrong = [replace(verdict, preference=preference) for verdict in verdicts[:2]]
        moved = game([*wrong, *verdicts[2:]]).figures(0)["win_rate"]
        assert moved != pytest.approx(figures["win_rate"], abs=0.01)


def game(verdicts: list[Verdict]) -> Game:
    (only,) = games.games_of(verdicts)
    return only
