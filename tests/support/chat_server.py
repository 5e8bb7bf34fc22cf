"""A real chat endpoint on this machine that fails in the ways that servers fail."""

from __future__ import annotations

import json
import math
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

from humpback_ray.config.placement import EndpointPlacement
from humpback_ray.config.settings import EndpointSettings
from humpback_ray.rows import Finish

SHARES = {1: 0.05, 2: 0.05, 3: 0.1, 4: 0.3, 5: 0.5}


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
NOT_A_NUMBER = completion("4", tokens=[{"token": "4", "logprob": math.nan, "top_logprobs": []}])

# By the last word of a prompt: what the server says, try after try; the last one for ever.
SCRIPTS: dict[str, list[tuple[int, str, dict[str, str]]]] = {
    "good": [(200, GOOD, {})],
    "busy": [(429, "{}", {"Retry-After": "0"}), (200, GOOD, {})],
    "early": [(425, "{}", {}), (408, "{}", {}), (200, GOOD, {})],
    "html": [(500, "<html>Internal Server Error</html>", {}), (200, GOOD, {})],
    "garbage": [(200, '{"choices": [', {}), (200, "[]", {}), (200, GOOD, {})],
    "broken": [(200, "{", {"Content-Type": "application/json"}), (200, GOOD, {})],
    "strange": [(200, '{"choices": [7]}', {}), (200, NOT_A_NUMBER, {}), (200, GOOD, {})],
    "closed": [(0, "", {}), (200, GOOD, {})],
    "down": [(503, "{}", {})],
    "nonsense": [(200, "<html>", {})],
    "refused": [(400, '{"error": {"message": "no such thing"}}', {})],
    "conflict": [(409, "{}", {})],
    "long": [(400, '{"error": {"code": "context_length_exceeded"}}', {})],
    "prose": [(200, completion("A fine answer.", tokens=[]), {})],
    "cut": [(200, completion("It reads well, and", "length", tokens=[]), {})],
    "filtered": [(200, completion("Sc", "content_filter", tokens=[]), {})],
    "text": [(200, completion("It reads well.\nScore: 4"), {})],
    "cut_text": [(200, completion("It reads well.\nScore: 4", "length"), {})],
    "holds": [(429, "{}", {"Retry-After": "1"}), (200, GOOD, {})],
    "slow": [(200, GOOD, {"slow": "1"})],
    "drips": [(200, GOOD, {"drips": "1"})],
    "key": [(401, '{"error": "wrong key"}', {})],
}
FINISHES = {
    "good": Finish.STOP, "busy": Finish.STOP, "early": Finish.STOP, "html": Finish.STOP,
    "garbage": Finish.STOP, "broken": Finish.STOP, "strange": Finish.STOP, "closed": Finish.STOP,
    "down": Finish.ENGINE_ERROR, "nonsense": Finish.ENGINE_ERROR, "refused": Finish.ENGINE_ERROR,
    "conflict": Finish.ENGINE_ERROR, "long": Finish.PROMPT_TOO_LONG, "prose": Finish.STOP,
    "cut": Finish.LENGTH, "filtered": Finish.ENGINE_ERROR, "slow": Finish.STOP,
}  # fmt: skip
NUM_REQUESTS = {
    "good": 1, "busy": 2, "early": 3, "html": 2, "garbage": 3, "broken": 2, "strange": 3,
    "closed": 2, "down": 4, "nonsense": 4, "refused": 1, "conflict": 1, "long": 1, "prose": 1,
    "cut": 1, "filtered": 1, "slow": 1,
}  # fmt: skip


class Received(NamedTuple):
    """One request as it has reached the server."""

    when: float
    path: str
    body: dict
    headers: dict[str, str]  # by name in lower case


class ChatServer(ThreadingHTTPServer):
    """Answers by script, and remembers every request."""

    daemon_threads = True
    request_queue_size = 128  # with 5, a busy machine refuses some of many connections at once

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.lock = threading.Lock()
        self.requests: list[Received] = []
        self.num_tries: Counter[str] = Counter()
        self.num_inside = self.most_inside = 0
        self.probe = "good"  # what a request meets that tries the endpoint

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    @property
    def settings(self) -> EndpointSettings:
        return EndpointSettings(url=self.url, model="judge")

    def take(self, request: Received) -> tuple[int, str, dict[str, str]]:
        prompt = request.body["messages"][0]["content"]
        is_probe = prompt.startswith("Reply with one line")
        script = SCRIPTS[self.probe if is_probe else prompt.split()[-1]]
        with self.lock:
            self.requests.append(request)
            number = self.num_tries[prompt]
            self.num_tries[prompt] += 1
            self.num_inside += 1
            self.most_inside = max(self.most_inside, self.num_inside)
        return script[min(number, len(script) - 1)]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ChatServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        headers = {name.lower(): value for name, value in self.headers.items()}
        status, text, headers = self.server.take(
            Received(time.monotonic(), self.path, body, headers)
        )
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
        if "drips" in headers:
            for character in text[:40]:
                self.wfile.write(character.encode())
                self.wfile.flush()
                time.sleep(0.05)
            text = text[40:]
        self.wfile.write(text.encode())

    def handle(self) -> None:
        try:
            super().handle()
        except ConnectionError:  # the client has given up, as some tests let it
            self.close_connection = True

    def log_message(self, *_: object) -> None: ...


@contextmanager
def chat_server() -> Iterator[ChatServer]:
    server = ChatServer()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def limits(**changes) -> EndpointPlacement:
    return EndpointPlacement(**{"max_retries": 3, "first_retry_seconds": 0.02} | changes)
