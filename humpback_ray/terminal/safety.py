"""The table of refusals after a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from humpback_ray.evaluation.refusals import ModelRefusals, RefusalShare


def refusals_table(models: Sequence[ModelRefusals]) -> Table:
    """The prompts that each model refuses, with the 95% interval of their share."""
    title = "Refused, by phrases in the answers (a proxy), in % with the 95% interval"
    table = Table("model", "harmful prompts", "harmless prompts", title=title)
    for model in models:
        table.add_row(escape(model.model), _share(model.harmful), _share(model.harmless))
    return table


def _share(share: RefusalShare) -> str:
    refused = share.refused
    if refused is None or refused.low is None or refused.high is None:
        return f"- (0 of {share.num_prompts} have an answer)"
    low, value, high = (100 * part for part in (refused.low, refused.value, refused.high))
    return f"{share.num_refused} of {refused.n}: {value:.0f} [{low:.0f}, {high:.0f}]"
