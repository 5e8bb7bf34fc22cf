"""An engine that answers from a script: for speed, and for failures on demand.

It has the signature of `vllm_generate.generate` and goes through the same preparation of requests,
so that tokenization, lengths and outcomes are the real ones; only the model is missing.
"""

from __future__ import annotations

import math
import os
import time
from functools import partial
from typing import Any

from humpback_ray.engines import vllm_generate
from humpback_ray.records import Finish


def generate(
    rows, *, model, engine, to_request, to_row, script="answer", counter="", seconds_per_row=0.0
):  # fmt: skip
    """Answer every row by `script`; append one byte to the file `counter` for each row answered."""
    return rows.map(
        partial(
            _answer, model=model, to_request=to_request, to_row=to_row, script=script,
            counter=counter, seconds_per_row=seconds_per_row,
        )
    )  # fmt: skip


def _answer(
    row: dict[str, Any], *, model, to_request, to_row, script, counter, seconds_per_row
) -> dict[str, Any]:
    prepared = vllm_generate.prepare(row, model=model, to_request=to_request)
    time.sleep(seconds_per_row)
    if counter:
        with open(counter, "ab") as file:
            file.write(b".")
    num_prompt = prepared[vllm_generate.NUM_PROMPT]
    refusal = prepared[vllm_generate.REFUSAL]
    if refusal:
        return to_row(row, vllm_generate.Generation("", Finish(refusal), num_prompt, 0, [], []))
    text, finish, wanted = SCRIPTS[script](row)
    num_scored = num_prompt - prepared[vllm_generate.SCORE_FROM]
    return to_row(
        row, vllm_generate.Generation(text, finish, num_prompt, 7, wanted, [-1.5] * num_scored)
    )


def _of(row: dict[str, Any]) -> int:
    """A number from 0 to 99 that depends on the row's first text alone."""
    return sum(next(iter(row.values())).encode()) % 100


def _grades(row: dict[str, Any]):
    """Probabilities that lean to a grade by the row."""
    best = 1 + _of(row) % 5
    wanted = [math.log(0.8 if grade == best else 0.05) for grade in range(1, 6)]
    return "", Finish.LENGTH, wanted


def _prose(row: dict[str, Any]):
    return "I think that this is quite a good answer.", Finish.STOP, []


def _rating_text(row: dict[str, Any]):
    return f"It reads well.\nScore: {1 + _of(row) % 5}", Finish.STOP, []


def _some_prose(row: dict[str, Any]):
    return _prose(row) if _of(row) % 4 == 0 else _rating_text(row)


def _crash(row: dict[str, Any]):
    os.kill(os.getpid(), 9)


SCRIPTS = {
    "answer": lambda row: (f" What is number {_of(row)}? ", Finish.STOP, []),
    "error": lambda row: ("", Finish.ENGINE_ERROR, []),
    "grades": _grades,
    "prose": _prose,
    "rating_text": _rating_text,
    "some_prose": _some_prose,
    "crash": _crash,
}
