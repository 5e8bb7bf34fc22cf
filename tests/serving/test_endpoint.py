"""Rows through HTTP: a real server on this machine that fails in the ways that servers fail."""

from __future__ import annotations

import asyncio
import email.utils
import logging
import math
import time
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import pyarrow as pa
import pytest
from pydantic import SecretStr

from humpback_ray import tables
from humpback_ray.errors import UserError
from humpback_ray.rows import Finish
from humpback_ray.serving import endpoint_client
from humpback_ray.serving.endpoint import (
    EndpointActor,
    EndpointPool,
    EndpointTask,
    try_and_count,
    try_endpoint,
)
from humpback_ray.serving.endpoint_client import ChatReply, ChatRequest, EndpointClient
from humpback_ray.serving.failures import EngineFailed, explain
from tests.support.chat_server import (
    FINISHES,
    NUM_REQUESTS,
    SHARES,
    ChatServer,
    chat_server,
    limits,
)

KEY = "sk-very-secret"


@pytest.fixture
def server():
    with chat_server() as server:
        yield server


def request(text: str) -> ChatRequest:
    return ChatRequest(text, max_tokens=9, seed=7, top_logprobs=20)


def ask_all(
    server: ChatServer, words: list[str], key: str | None = None, **changes
) -> list[ChatReply]:
    """All requests at once through one client, without Ray."""

    async def ask() -> list[ChatReply]:
        secret = None if key is None else SecretStr(key)
        client = EndpointClient(server.settings, limits(**changes), secret)
        try:
            return await asyncio.gather(*(client.ask(request(word)) for word in words))
        finally:
            await client.close()

    return asyncio.run(ask())


# --- the transport, without Ray -------------------------------------------------------------------


def test_failed_request_is_retried_only_after_a_passing_failure(server):
    replies = dict(zip(FINISHES, ask_all(server, list(FINISHES)), strict=True))
    assert {word: reply.finish for word, reply in replies.items()} == FINISHES
    assert server.num_tries == NUM_REQUESTS
    assert "HTTP 400 Bad Request" in replies["refused"].text
    assert "no such thing" in replies["refused"].text
    assert "content_filter" in replies["filtered"].text
    assert "<html>" in replies["nonsense"].text


def test_reply_has_text_counts_and_likeliest_tokens(server):
    (reply,) = ask_all(server, ["good"])
    assert reply.text == "Score: 5"
    assert (reply.num_prompt_tokens, reply.num_generated_tokens) == (11, 3)
    assert [token.text for token in reply.tokens] == ["Score", ":", " 5"]
    assert reply.tokens[0].logprobs == {"Score": 0.0}
    shares = {text: math.exp(value) for text, value in reply.tokens[2].logprobs.items()}
    assert shares == pytest.approx({f" {grade}": share for grade, share in SHARES.items()})
    (reply,) = ask_all(server, ["text"])
    assert reply.tokens is None


def test_request_fields_reach_the_server(server):
    plain_request = ChatRequest("good", max_tokens=99, temperature=0.5, top_p=0.9, seed=3)
    try_endpoint(server.settings, limits(), plain_request)
    try_endpoint(server.settings, limits(), request("good"))
    plain, with_logprobs = (received.body for received in server.requests)
    assert plain == {
        "model": "judge",
        "messages": [{"role": "user", "content": "good"}],
        "max_tokens": 99,
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": 3,
        "logprobs": False,
    }
    assert (with_logprobs["logprobs"], with_logprobs["top_logprobs"]) == (True, 20)
    assert {received.path for received in server.requests} == {"/v1/chat/completions"}


def test_rate_limit_covers_retries(server):
    words = [f"{number} {word}" for number in range(10) for word in ("good", "busy", "html")]
    ask_all(server, words, requests_per_second=50)
    times = sorted(received.when for received in server.requests)
    assert len(times) == 50
    # At most two at once after a pause, and the way to the server may bring some closer together.
    most = max(sum(start <= when < start + 0.5 for when in times) for start in times)
    assert most <= 25 + 5


