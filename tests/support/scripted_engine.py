"""An engine that answers from a script: for speed, and for failures on demand.

It takes the place of `vllm_engine.VLLMEngine` inside the real pool, so batches, tokenization,
lengths, outcomes, restarts and the watchdog are the real ones; only the model is missing.
"""

from __future__ import annotations

import heapq
import math
import os
import signal
import time
from contextlib import suppress

from humpback_ray.rows import Finish
from humpback_ray.serving.failures import RequestRefused
from humpback_ray.serving.requests import Generation, Request, load_tokenizer

NUM_GENERATED = 7


class ScriptedEngine:
    """Answers every request by `script`, each `seconds_per_row` after it was begun.

    Args:
        script: a name in `SCRIPTS`.
        counter: a file that gets one byte for each request answered.
        seconds_per_row: from when a request has a place to its answer.
        seconds_to_start: until the engine is there.
        broken_once: a file: the one engine that makes it cannot start, and this at once.
    """

    def __init__(
        self, model, placement, *, script="answer", counter="", seconds_per_row=0.0,
        seconds_to_start=0.0, broken_once="",
    ):  # fmt: skip
        if broken_once:
            with suppress(FileExistsError), open(broken_once, "x"):
                raise RuntimeError("the driver of this device is too old")
        time.sleep(seconds_to_start)
        if script == "no_start":
            raise RuntimeError("the driver of this device is too old")
        self._tokenizer = load_tokenizer(model)
        self._script, self._counter, self._seconds = SCRIPTS[script], counter, seconds_per_row
        self._num_places = placement.max_num_seqs or 256
        self._waiting: list[tuple[str, Request]] = []
        self._running: list[tuple[float, str, Request]] = []

    @property
    def num_unfinished(self):
        return len(self._waiting) + len(self._running)

    def add(self, key, request):
        if "the engine refuses this" in self._text(request):
            raise RequestRefused("refused")
        self._waiting.append((key, request))

    def step(self):
        now = time.monotonic()
        while self._waiting and len(self._running) < self._num_places:
            key, request = self._waiting.pop(0)
            heapq.heappush(self._running, (now + self._seconds, key, request))
        if self._running and self._running[0][0] > now:
            time.sleep(min(self._running[0][0] - now, 0.05))
        done = []
        while self._running and self._running[0][0] <= time.monotonic():
            _, key, request = heapq.heappop(self._running)
            done.append((key, self._answer(request)))
        return done

    def _answer(self, request):
        text, finish, wanted = self._script(request, self._text(request))
        if self._counter:
            with open(self._counter, "ab") as file:
                file.write(b".")
        num_scored = (
            0 if request.score_from is None else len(request.prompt_ids) - request.score_from
        )
        return Generation(
            text, finish, len(request.prompt_ids), NUM_GENERATED, 0, tuple(wanted),
            (-1.5,) * num_scored,
        )  # fmt: skip

    def _text(self, request):
        return self._tokenizer.decode(request.prompt_ids)


def _of(request: Request) -> int:
    """A number from 0 to 99 that depends on the prompt and the seed alone."""
    return (sum(request.prompt_ids) + request.seed) % 100


def _grades(request, text):
    """Probabilities that lean to a grade by the prompt."""
    best = _of(request) % len(request.wanted_ids)
    wanted = [math.log(0.8 if at == best else 0.05) for at in range(len(request.wanted_ids))]
    return "", Finish.LENGTH, wanted


def _little_mass(request, text):
    """Four of five pairs whose mass lies on other tokens than the grades."""
    share = 0.16 if _of(request) % 5 == 0 else 0.016
    return "", Finish.LENGTH, [math.log(share)] * len(request.wanted_ids)


def _one_of_three(request, text):
    return (_rating_text if request.seed % 3 == 0 else _prose)(request, text)


def _cut(request, text):
    """Every fourth answer runs into the token limit."""
    return (
        f"What is {_of(request)} and",
        Finish.LENGTH if _of(request) % 4 == 0 else Finish.STOP,
        [],
    )


def _prose(request, text):
    return "I think that this is quite a good answer.", Finish.STOP, []


def _rating_text(request, text):
    return f"It reads well.\nScore: {1 + _of(request) % 5}", Finish.STOP, []


def _some_prose(request, text):
    return (_prose if _of(request) % 4 == 0 else _rating_text)(request, text)


def _answer(request, text):
    return f" What is number {_of(request)}? ", Finish.STOP, []


def _by_quality(request, text):
    """Instructions for all texts, and grades that follow the good words in a text.

    See `tests.support.prefilter.scored_texts`.
    """
    if not request.wanted_ids:
        return _answer(request, text)
    best = min(text.count(" good") // 4, len(request.wanted_ids) - 1)
    wanted = [math.log(0.8 if at == best else 0.05) for at in range(len(request.wanted_ids))]
    return "", Finish.LENGTH, wanted


def _poisoned(request, text):
    """Texts with certain words end the engine, as an error in a kernel or in a library would."""
    if "the engine raises at this" in text:
        raise RuntimeError("an illegal memory access was encountered")
    if "the engine dies of this" in text:
        os.kill(os.getpid(), signal.SIGKILL)
    return _answer(request, text)


def _dies(request, text):
    raise RuntimeError("an illegal memory access was encountered")


SCRIPTS = {
    "answer": _answer,
    "grades": _grades,
    "little_mass": _little_mass,
    "one_of_three": _one_of_three,
    "by_quality": _by_quality,
    "cut": _cut,
    "prose": _prose,
    "rating_text": _rating_text,
    "some_prose": _some_prose,
    "poisoned": _poisoned,
    "dies": _dies,
    "no_start": None,
}
