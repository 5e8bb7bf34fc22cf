"""AlpacaEval's own length-controlled win rate, by the package where there is one."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from humpback_ray import storage
from humpback_ray.config.placement import AlpacaEvalPlacement, Placement
from humpback_ray.errors import UserError
from humpback_ray.evaluation import alpaca_length
from humpback_ray.evaluation.games import Prompt

REAL = "HUMPBACK_ALPACA_EVAL_PYTHON"  # names an interpreter that has alpaca_eval
NUM_PROMPTS = 805
PROMPTS = [Prompt(f"prompt-{n:05}", "mine", f"Why {n}?") for n in range(NUM_PROMPTS)]


@pytest.fixture
def prompts(monkeypatch) -> list[Prompt]:
    """Prompts that pass for AlpacaEval's, whose licence keeps them out of here."""
    texts = json.dumps([prompt.instruction for prompt in PROMPTS])
    digest = hashlib.sha256(texts.encode()).hexdigest()
    monkeypatch.setattr(alpaca_length, "PROMPTS_SHA256", digest)
    return PROMPTS


def difficulties(folder: Path) -> str:
    """A file in the format of df_gamed.csv: two long and short versions of the baseline."""
    random = np.random.default_rng(1)
    places = np.arange(NUM_PROMPTS)
    difficulty = random.normal(0, 1, NUM_PROMPTS)
    versions = [
        pd.DataFrame({
            "model": name, "index": places, "instruction_difficulty": difficulty,
            "preference": np.clip(random.normal(liking, 0.3, NUM_PROMPTS), 0, 1),
            "std_delta_len": random.normal(longer, 1, NUM_PROMPTS), "not_gamed_baseline": False,
        })
        for name, liking, longer in (("concise", 0.35, 0.7), ("verbose", 0.6, -0.7))
    ]  # fmt: skip
    path = folder / "df_gamed.csv"
    pd.concat(versions).to_csv(path, index=False)
    return str(path)


def annotations(folder: Path, name: str, liking_for_length: float) -> str:
    """Verdicts on answers of a better model, whose answers are longer, by a judge of a taste."""
    random = np.random.default_rng(2)
    own, theirs = random.integers(150, 400, NUM_PROMPTS), random.integers(100, 300, NUM_PROMPTS)
    delta = np.tanh((own - theirs) / (own - theirs).std())
    chance = 1 / (1 + np.exp(-(0.4 + liking_for_length * delta)))
    rows = [
        {"instruction": prompt.instruction, "output_1": "x" * int(b), "generator_1": "M_0",
         "dataset": "mine", "output_2": "x" * int(a), "generator_2": name, "annotator": "judge",
         "preference": 1 + float(won)}
        for prompt, a, b, won in zip(
            PROMPTS, own, theirs, random.random(NUM_PROMPTS) < chance, strict=True
        )
    ]  # fmt: skip
    rows[7]["preference"] = None
    path = str(folder / f"{name}.json")
    storage.write_json(path, rows)
    return path


def python() -> str:
    if not os.environ.get(REAL):
        pytest.skip(f"{REAL} names no interpreter that has alpaca_eval")
    return os.environ[REAL]


def test_prompts_count_as_alpaca_evals_in_their_order_and_whatever_their_ends(prompts):
    spaced = [Prompt(each.prompt_id, "", f" {each.instruction}\n") for each in prompts]
    assert alpaca_length.are_alpaca_evals(spaced)
    assert not alpaca_length.are_alpaca_evals(prompts[::-1])
    assert not alpaca_length.are_alpaca_evals(prompts[:-1])


def test_other_prompts_have_no_figure_and_the_reason():
    found = alpaca_length.own_length_control(AlpacaEvalPlacement(), PROMPTS, {"M_1": "/none"})
    assert found.win_rates == {}
    assert "not AlpacaEval's 805" in found.reason


def test_run_without_an_interpreter_has_no_figure_and_the_reason(prompts):
    alpaca_length.check(AlpacaEvalPlacement())
    found = alpaca_length.own_length_control(AlpacaEvalPlacement(), prompts, {"M_1": "/none"})
    assert found.win_rates == {}
    assert "placement.alpaca_eval.python names no interpreter" in found.reason


@pytest.mark.parametrize(
    ("interpreter", "message"),
    [
        ("/none/python", "placement.alpaca_eval.python=/none/python cannot be started"),
        (sys.executable, r"No module named .*pip install alpaca_eval==0\.6\.6 'setuptools<81'"),
    ],
)
def test_interpreter_without_alpaca_eval_is_refused_before_a_run_in_one_line(interpreter, message):
    with pytest.raises(UserError, match=message) as error:
        alpaca_length.check(AlpacaEvalPlacement(python=interpreter))
    assert "\n" not in str(error.value)


def test_difficulties_without_an_interpreter_are_refused():
    with pytest.raises(ValueError, match=r"set placement\.alpaca_eval\.python"):
        Placement(alpaca_eval={"difficulties": "df_gamed.csv"})


def test_missing_difficulties_are_refused_before_a_run():
    missing = AlpacaEvalPlacement(python=sys.executable, difficulties="/none/df_gamed.csv")
    with pytest.raises(UserError, match=r"/none/df_gamed\.csv.*placement\.alpaca_eval\.diff"):
        alpaca_length.check(missing)


@pytest.mark.long
def test_alpaca_evals_own_code_takes_a_liking_for_length_out(prompts, tmp_path):
    placement = AlpacaEvalPlacement(python=python(), difficulties=difficulties(tmp_path))
    alpaca_length.check(placement)
    files = {f"by {taste}": annotations(tmp_path, f"m-{taste}", taste) for taste in (0.0, 2.0)}
    found = alpaca_length.own_length_control(placement, prompts, files)
    assert found.version == "0.6.6"
    assert (found.formula, found.reason) == ("length_controlled_v1", "")
    raw = {
        model: 100 * (pd.DataFrame(storage.read_json(path))["preference"].mean() - 1)
        for model, path in files.items()
    }
    equal = 100 / (1 + np.exp(-0.4))  # percent, of answers of equal length
    assert raw["by 2.0"] > raw["by 0.0"] + 8
    assert found.win_rates == {
        "by 0.0": pytest.approx(equal, abs=5), "by 2.0": pytest.approx(equal, abs=5),
    }  # fmt: skip


@pytest.mark.long
def test_alpaca_eval_without_a_hub_names_the_file_that_it_needs(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"set placement\.alpaca_eval\.difficulties to a copy"):
        alpaca_length.check(AlpacaEvalPlacement(python=python()))