def test_requests_without_a_rate_run_in_parallel_up_to_the_limit(server):
    ask_all(server, [f"{number} slow" for number in range(40)], max_in_flight=8)
    assert 4 <= server.most_inside <= 8


def test_retry_after_holds_every_request(server):
    ask_all(server, ["holds"])
    first, second = (received.when for received in server.requests)
    assert second - first >= 1.0
    server.requests.clear()
    words = ["again holds", *(f"{number} good" for number in range(5))]
    ask_all(server, words, max_in_flight=1)
    first, *others = (received.when for received in server.requests)
    assert len(others) == 6
    assert min(others) - first >= 1.0


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("soon", None),
        ("7", 7.0),
        ("0.5", 0.5),
        ("86400", endpoint_client.LONGEST_RETRY_SECONDS),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
    ],
)
def test_retry_after_takes_seconds_or_a_date(header, seconds):
    assert endpoint_client.retry_after(header) == seconds


def test_retry_after_with_a_future_date_is_the_time_until_then():
    header = email.utils.formatdate(time.time() + 100, usegmt=True)
    assert endpoint_client.retry_after(header) == pytest.approx(100, abs=3)


def test_retries_of_a_request_double_their_pause(server):
    ask_all(server, ["down"], first_retry_seconds=0.1)
    times = [received.when for received in server.requests]
    waits = [after - before for before, after in pairwise(times)]
    assert len(waits) == 3
    assert all(wait >= least for wait, least in zip(waits, (0.1, 0.2, 0.4), strict=True))


def test_answer_that_drips_byte_by_byte_times_out(server):
    began = time.monotonic()
    (reply,) = ask_all(server, ["drips"], timeout_seconds=0.3, max_retries=0)
    assert time.monotonic() - began < 1.5
    assert (reply.finish, reply.text) == (Finish.ENGINE_ERROR, "no answer within 0.3 s")
    (reply,) = ask_all(server, ["drips"], timeout_seconds=30, max_retries=0)
    assert reply.finish is Finish.STOP


def test_failing_server_ends_the_run(server):
    with pytest.raises(EngineFailed, match=r"failed [5-9] rows in a row.*503"):
        ask_all(server, [f"{number} down" for number in range(9)], max_failures_in_a_row=5)
    words = [f"{number} {'good' if number % 4 else 'down'}" for number in range(16)]
    replies = ask_all(server, words, max_failures_in_a_row=5, max_in_flight=1, max_retries=0)
    assert sum(reply.finish is Finish.ENGINE_ERROR for reply in replies) == 4


def test_long_or_filtered_prompts_never_end_the_run(server):
    words = [f"{number} {word}" for number in range(8) for word in ("long", "filtered")]
    replies = ask_all(server, words, max_failures_in_a_row=3)
    assert {reply.finish for reply in replies} == {Finish.PROMPT_TOO_LONG, Finish.ENGINE_ERROR}


def test_no_request_is_sent_above_the_limit_retries_included(server):
    words = [f"{number} busy" for number in range(20)]
    with pytest.raises(EngineFailed, match=r"raise placement\.endpoint\.max_requests"):
        ask_all(server, words, max_requests=7, max_in_flight=1)
    assert len(server.requests) == 7
    server.requests.clear()
    ask_all(server, [f"{number} good" for number in range(7)], max_requests=7)
    assert len(server.requests) == 7


def test_first_request_counts_with_its_retries(server):
    reply, num_sent = try_and_count(server.settings, limits(max_retries=3), request("down"))
    assert (reply.finish, num_sent) == (Finish.ENGINE_ERROR, 4)
    with pytest.raises(UserError, match=r"max_requests"):
        try_and_count(server.settings, limits(max_requests=2), request("again down"))
    assert try_and_count(server.settings, limits(), request("good"))[1] == 1


def batch_of(words: list[str], start: int) -> pa.Table:
    rows = [{"id": f"row-{start + number}", "word": word} for number, word in enumerate(words)]
    return pa.Table.from_pylist(rows)


