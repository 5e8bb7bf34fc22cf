"""A rater behind HTTP: a real server on this machine that fails in the ways that servers fail."""

from __future__ import annotations

import asyncio
import json
import math
import threading
import time
from collections import Counter
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from pydantic import SecretStr

from humpback_ray.config.placement import EndpointPlacement
from humpback_ray.config.settings import EndpointSettings, RatingSettings, SamplingSettings
from humpback_ray.method import rating
from humpback_ray.rows import Finish
from humpback_ray.serving import endpoint
from humpback_ray.serving.endpoint import AnswerToken, Client, Prompt, TopToken
from humpback_ray.serving.failures import EngineFailed

SHARES = {1: 0.05, 2: 0.05, 3: 0.1, 4: 0.3, 5: 0.5}
EXPECTED = 1 * 0.05 + 2 * 0.05 + 3 * 0.1 + 4 * 0.3 + 5 * 0.5


# --- the server -----------------------------------------------------------------------------------


def completion(text: str, finish: str = "stop", tokens: list[dict] | None = None) -> str:
    return json.dumps(
        {
            "id": "x",
            "object": "chat.completion",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": text},
                    "finish_reason": finish,
                    "logprobs": None if tokens is None else {"content": tokens},
                }
            ],
            "usage": {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14},
        }
    )


def graded(shares: dict[int, float]) -> list[dict]:
    """`Score: N` in three tokens, with the likeliest tokens at the last one."""
    top = [{"token": f" {grade}", "logprob": math.log(share)} for grade, share in shares.items()]
    certain = [{"token": text, "logprob": 0.0, "top_logprobs": []} for text in ("Score", ":")]
    return [*certain, {**max(top, key=lambda each: each["logprob"]), "top_logprobs": top}]


GOOD = completion("Score: 5", tokens=graded(SHARES))

# By the last word of a prompt: what the server says, try after try; the last one for ever.
SCRIPTS: dict[str, list[tuple[int, str, dict[str, str]]]] = {
    "good": [(200, GOOD, {})],
    "busy": [(429, "{}", {"Retry-After": "0"}), (200, GOOD, {})],
    "html": [(500, "<html>Internal Server Error</html>", {}), (200, GOOD, {})],
    "garbage": [(200, '{"choices": [', {}), (200, "[]", {}), (200, GOOD, {})],
    "closed": [(0, "", {}), (200, GOOD, {})],
    "down": [(503, "{}", {})],
    "nonsense": [(200, "<html>", {})],
    "refused": [(400, '{"error": {"message": "no such thing"}}', {})],
    "long": [(400, '{"error": {"code": "context_length_exceeded"}}', {})],
    "prose": [(200, completion("A fine answer.", tokens=[]), {})],
    "cut": [(200, completion("It reads well, and", "length", tokens=[]), {})],
    "filtered": [(200, completion("Sc", "content_filter", tokens=[]), {})],
    "text": [(200, completion("It reads well.\nScore: 4"), {})],
    "cut_text": [(200, completion("It reads well.\nScore: 4", "length"), {})],
    "holds": [(429, "{}", {"Retry-After": "1"}), (200, GOOD, {})],
    "slow": [(200, GOOD, {"slow": "1"})],
    "key": [(401, '{"error": "wrong key"}', {})],
}
FINISHES = {
    "good": Finish.STOP, "busy": Finish.STOP, "html": Finish.STOP, "garbage": Finish.STOP,
    "closed": Finish.STOP, "down": Finish.ENGINE_ERROR, "nonsense": Finish.ENGINE_ERROR,
    "refused": Finish.ENGINE_ERROR, "long": Finish.PROMPT_TOO_LONG, "prose": Finish.STOP,
    "cut": Finish.LENGTH, "filtered": Finish.ENGINE_ERROR, "slow": Finish.STOP,
}  # fmt: skip
NUM_REQUESTS = {
    "good": 1, "busy": 2, "html": 2, "garbage": 3, "closed": 2, "down": 4, "nonsense": 4,
    "refused": 1, "long": 1, "prose": 1, "cut": 1, "filtered": 1, "slow": 1,
}  # fmt: skip


