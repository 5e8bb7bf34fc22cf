"""AlpacaEval's own length-controlled win rate, by the package alpaca_eval.

Its formula `length_controlled_v1` has a difficulty for each of AlpacaEval's 805 prompts, by the
place of the prompt in the file, so it holds for those prompts in that order alone. The difficulties
are a file on the hub (`df_gamed.csv`), which the package does not bring along. It needs an
environment apart from a run's, so another interpreter runs it: `alpaca_length_program.py`.
(https://github.com/tatsu-lab/alpaca_eval, version 0.6.6, `get_length_controlled_winrate`)
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from humpback_ray import storage
from humpback_ray.config.placement import AlpacaEvalPlacement
from humpback_ray.errors import UserError
from humpback_ray.evaluation import alpaca_length_program as program
from humpback_ray.evaluation.games import Prompt

KEY = "placement.alpaca_eval"
FORMULA = program.FORMULA
# Of the JSON list of AlpacaEval's prompts without spaces at their ends, in the order of its files.
PROMPTS_SHA256 = "191661c5d4e0fa6350b3eec588862a9c9256d2c15fed13e2411f770cbedf47c4"
OTHER_PROMPTS = "the prompts are not AlpacaEval's 805 in its order"
NO_INTERPRETER = f"{KEY}.python names no interpreter that has alpaca_eval"
NO_GAME = "no game against the reference has a win rate"
MAX_SECONDS = 3600  # a fit takes seconds, on a busy machine a minute

# A hub's cache has a folder for each commit, and a file that names the newest one.
_CACHE_FOLDER = "datasets--tatsu-lab--alpaca_eval"
_COMMIT = "2edc6fad8be6b14ea7230aabfd08188da6b8b814"  # the one that version 0.6.6 was used with


@dataclass(frozen=True)
class AlpacaLength:
    """AlpacaEval's own length-controlled win rates against the reference, in percent.

    Without an interval, because the error that AlpacaEval states is none of sampling.
    """

    win_rates: Mapping[str, float]  # by model
    version: str = ""  # of alpaca_eval
    reason: str = ""  # why there are none
    formula: str = FORMULA


def own_length_control(
    placement: AlpacaEvalPlacement, prompts: Sequence[Prompt], files: Mapping[str, str]
) -> AlpacaLength:
    """AlpacaEval's own figures, or the reason why there are none.

    Args:
        prompts: of the games, in the order of their file.
        files: `annotations.json` by model, of the games that have a win rate.

    Raises:
        UserError: as `check`.
    """
    if not are_alpaca_evals(prompts):
        return AlpacaLength({}, reason=OTHER_PROMPTS)
    if placement.python is None:
        return AlpacaLength({}, reason=NO_INTERPRETER)
    if not files:
        return AlpacaLength({}, reason=NO_GAME)
    said = _ask(placement, {model: storage.read_json(path) for model, path in files.items()})
    return AlpacaLength(said["win_rates"], said["version"])


def are_alpaca_evals(prompts: Sequence[Prompt]) -> bool:
    """True for AlpacaEval's 805 prompts in its order, whatever spaces stand at their ends."""
    texts = json.dumps([prompt.instruction.strip() for prompt in prompts])
    return hashlib.sha256(texts.encode()).hexdigest() == PROMPTS_SHA256


@cache
def check(placement: AlpacaEvalPlacement) -> None:
    """Compute a figure of made-up verdicts, to learn of a problem before a run's first stage.

    Nothing to do where no interpreter is named.

    Raises:
        UserError: the interpreter does not start or has no alpaca_eval, or there are no
            difficulties; and the ways out.
    """
    if placement.python is not None:
        _ask(placement, {})


def _ask(placement: AlpacaEvalPlacement, annotations: Mapping[str, Any]) -> dict[str, Any]:
    """The answer of the program on the annotations of each model."""
    assert placement.python is not None
    python = placement.python
    if os.sep in python:
        python = os.path.abspath(os.path.expanduser(python))
    with tempfile.TemporaryDirectory(prefix="humpback-alpaca-") as place, _hub(placement) as hub:
        files = []
        for number, (model, content) in enumerate(annotations.items()):
            files += [model, f"{place}/{number}.json"]
            Path(files[-1]).write_text(json.dumps(content), "utf-8")
        try:
            done = subprocess.run(
                [python, program.__file__, *files], cwd=place, capture_output=True, text=True,
                errors="replace", stdin=subprocess.DEVNULL, timeout=MAX_SECONDS, check=False,
                env={**os.environ, "PYTHONSAFEPATH": "1", **hub},
            )  # fmt: skip
        except OSError as error:
            raise UserError(
                f"{KEY}.python={placement.python} cannot be started ({error.strerror}): set it to "
                "a Python interpreter that has alpaca_eval"
            ) from error
    if done.returncode:
        raise UserError(_problem(placement, done.stderr))
    return json.loads(done.stdout.splitlines()[-1])


def _problem(placement: AlpacaEvalPlacement, said: str) -> str:
    """One line about a program that failed, with the way out."""
    last = (said.strip().splitlines() or ["it wrote nothing"])[-1][-300:]
    if "No module named" in last:
        way = "install it there: pip install alpaca_eval==0.6.6 'setuptools<81'"
    else:
        way = (
            f"set {KEY}.difficulties to a copy of df_gamed.csv of the dataset "
            "tatsu-lab/alpaca_eval, which alpaca_eval gets from the hub otherwise, or unset "
            f"{KEY}.python"
        )
    return (
        f"alpaca_eval does not compute its length-controlled win rate with {placement.python} "
        f"({last}): {way}"
    )


@contextmanager
def _hub(placement: AlpacaEvalPlacement) -> Iterator[dict[str, str]]:
    """Variables of the environment with which the hub's client finds the named difficulties."""
    if placement.difficulties is None:
        yield {}
        return
    key = f"{KEY}.difficulties"
    content = storage.read_text(placement.difficulties, "AlpacaEval's df_gamed.csv", key)
    with tempfile.TemporaryDirectory(prefix="humpback-alpaca-hub-") as cache_folder:
        folder = Path(cache_folder, _CACHE_FOLDER)
        Path(folder, "refs").mkdir(parents=True)
        Path(folder, "refs", "main").write_text(_COMMIT)
        Path(folder, "snapshots", _COMMIT).mkdir(parents=True)
        Path(folder, "snapshots", _COMMIT, "df_gamed.csv").write_text(content, "utf-8")
        yield {"HF_HUB_CACHE": cache_folder, "HF_HUB_OFFLINE": "1"}
