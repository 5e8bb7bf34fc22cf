"""Files for AlpacaEval: outputs, annotations and a leaderboard.

(https://github.com/tatsu-lab/alpaca_eval, version 0.6.6)

| file | content |
|---|---|
| `<model>/model_outputs.json` | one object for each prompt that the model has answered |
| `<model>/annotations.json` | one object a prompt; `preference` is 1 plus the model's score |
| `leaderboard.csv` | one line for each model, figures in percent |

AlpacaEval has one annotation for each prompt, so both orders of a prompt go into one `preference`,
their mean. A prompt without a verdict in both orders has a null, which AlpacaEval leaves out too.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from humpback_ray import storage
from humpback_ray.evaluation.games import Answers, Game, Prompt

LEADERBOARD_COLUMNS = (
    "win_rate", "standard_error", "n_wins", "n_wins_base", "n_draws", "n_total",
    "discrete_win_rate", "mode", "avg_length", "length_controlled_winrate", "lc_standard_error",
)  # fmt: skip
MODE = "community"  # AlpacaEval's word for results that its authors have not verified


def write_files(
    folder: str,
    prompts: Sequence[Prompt],
    answers: Mapping[str, Answers],
    games: Sequence[tuple[Game, Mapping[str, Any]]],
    judge: str,
) -> None:
    """Write the files of all models below a folder.

    Args:
        answers: by model.
        games: against one reference, each with its figures as `Game.figures` has them.
        judge: the annotator's name.
    """
    for model, given in answers.items():
        outputs = model_outputs(model, prompts, given)
        storage.write_json(storage.join(folder, file_name(model), "model_outputs.json"), outputs)
    for game, _ in games:
        storage.write_json(annotations_path(folder, game.model), annotation_rows(game, judge))
    storage.write_text(storage.join(folder, "leaderboard.csv"), leaderboard(games))


def annotations_path(folder: str, model: str) -> str:
    """The file of a model's annotations against the reference."""
    return storage.join(folder, file_name(model), "annotations.json")


def file_name(model: str) -> str:
    """A model's name as the name of a folder."""
    kept = "".join(c if c.isalnum() or c in "-_." else "_" for c in model)
    return kept.lstrip(".") or "_"


def model_outputs(model: str, prompts: Sequence[Prompt], answers: Answers) -> list[dict[str, str]]:
    """A model's answers as `model_outputs.json` has them."""
    return [
        {
            "dataset": prompt.dataset,
            "instruction": prompt.instruction,
            "output": answers[prompt.prompt_id],
            "generator": model,
        }
        for prompt in prompts
        if prompt.prompt_id in answers
    ]


def annotation_rows(game: Game, judge: str) -> list[dict[str, Any]]:
    """A game's verdicts as `annotations.json` has them, one for each prompt."""
    return [
        {
            "instruction": prompt.instruction,
            "output_1": theirs,
            "generator_1": game.opponent,
            "dataset": prompt.dataset,
            "output_2": own,
            "generator_2": game.model,
            "annotator": judge,
            "preference": None if np.isnan(score) else 1 + float(score),
        }
        for prompt, (own, theirs), score in zip(
            game.prompts, game.outputs, game.scores, strict=True
        )
    ]


def leaderboard(games: Sequence[tuple[Game, Mapping[str, Any]]]) -> str:
    """The models' figures as `leaderboard.csv` has them, best first; no score from a rump."""
    rows = sorted(games, key=lambda each: -(each[1]["win_rate"] or 0.0))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["", *LEADERBOARD_COLUMNS])
    for game, found in rows:
        if found["win_rate"] is not None:
            line = _leaderboard_line(game, found)
            writer.writerow([game.model, *(line[name] for name in LEADERBOARD_COLUMNS)])
    return text.getvalue()


def _leaderboard_line(game: Game, found: Mapping[str, Any]) -> dict[str, Any]:
    is_judged = ~np.isnan(game.scores)
    lengths = [len(own) for (own, _), judged in zip(game.outputs, is_judged, strict=True) if judged]
    return {
        "win_rate": found["win_rate"],
        "standard_error": found["standard_error"],
        "n_wins": found["num_wins"],
        "n_wins_base": found["num_losses"],
        "n_draws": found["num_draws"],
        "n_total": found["num_judged"],
        "discrete_win_rate": found["discrete_win_rate"],
        "mode": MODE,
        "avg_length": int(sum(lengths) / len(lengths)),
        "length_controlled_winrate": found["length_controlled_win_rate"],
        "lc_standard_error": found["length_controlled_standard_error"],
    }
