"""One pass of rows through engines or an endpoint: read the missing rows, answer, save.

The rows on disk are the checkpoint (`missing_rows.py`). A pass answers the rows that have no answer
yet, saves each batch in the process that answered it, and repeats until no row is missing.
`merging.py` keeps the number of files small meanwhile. Ray Data's checkpoints cannot replace this
(benchmarks/LOG.md, "Ray Data's checkpointing was not enough").
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pyarrow as pa
from ray.exceptions import RayError

from humpback_ray import storage, tables
from humpback_ray.config.placement import Placement
from humpback_ray.config.settings import LongPromptSettings
from humpback_ray.errors import UserError
from humpback_ray.execution.logs import logger
from humpback_ray.execution.progress import polling
from humpback_ray.execution.stage import Context
from humpback_ray.serving.endpoint import EndpointPool
from humpback_ray.serving.failures import explain
from humpback_ray.serving.generation_progress import GenerationProgress, GenerationReport
from humpback_ray.serving.merging import Merging
from humpback_ray.serving.missing_rows import Expand, RowFolders
from humpback_ray.serving.pool import EnginePool
from humpback_ray.serving.requests import RowTask
from humpback_ray.serving.vllm_engine import VLLMEngine

DROP_LONG = LongPromptSettings()
MAX_FAILURES = 5  # failures of the cluster in a row without a new row


@dataclass(frozen=True)
class GenerationPass:
    """Rows of a source folder, answered into a target folder, one row for each."""

    source: str
    target: str
    task: RowTask
    long_prompts: LongPromptSettings = DROP_LONG
    expand: Expand | None = None  # turns source rows into the rows to answer
    copies: int = 1  # the number of rows that `expand` makes of each source row
    endpoint: Callable[[Placement], EndpointPool] | None = None  # answers instead of engines
    source_id: str = ""  # the column from which `expand` makes ids, if not the id column

    @property
    def folders(self) -> RowFolders:
        return RowFolders(
            self.source, self.target, self.task.id_column, self.expand, self.copies, self.source_id
        )

    def tasks(self) -> list[RowTask]:
        """The tasks of the pass: a second one answers the prompts that the first leaves out."""
        if self.long_prompts.policy == "truncate_response":
            return [replace(self.task, cut_long=True)]
        if self.long_prompts.policy == "drop":
            return [self.task]
        assert self.long_prompts.context_length is not None
        longer = replace(self.task.model, context_length=self.long_prompts.context_length)
        return [replace(self.task, leave_long=True), replace(self.task, model=longer)]


def generate(context: Context, work: GenerationPass) -> dict[str, Any]:
    """Answer every row of the source once into the target; returns figures for the record.

    Raises:
        UserError: the engines cannot start, the cluster has no capacity for them, or the rows
            cannot be written.
    """
    folders, report = work.folders, GenerationReport()
    for task in work.tasks():
        state, num_failures = folders.state(), 0
        while state.num_missing:
            rows = folders.missing(context.placement.engine.rows_per_batch)
            assert rows is not None
            save = partial(_save, folders=folders, row_type=task.row_type)
            try:
                with (pool := _pool(context, work, task)), Merging(folders, state) as merging:
                    progress = GenerationProgress(context, pool, state)
                    with report.of(pool, progress), polling(progress.poll):
                        answered = pool.through(rows, save)
                        for bundle in answered.iter_internal_ref_bundles():
                            num_rows = bundle.num_rows() or 0
                            progress.num_saved += num_rows
                            merging.add(num_rows)
            except RayError as error:
                if line := explain(error):
                    raise UserError(line) from error
                if isinstance(pool, EndpointPool) and pool.is_limited:
                    raise UserError(
                        "the process that sends the requests has died with the count of them; "
                        "the answers so far are kept: run again"
                    ) from error
                # If the folder cannot be written, another try would only start the engines again.
                storage.check_writable(context.folder)
                # Ray Data could not mend the loss of a node or an object. Saved rows stay saved, so
                # the pass gives up only when tries add no row.
                logger.exception("the pass failed; trying again with the missing rows")
                if num_failures == MAX_FAILURES:
                    raise
            else:
                if task.leave_long:
                    break
            before, state = state, folders.state()
            num_failures = 0 if state.num_saved > before.num_saved else num_failures + 1
            assert num_failures <= MAX_FAILURES, f"rows stay missing: {state}"
    return report.figures()


def _pool(context: Context, work: GenerationPass, task: RowTask) -> EnginePool | EndpointPool:
    if work.endpoint is not None:
        return work.endpoint(context.placement)
    return EnginePool(
        task,
        context.placement.engine,
        context.make_engine or VLLMEngine,
        autoscaling=context.placement.cluster.autoscaling,
        tags={"run": context.run, "stage": context.stage},
    )


def _save(batch: pa.Table, answers: pa.Table, *, folders: RowFolders, row_type: type) -> pa.Table:
    return folders.save(batch, tables.conform(answers, row_type))
