"""A judge behind an endpoint: one trial, then questions and replies, against a real server."""

from __future__ import annotations

import pytest

from humpback_ray import tables
from humpback_ray.errors import UserError
from humpback_ray.evaluation.endpoint_judge import EndpointJudge
from humpback_ray.evaluation.judging import VerdictsBy
from humpback_ray.rows import Verdict
from humpback_ray.serving.endpoint import try_endpoint
from tests.support.chat_server import limits
from tests.support.judge_server import FAULTS, OUTCOMES, JudgeServer, judge_server, shown
from tests.support.judge_stage import judge_limits
from tests.support.judging import COMPARISON, NOT_ANSWERED, TURNED, Quality

LETTER, TEXT = VerdictsBy.PROBABILITIES, VerdictsBy.TEXT


@pytest.fixture
def server():
    with judge_server() as server:
        yield server


def judge_of(server: JudgeServer) -> EndpointJudge:
    return EndpointJudge(server.settings, max_tokens=7, min_letter_mass=0.5)


# --- the way to read verdicts ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gives_logprobs", "by", "num_sent"), [(True, LETTER, 1), (False, TEXT, 2), (None, TEXT, 2)]
)
def test_endpoint_is_tried_for_log_probabilities(server, gives_logprobs, by, num_sent):
    server.gives_logprobs = gives_logprobs
    assert judge_of(server).try_probabilities(judge_limits()) == (by, num_sent)
    assert len(server.requests) == num_sent
    assert server.requests[0].body["logprobs"] is True


@pytest.mark.parametrize("word", ["busy", "broken", "refused"])
def test_endpoint_that_cannot_judge_is_refused_in_one_line(server, word):
    server.refusal = FAULTS[word]
    judge = judge_of(server)
    with pytest.raises(UserError, match="cannot judge as judge: HTTP") as error:
        judge.try_probabilities(judge_limits())
    assert "placement.judge_endpoint" in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="cannot judge as judge: HTTP"):
        judge.pool(judge_limits(), LETTER, 0)


def test_endpoint_that_stops_to_give_log_probabilities_is_refused(server):
    server.gives_logprobs = False
    with pytest.raises(UserError, match="gives no log-probabilities any more"):
        judge_of(server).pool(judge_limits(), LETTER, 0)
    judge_of(server).pool(judge_limits(), TEXT, 0)


def test_judge_of_an_endpoint_has_a_key_of_its_own(server, monkeypatch):
    monkeypatch.setenv("RATER_KEY", "sk-of-the-rater")
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    judge, placed = judge_of(server), judge_limits(api_key_variable="JUDGE_KEY")
    with pytest.raises(UserError, match=r"JUDGE_KEY \(placement\.judge_endpoint\.api_key"):
        judge.try_probabilities(placed)
    monkeypatch.setenv("JUDGE_KEY", "sk-of-the-judge")
    judge.try_probabilities(placed)
    (received,) = server.requests
    assert received.headers["authorization"] == "Bearer sk-of-the-judge"


# --- questions and replies -----------------------------------------------------------------------


def test_question_to_an_endpoint_has_the_answers_in_the_order_asked_for(server):
    judge = judge_of(server)
    request = judge.to_chat_request(COMPARISON, by=LETTER)
    assert shown(request.text) == ("Why?", "So.", "No.")
    assert (request.max_tokens, request.temperature, request.top_logprobs) == (7, 0.0, 20)
    by_text = judge.to_chat_request(TURNED, by=TEXT)
    assert shown(by_text.text) == ("Why?", "No.", "So.")
    assert by_text.top_logprobs is None
    assert judge.to_chat_request(NOT_ANSWERED, by=TEXT) is None


@pytest.mark.parametrize(("row", "preference"), [(COMPARISON, 0.05), (TURNED, 0.95)])
def test_verdict_of_an_endpoint_is_turned_to_the_model(server, row, preference):
    """The server prefers the second of two answers without a number only by its liking."""
    server.judge = Quality(for_first=-0.5)
    judge = judge_of(server)
    reply = try_endpoint(server.settings, limits(), judge.to_chat_request(row, by=LETTER))
    found = judge.from_chat_reply(row, reply, by=LETTER)
    assert found["outcome"] == "judged"
    assert found["preference"] == pytest.approx(preference)
    assert found["letter_mass"] == pytest.approx(0.9)
    assert (found["num_prompt_tokens"], found["num_generated_tokens"]) == (11, 3)
    assert tables.to_table([found], Verdict).num_rows == 1
    by_text = judge.from_chat_reply(row, reply, by=TEXT)
    assert by_text["preference"] == round(preference)
    assert by_text["letter_mass"] is None


@pytest.mark.parametrize("word", sorted(FAULTS))
@pytest.mark.parametrize("by", list(VerdictsBy))
def test_fault_of_an_endpoint_is_an_outcome_and_no_verdict(server, word, by):
    server.faults = {word}
    judge, row = judge_of(server), COMPARISON | {"instruction": f"A {word} one?"}
    reply = try_endpoint(server.settings, limits(max_retries=1), judge.to_chat_request(row, by=by))
    found = judge.from_chat_reply(row, reply, by=by)
    assert (found["outcome"], found["preference"]) == (OUTCOMES[word], None)
