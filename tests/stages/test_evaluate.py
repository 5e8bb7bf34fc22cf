"""The answers of an evaluation: which rows are one, in the file and in the figures."""

from __future__ import annotations

from humpback_ray.rows import Finish, TaskKind
from humpback_ray.stages.evaluate import _figures, outputs_of
from tests.support.judge_stage import evaluated

ROWS = [
    evaluated(0, "Why?", "So."),
    evaluated(1, "How?", "", finish=Finish.ENGINE_ERROR),
    evaluated(2, "When?", "", finish=Finish.PROMPT_TOO_LONG),
    evaluated(3, "Who?", "You, and", finish=Finish.LENGTH),
    evaluated(4, "Where?", "", finish=Finish.STOP),
    evaluated(5, "Held out.", "Not an answer.", kind=TaskKind.LOSS, loss=1.5, num_loss_tokens=4),
]


def test_outputs_have_what_the_model_has_written_and_no_failure():
    found = outputs_of(ROWS, "M_1")
    assert [entry["instruction"] for entry in found] == ["Why?", "Who?", "Where?"]
    assert found[0] == {
        "dataset": "mine", "instruction": "Why?", "output": "So.", "generator": "M_1",
    }  # fmt: skip


def test_figures_count_answers_and_no_failure():
    figures = _figures(ROWS)
    assert figures["num_answers"] == 3
    assert figures["mean_answer_characters"] == round((3 + 8 + 0) / 3)
    assert (figures["held_out_loss"], figures["num_held_out"]) == (1.5, 1)
