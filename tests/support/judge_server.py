"""A chat endpoint that judges: its liking is known, and so are its faults."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread

from humpback_ray.evaluation import judging
from tests.support.chat_server import ChatServer, Received, completion
from tests.support.judging import Quality

Reply = tuple[int, str, dict[str, str]]

_QUOTED = re.compile(r"Request:\n(.*)\n\nAnswer A:\n(.*)\n\nAnswer B:\n(.*)\n\nReply", re.S)

# By a word in the instruction: what the server says instead of a verdict.
FAULTS: dict[str, Reply] = {
    "nonsense": (200, completion("I am a teapot, short and stout."), {}),
    "half": (200, completion("Answer A is the one that", "length"), {}),
    "nothing": (200, completion(""), {}),
    "busy": (429, "{}", {"Retry-After": "0"}),
    "broken": (500, "<html>", {}),
    "refused": (400, '{"error": {"message": "no such thing"}}', {}),
    "long": (400, '{"error": {"code": "context_length_exceeded"}}', {}),
}
OUTCOMES = {
    "nonsense": "no_verdict", "half": "cut", "nothing": "empty", "busy": "engine_error",
    "broken": "engine_error", "refused": "engine_error", "long": "prompt_too_long",
}  # fmt: skip


class JudgeServer(ChatServer):
    """Prefers the answer whose first word is the greater number.

    Attributes:
        gives_logprobs: `True`, `False`, or `None` for a refusal of requests that ask for them.
        faults: words of `FAULTS` in an instruction that make it fail; empty for a sound server.
    """

    def __init__(self) -> None:
        super().__init__()
        self.judge = Quality()
        self.gives_logprobs: bool | None = True
        self.faults: set[str] = set()
        self.refusal: Reply | None = None  # of everything

    def take(self, request: Received) -> Reply:
        with self.lock:
            self.requests.append(request)
            self.num_inside += 1
            self.most_inside = max(self.most_inside, self.num_inside)
        time.sleep(0.001)
        return self.refusal or self._reply(request.body)

    def _reply(self, body: dict) -> Reply:
        instruction, first, second = shown(body["messages"][0]["content"])
        for word in self.faults & set(instruction.split()):
            return FAULTS[word]
        if body["logprobs"] and self.gives_logprobs is None:
            return 400, '{"error": {"message": "logprobs are not supported"}}', {}
        preference = self.judge.preference_for_first(first, second)
        letter = "A" if preference >= 0.5 else "B"
        if not (body["logprobs"] and self.gives_logprobs):
            said = (
                "tie" if preference == 0.5 and "tie" in body["messages"][0]["content"] else letter
            )
            return 200, completion(f"{judging.VERDICT_LINE} {said}"), {}
        return 200, completion(f"Better: {letter}", tokens=_tokens(preference, letter)), {}


def _tokens(preference: float, letter: str) -> list[dict]:
    """`Better: X` in three tokens, where 0.9 of the probability lies on the letters."""
    shares = {" A": 0.9 * (0.05 + 0.9 * preference), " B": 0.9 * (0.95 - 0.9 * preference)}
    top = [{"token": text, "logprob": math.log(share)} for text, share in shares.items()]
    top.append({"token": " Both", "logprob": math.log(0.1)})
    certain = [{"token": text, "logprob": 0.0, "top_logprobs": []} for text in ("Better", ":")]
    chosen = next(each for each in top if each["token"] == f" {letter}")
    return [*certain, {**chosen, "top_logprobs": top}]


def shown(asked: str) -> tuple[str, str, str]:
    """Instruction, answer A and answer B of a judge's question, without the bars."""
    match = _QUOTED.search(asked)
    assert match, asked
    instruction, first, second = (re.sub(r"^\| ", "", text, flags=re.M) for text in match.groups())
    return instruction, first, second


@contextmanager
def judge_server() -> Iterator[JudgeServer]:
    server = JudgeServer()
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