def test_answers_within_the_limit_are_saved_in_every_batch(server):
    saved: list[str] = []

    def save(batch: pa.Table, answers: pa.Table) -> pa.Table:
        saved.extend(answers["id"].to_pylist())
        return answers.select(["id"])

    async def answer() -> list[object]:
        task = EndpointTask(to_request, to_row, Answered)
        placement = limits(max_requests=30, max_in_flight=4)
        actor = EndpointActor(task, server.settings, placement, None, save)
        batches = [batch_of(["slow"] * 20, start) for start in (0, 20, 40)]
        return await asyncio.gather(*map(actor, batches), return_exceptions=True)

    results = asyncio.run(answer())
    assert len(server.requests) == 30
    assert len(saved) == len(set(saved)) == 30
    failures = [result for result in results if isinstance(result, EngineFailed)]
    assert failures
    assert len(failures) + sum(isinstance(result, pa.Table) for result in results) == 3


def test_unreachable_server_is_named_with_the_reason():
    with chat_server() as server:
        settings = server.settings
    reply = try_endpoint(settings, limits(max_retries=0), request("good"))
    assert reply.finish is Finish.ENGINE_ERROR
    assert reply.text.startswith("ConnectError: ")


# --- the key and the environment ------------------------------------------------------------------


def test_key_is_sent_and_shown_nowhere(server, monkeypatch, caplog):
    monkeypatch.setenv("JUDGE_KEY", f"{KEY}\n")  # as a mounted secret has it
    caplog.set_level(logging.DEBUG)
    placement = limits(api_key_variable="JUDGE_KEY")
    reply = try_endpoint(server.settings, placement, request("refused"))
    assert [received.headers["authorization"] for received in server.requests] == [f"Bearer {KEY}"]
    assert any(record.name.startswith("openai") for record in caplog.records)
    assert KEY not in caplog.text
    assert KEY not in repr(reply)


@pytest.mark.parametrize("value", [f"{KEY}\nand more", f"{KEY}é", f"{KEY}\x00"])
def test_key_unfit_for_a_header_is_refused_without_being_shown(server, monkeypatch, value):
    monkeypatch.setattr("os.environ", {"JUDGE_KEY": value})
    with pytest.raises(UserError, match=r"environment variable JUDGE_KEY.* holds no key") as error:
        try_endpoint(server.settings, limits(api_key_variable="JUDGE_KEY"), request("good"))
    assert KEY not in str(error.value)
    assert not server.requests


def test_unset_key_is_refused_with_its_variable(server, monkeypatch):
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    task = EndpointTask(to_request, to_row, Answered)
    with (
        pytest.raises(UserError, match="environment variable JUDGE_KEY"),
        EndpointPool(task, server.settings, limits(api_key_variable="JUDGE_KEY")),
    ):
        pass
    assert not server.requests


