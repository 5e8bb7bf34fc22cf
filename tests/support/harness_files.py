"""Files as lm-evaluation-harness 0.4.13 writes them, out of scores of invented questions."""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

DATE = "2026-11-29T03-12-39.799378"
HIGHER = {"acc": True, "acc_norm": True, "likelihood_diff": False, "pct_stereotype": False}

Scores = Mapping[str, Sequence[Mapping[str, float]]]  # by task: a question's by metric


def write_files(
    folder: Path,
    scores: Scores,
    groups: Mapping[str, Sequence[str]] | None = None,
    *,
    model: str = "hf",
    num_left_out: int = 0,
) -> None:
    """Write `results_*.json` and a `samples_*.jsonl` for each task.

    Args:
        groups: tasks and groups below each group, which sums up `acc`.
        num_left_out: questions of each task beyond the limit.
    """
    folder.mkdir(parents=True, exist_ok=True)
    content = json.dumps(results(scores, groups or {}, model, num_left_out), indent=2)
    (folder / f"results_{DATE}.json").write_text(content)
    for task, questions in scores.items():
        lines = [json.dumps(sample(task, n, each)) for n, each in enumerate(questions)]
        (folder / f"samples_{task}_{DATE}.jsonl").write_text("\n".join(lines) + "\n")


def results(
    scores: Scores, groups: Mapping[str, Sequence[str]], model: str, num_left_out: int
) -> dict[str, Any]:
    by_task = {task: _task(task, questions) for task, questions in scores.items()}
    by_group = {group: _group(group, _below(group, groups), scores) for group in groups}
    names = [*by_task, *by_group]
    return {
        "results": by_task | by_group,
        "groups": by_group,
        "group_subtasks": {group: list(parts) for group, parts in groups.items()},
        "configs": {task: {"task": task, "output_type": "multiple_choice"} for task in scores},
        "versions": dict.fromkeys(names, 1.0),
        "n-shot": dict.fromkeys(names, 0),
        "higher_is_better": {
            **{task: {m: HIGHER[m] for m in questions[0]} for task, questions in scores.items()},
            **{group: {"acc": True} for group in groups},
        },
        "n-samples": {
            task: {"original": len(questions) + num_left_out, "effective": len(questions)}
            for task, questions in scores.items()
        },
        "config": {"model": model, "model_args": {"dtype": "auto"}, "batch_size": 8},
        "lm_eval_version": "0.4.13",
    }


def _below(group: str, groups: Mapping[str, Sequence[str]]) -> list[str]:
    return [
        leaf
        for part in groups[group]
        for leaf in (_below(part, groups) if part in groups else [part])
    ]


def _task(task: str, questions: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    found: dict[str, Any] = {"name": task, "alias": task, "sample_len": len(questions)}
    for metric in questions[0]:
        found |= _metric(metric, [question[metric] for question in questions])
    return found


def _group(group: str, leaves: Sequence[str], scores: Scores) -> dict[str, Any]:
    values = [question["acc"] for leaf in leaves for question in scores[leaf]]
    found = {"alias": group, "name": group, "sample_len": len(values), **_metric("acc", values)}
    return found | {"sample_count": {"acc,none": len(values)}}


def _metric(metric: str, values: Sequence[float]) -> dict[str, Any]:
    stderr = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else "N/A"
    return {f"{metric},none": statistics.fmean(values), f"{metric}_stderr,none": stderr}


def sample(task: str, number: int, scores: Mapping[str, float]) -> dict[str, Any]:
    question = f"Where does bay {number} of {task} lie?"
    return {
        "doc_id": number,
        "doc": {"question": question, "choices": ["north", "south"], "answer": number % 2},
        "target": str(number % 2),
        "arguments": {"gen_args_0": {"arg_0": f"Question: {question}\nAnswer:", "arg_1": " north"}},
        "resps": [[["-3.5", "False"]], [["-4.25", "False"]]],
        "filtered_resps": [["-3.5", "False"], ["-4.25", "False"]],
        "filter": "none",
        "metrics": list(scores),
        "doc_hash": hashlib.sha256(question.encode()).hexdigest(),
        **scores,
    }
