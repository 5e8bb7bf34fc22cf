"""A program for an interpreter that has alpaca_eval: length-controlled win rates by its own code.

    python alpaca_length_program.py MODEL ANNOTATIONS.json MODEL ANNOTATIONS.json ...

prints, as the last line, JSON with `version` and the `win_rates` by model. Without arguments it
computes one of made-up verdicts, to see that it could. It imports nothing of a run's packages.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
from pathlib import Path
from typing import Any

FORMULA = "length_controlled_v1"
NUM_PROMPTS = 805


def win_rate(annotations: list[dict[str, Any]]) -> float:
    """The length-controlled win rate of `generator_2`, in percent.

    Args:
        annotations: one for each prompt, in the order of AlpacaEval's prompts.
    """
    import pandas as pd
    from alpaca_eval.metrics import get_length_controlled_winrate

    # Without a folder for the weights, or it would write into its own package.
    found = get_length_controlled_winrate(
        pd.DataFrame(annotations), glm_name=FORMULA, save_weights_dir=None
    )
    return float(found["length_controlled_winrate"])


def made_up() -> list[dict[str, Any]]:
    """Annotations of all prompts, in which every third answer is worse."""
    return [
        {"output_1": "x" * (n % 7), "output_2": "x" * (n % 5), "generator_1": "a",
         "generator_2": "b", "annotator": "c", "preference": 1.2 if n % 3 else 1.8}
        for n in range(NUM_PROMPTS)
    ]  # fmt: skip


def main(arguments: list[str]) -> None:
    """Print the win rates of the files, or compute one of made-up verdicts."""
    of_files = {
        model: win_rate(json.loads(Path(file).read_text("utf-8")))
        for model, file in zip(arguments[::2], arguments[1::2], strict=True)
    }
    if not of_files:
        win_rate(made_up())
    version = importlib.metadata.version("alpaca_eval")
    print(json.dumps({"version": version, "win_rates": of_files}))


if __name__ == "__main__":
    main(sys.argv[1:])