class Server(ThreadingHTTPServer):
    """Answers by script, and remembers every request."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock = threading.Lock()
        self.requests: list[tuple[float, dict, str | None]] = []
        self.num_tries: Counter[str] = Counter()
        self.num_inside = self.most_inside = 0
        self.probe = "good"  # what the first request, which tries the endpoint, meets

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def take(self, body: dict, key: str | None) -> tuple[int, str, dict[str, str]]:
        prompt = body["messages"][0]["content"]
        is_probe = prompt.startswith("Reply with one line")
        script = SCRIPTS[self.probe if is_probe else prompt.split()[-1]]
        with self.lock:
            self.requests.append((time.monotonic(), body, key))
            number = self.num_tries[prompt]
            self.num_tries[prompt] += 1
            self.num_inside += 1
            self.most_inside = max(self.most_inside, self.num_inside)
        return script[min(number, len(script) - 1)]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status, text, headers = self.server.take(body, self.headers["Authorization"])
        if "slow" in headers:
            time.sleep(0.1)
        with self.server.lock:
            self.server.num_inside -= 1
        if not status:
            self.close_connection = True
            return
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def settings_for(server: Server, **changes) -> RatingSettings:
    return RatingSettings(endpoint=EndpointSettings(url=server.url, model="judge"), **changes)


def limits(**changes) -> EndpointPlacement:
    return EndpointPlacement(**{"max_retries": 3, "first_retry_seconds": 0.02} | changes)


def prepare_request(server: Server, words: list[str], **changes) -> list[endpoint.Reply]:
    """Requests through one session, without Ray."""

    async def all_at_once() -> list[endpoint.Reply]:
        client = Client(settings_for(server).endpoint, limits(**changes), None)
        async with client() as session:
            tasks = [
                session.post(client.url, data=json.dumps({"messages": [{"content": word}]}))
                for word in words
            ]
            return [(await task).reply for task in tasks]

    return asyncio.run(all_at_once())


# --- the way to the server, without Ray -----------------------------------------------------------


def test_what_passes_is_tried_again_and_what_does_not_is_not(server):
    replies = dict(zip(FINISHES, prepare_request(server, list(FINISHES)), strict=True))
    generations = {
        word: endpoint.generation_of(reply, settings_for(server)) for word, reply in replies.items()
    }
    assert {word: each.finish for word, each in generations.items()} == FINISHES
    assert server.num_tries == NUM_REQUESTS
    assert "no such thing" in generations["refused"].text
    assert "content_filter" in generations["filtered"].text


def test_the_rate_holds_for_retries_too(server):
    words = [f"{number} {word}" for number in range(10) for word in ("good", "busy", "html")]
    prepare_request(server, words, requests_per_second=50)
    times = sorted(when for when, *_ in server.requests)
    assert len(times) == 50
    # At most two at once after a pause, and the way to the server may bring some closer together.
    most = max(sum(start <= when < start + 0.5 for when in times) for start in times)
    assert most <= 25 + 5


def test_without_a_rate_requests_are_sent_at_the_same_time_up_to_the_limit(server):
    prepare_request(server, [f"{number} slow" for number in range(40)], max_in_flight=8)
    assert 4 <= server.most_inside <= 8


def test_retry_after_holds_every_row(server):
    prepare_request(server, ["holds"])
    first, second = (when for when, *_ in server.requests)
    assert second - first >= 1.0
    server.requests.clear()
    prepare_request(
        server, ["again holds", *(f"{number} good" for number in range(5))], max_in_flight=1
    )
    first, *others = (when for when, *_ in server.requests)
    assert len(others) == 6
    assert min(others) - first >= 1.0


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("soon", None),
        ("7", 7.0),
        ("0.5", 0.5),
        ("86400", endpoint.LONGEST_RETRY_SECONDS),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
    ],
)
def test_retry_after_is_seconds_or_a_date(header, seconds):
    assert endpoint._retry_after(header) == seconds


def test_a_server_that_is_gone_ends_the_run(server):
    with pytest.raises(EngineFailed, match=r"failed [5-9] rows in a row.*503"):
        prepare_request(server, [f"{number} down" for number in range(9)], max_failures_in_a_row=5)
    words = [f"{number} {'good' if number % 4 else 'down'}" for number in range(16)]
    replies = prepare_request(
        server, words, max_failures_in_a_row=5, max_in_flight=1, max_retries=0
    )
    assert sum(bool(reply.failure) for reply in replies) == 4


# --- what an answer says --------------------------------------------------------------------------


def answer(*tokens: tuple[str, dict[str, float]]) -> list[AnswerToken]:
    return [
        AnswerToken(
            token=token,
            logprob=0.0,
            top_logprobs=[TopToken(token=t, logprob=math.log(p)) for t, p in top.items()],
        )
        for token, top in tokens
    ]


def shares_of(tokens: list[AnswerToken], grades: range = range(1, 6)) -> list[float]:
    return [math.exp(value) for value in endpoint.grade_logprobs(tokens, grades)]


@pytest.mark.parametrize(
    "before",
    [["Score", ":"], ["Score:", " "], ["**", "Score", ":**"], ["It reads well.", "\n", "Score:"]],
)
def test_grades_are_read_where_the_answer_gives_its_own(before):
    tokens = answer(*((text, {}) for text in before), (" 4", {" 4": 0.5, " 5": 0.25, " x": 0.25}))
    assert shares_of(tokens) == pytest.approx([0, 0, 0, 0.5, 0.25])


def test_tokens_of_the_same_grade_add_up_and_others_do_not_count():
    top = {" 4": 0.3, "4": 0.2, " 5": 0.1, " 10": 0.1, " four": 0.1, " 0": 0.05}
    tokens = answer(("Score:", {}), (" 4", top))
    assert shares_of(tokens) == pytest.approx([0, 0, 0, 0.5, 0.1])
    assert shares_of(tokens, range(6)) == pytest.approx([0.05, 0, 0, 0, 0.5, 0.1])


def test_an_answer_without_a_grade_has_none():
    assert endpoint.grade_logprobs(answer(("A", {}), (" 4", {})), range(1, 6)) == ()
    assert endpoint.grade_logprobs([], range(1, 6)) == ()


def test_an_answer_without_log_probabilities_is_no_expected_grade(server):
    reply = endpoint.Reply(body=SCRIPTS["text"][0][1])
    by_probabilities = endpoint.generation_of(reply, settings_for(server))
    assert by_probabilities.finish is Finish.ENGINE_ERROR
    assert "settings.rating.method=text" in by_probabilities.text
    by_text = endpoint.generation_of(reply, settings_for(server, method="text"))
    assert rating.parse_rating(by_text.text, by_text.finish)[0] == 4


# --- through Ray ----------------------------------------------------------------------------------


def to_prompt(row):
    return Prompt(f"{row['id']} {row['word']}", seed=7) if row["word"] else None


def to_row(row, generation, *, method):
    if method == "expected" and generation.wanted_logprobs:
        score = rating.expected_grade(rating.grade_probabilities(generation.wanted_logprobs))
    else:
        score, _ = rating.parse_rating(generation.text, generation.finish)
    return {
        "id": row["id"],
        "word": row["word"],
        "score": score,
        "finish": generation.finish.value,
        "num_tokens": generation.num_prompt_tokens + generation.num_generated_tokens,
    }


def rate(server: Server, words: list[str], settings: RatingSettings, **changes) -> list[dict]:
    import ray.data

    rows = ray.data.from_items(
        [{"id": f"row-{number}", "word": word} for number, word in enumerate(words)],
        override_num_blocks=3,
    )
    return endpoint.rate_over_http(
        rows,
        settings=settings,
        limits=limits(**changes),
        to_prompt=to_prompt,
        to_row=partial(to_row, method=settings.method),
    ).take_all()


@pytest.mark.slow
def test_every_row_comes_back_once_with_what_became_of_it(ray_cluster, server, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "secret")
    words = [*FINISHES, ""] * 4
    rows = rate(server, words, settings_for(server), api_key_variable="JUDGE_KEY", max_in_flight=8)

    assert sorted(row["id"] for row in rows) == sorted(f"row-{n}" for n in range(len(words)))
    expected = {word: finish.value for word, finish in FINISHES.items()} | {"": "empty_prompt"}
    assert all(row["finish"] == expected[row["word"]] for row in rows)
    scored = [row for row in rows if row["score"] is not None]
    assert {row["word"] for row in scored} == {"good", "busy", "html", "garbage", "closed", "slow"}
    assert all(row["score"] == pytest.approx(EXPECTED) for row in scored)
    assert all(row["num_tokens"] == 14 for row in scored)

    # The first request tries the endpoint; an empty prompt is not sent.
    assert len(server.requests) == 1 + 4 * sum(NUM_REQUESTS.values())
    assert {key for _, _, key in server.requests} == {"Bearer secret"}
    assert server.most_inside > 1
    for _, body, _ in server.requests:
        assert body["model"] == "judge"
        assert (body["temperature"], body["logprobs"], body["top_logprobs"]) == (0.0, True, 20)


@pytest.mark.slow
def test_ratings_in_words(ray_cluster, server):
    server.probe = "text"
    sampling = SamplingSettings(temperature=1.0, top_p=0.9, max_tokens=99)
    settings = settings_for(server, method="text", sampling=sampling)
    rows = rate(server, ["text", "cut_text", "prose", "down"] * 2, settings)
    assert {(row["word"], row["score"], row["finish"]) for row in rows} == {
        ("text", 4, "stop"),
        ("cut_text", None, "length"),
        ("prose", None, "stop"),
        ("down", None, "engine_error"),
    }
    _, body, _ = server.requests[-1]
    assert (body["max_tokens"], body["temperature"], body["top_p"]) == (99, 1.0, 0.9)
    assert (body["seed"], body["logprobs"]) == (7, False)


@pytest.mark.slow
def test_a_server_that_goes_away_ends_the_pass(ray_cluster, server):
    from ray.exceptions import RayError

    with pytest.raises(RayError, match="rows in a row, the last with: HTTP 503"):
        rate(server, ["down"] * 30, settings_for(server), max_failures_in_a_row=10)


@pytest.mark.parametrize(
    ("probe", "message"),
    [
        ("key", r"cannot rate as judge: HTTP 401 .*wrong key.*settings\.rating\.endpoint"),
        ("down", r"cannot rate as judge: HTTP 503"),
        ("text", r"no log-probabilities with the grade: set settings\.rating\.method=text"),
    ],
)
def test_an_endpoint_that_cannot_rate_is_one_line_before_any_row(server, probe, message):
    server.probe = probe
    with pytest.raises(ValueError, match=message) as error:
        endpoint.rate_over_http(
            None, settings=settings_for(server), limits=limits(), to_prompt=to_prompt, to_row=to_row
        )
    assert "\n" not in str(error.value)
    assert len(server.requests) <= 4


def test_a_key_that_is_not_there_is_named_by_its_variable(server, monkeypatch):
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    with pytest.raises(ValueError, match="environment variable JUDGE_KEY"):
        endpoint.rate_over_http(
            None,
            settings=settings_for(server),
            limits=limits(api_key_variable="JUDGE_KEY"),
            to_prompt=to_prompt,
            to_row=to_row,
        )
    assert not server.requests


def test_the_key_is_not_shown(server):
    client = Client(settings_for(server).endpoint, limits(), SecretStr("sk-very-secret"))
    assert "very-secret" not in repr(client)
