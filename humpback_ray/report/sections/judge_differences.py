"""Parts of a report on a judge's figures."""

from __future__ import annotations

from collections.abc import Iterator

from humpback_ray.figures.types import JudgeFigures
from humpback_ray.report.document import Block, Table
from humpback_ray.report.foreign_text import cut
from humpback_ray.report.wording import count


def differences(judge: JudgeFigures) -> Iterator[Block]:
    """The last model's win rate less each other model's, paired by prompt."""
    if judge.differences:
        yield Table(
            "The last model against the others, paired by prompt",
            ("win rate less another's", "points", "interval", "prompts"),
            [
                (
                    cut(f"{d.model} less {d.other}"), f"{d.difference:+.1f}",
                    f"{d.low:+.1f} to {d.high:+.1f}", count(d.num_prompts),
                )
                for d in judge.differences
            ],
            note=f"Both win rates are against {cut(judge.reference)}, on the same prompts. An "
            "interval of 95% on one side of 0 shows a difference.",
        )  # fmt: skip