def test_client_ignores_openai_environment_variables(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-another")
    monkeypatch.setenv("OPENAI_ADMIN_KEY", "sk-of-an-admin")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-of-another")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "project-of-another")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "Authorization: Bearer sk-of-a-header")
    for key in (None, KEY):
        (reply,) = ask_all(server, ["good"], key)
        assert reply.finish is Finish.STOP
    without, with_key = (received.headers for received in server.requests)
    assert "authorization" not in without
    assert with_key["authorization"] == f"Bearer {KEY}"
    for headers in (without, with_key):
        assert not {"openai-organization", "openai-project"} & headers.keys()
        assert "of-a" not in str(headers)


def test_client_uses_the_proxy_of_the_environment(server, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", server.url.removesuffix("/v1"))
    monkeypatch.setenv("NO_PROXY", "")
    settings = server.settings.model_copy(update={"url": "http://judge.invalid/v1"})
    assert try_endpoint(settings, limits(), request("good")).finish is Finish.STOP
    assert server.requests[0].path == "http://judge.invalid/v1/chat/completions"


# --- through Ray ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answered:
    """A row that has been asked about."""

    id: str
    word: str
    text: str
    finish: Finish
    num_tokens: int


def to_request(row):
    return request(f"{row['id']} {row['word']}") if row["word"] else None


def to_row(row, reply):
    return {
        "id": row["id"],
        "word": row["word"],
        "text": reply.text,
        "finish": reply.finish.value,
        "num_tokens": reply.num_prompt_tokens + reply.num_generated_tokens,
    }


def save_ids(batch, answers, folder):
    assert batch["id"].to_pylist() == answers["id"].to_pylist()
    tables.write_table(folder, answers, f"part-{batch['id'][0].as_py()}")
    return answers.select(["id"])


def answered(server: ChatServer, words: list[str], folder: str, **changes) -> list[str]:
    """Ids that come out of the pool; the answers are in the folder."""
    import ray.data

    rows = ray.data.from_items(
        [{"id": f"row-{number}", "word": word} for number, word in enumerate(words)],
        override_num_blocks=3,
    )
    task = EndpointTask(to_request, to_row, Answered)
    with EndpointPool(task, server.settings, limits(**changes)) as pool:
        through = pool.through(rows, partial(save_ids, folder=folder))
        return [row["id"] for row in through.take_all()]


@pytest.mark.slow
def test_key_is_not_in_the_exported_plan_of_ray_data(ray_cluster, server, monkeypatch):
    import ray.data

    monkeypatch.setenv("JUDGE_KEY", KEY)
    task = EndpointTask(to_request, to_row, Answered)
    with EndpointPool(task, server.settings, limits(api_key_variable="JUDGE_KEY")) as pool:
        rows = ray.data.from_items([{"id": "row-0", "word": "good"}])
        through = pool.through(rows, partial(save_ids, folder=""))
        plan = f"{through!r} {vars(through._logical_plan.dag)!r} {vars(pool)!r}"
    assert plan.count("SecretStr('**********')") == 2
    assert KEY not in plan


@pytest.mark.slow
def test_endpoint_pass_saves_every_row_once_with_its_outcome(
    ray_cluster, server, monkeypatch, tmp_path
):
    monkeypatch.setenv("JUDGE_KEY", KEY)
    words = [*FINISHES, ""] * 4
    ids = answered(server, words, str(tmp_path), api_key_variable="JUDGE_KEY", max_in_flight=8)

    assert sorted(ids) == sorted(f"row-{number}" for number in range(len(words)))
    rows = tables.read_rows(str(tmp_path), Answered)
    assert sorted(row.id for row in rows) == sorted(ids)
    assert len(list(tmp_path.iterdir())) == 3  # a file for each block
    expected = FINISHES | {"": Finish.EMPTY_PROMPT}
    assert all(row.finish is expected[row.word] for row in rows)
    assert {row.text for row in rows if row.word == "good"} == {"Score: 5"}
    assert {row.num_tokens for row in rows if row.finish is Finish.STOP} == {14}

    assert len(server.requests) == 4 * sum(NUM_REQUESTS.values())  # an empty prompt is not sent
    assert {each.headers["authorization"] for each in server.requests} == {f"Bearer {KEY}"}
    assert 1 < server.most_inside <= 8


@pytest.mark.slow
def test_concurrent_blocks_share_one_rate(ray_cluster, server, tmp_path):
    answered(server, ["good"] * 30, str(tmp_path), requests_per_second=20)
    times = sorted(received.when for received in server.requests)
    # Three blocks with a rate each would take a third. The first request may arrive late.
    assert times[-1] - times[0] >= 0.6 * 29 / 20


@pytest.mark.slow
def test_server_lost_during_a_pass_ends_it_with_one_line(ray_cluster, server, tmp_path):
    from ray.exceptions import RayError

    with pytest.raises(RayError) as error:
        answered(server, ["down"] * 30, str(tmp_path), max_failures_in_a_row=10)
    assert "rows in a row, the last with: HTTP 503" in explain(error.value)
