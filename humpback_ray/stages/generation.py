"""One pass of rows through engines, resumable row by row: read, generate, write.

Ray Data's checkpointing keeps the ids of written rows and leaves them out of the next attempt
(https://docs.ray.io/en/latest/data/checkpointing.html). What it needs to be right, and what this
module therefore holds to: the source is a Parquet read, ids are unique and pass through every
operator, the pass is one row in, one row out, and a write task is small.
"""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
import ray.data
from ray.data.checkpoint import CheckpointConfig

from humpback_ray import observe, storage, tables
from humpback_ray.stages.stage import Context

CPU_ENGINE_START_SECONDS = 35.0  # of a small model on two cores, up to the first rows

Pass = Callable[[ray.data.Dataset], ray.data.Dataset]


def run_pass(
    context: Context, *, source: str, target: str, id_column: str, row_type: type, through: Pass
) -> None:
    """Send the rows of folder `source` through `through` into folder `target`, each row once.

    Rows that an earlier attempt has written are not generated again.
    """
    wanted = tables.ids(source, id_column)
    checkpoint = context.path("_checkpoint", target)
    folder = context.path(target)
    if tables.num_rows(folder) != len(wanted):
        _run(context, source, folder, checkpoint, id_column, row_type, through, len(wanted))
    found = tables.ids(folder, id_column)
    assert found == wanted, f"{len(wanted - found)} rows missing, {len(found - wanted)} unknown"
    storage.delete(context.path("_checkpoint"))


def _run(
    context: Context,
    source: str,
    folder: str,
    checkpoint: str,
    id_column: str,
    row_type: type,
    through: Pass,
    num_wanted: int,
) -> None:
    settings = ray.data.DataContext.get_current()
    filesystem, checkpoint_path = storage.arrow_filesystem(checkpoint)
    settings.checkpoint_config = CheckpointConfig(
        id_column=id_column,
        checkpoint_path=checkpoint_path,
        override_filesystem=filesystem,
        # Deleted by us once the rows have been counted.
        delete_checkpoint_on_success=False,
    )
    try:
        source_filesystem, source_path = storage.arrow_filesystem(source)
        rows = ray.data.read_parquet(source_path, filesystem=source_filesystem)
        # A write task is the unit of resume; the reader alone would make one block of a small file.
        rows = rows.repartition(target_num_rows_per_block=context.placement.engine.rows_per_file)
        rows = through(rows)
        rows = rows.map_batches(_conform, fn_kwargs={"row_type": row_type}, batch_format="pyarrow")
        target_filesystem, target_path = storage.arrow_filesystem(folder)
        with observe.polling(_Progress(context, folder, num_wanted).poll):
            rows.write_parquet(target_path, filesystem=target_filesystem)
    finally:
        settings.checkpoint_config = None


def _conform(table: pa.Table, row_type: type) -> pa.Table:
    return tables.conform(table, row_type)


class _Progress:
    """Rows on disk, shown and measured: right after a resume too, because nothing is remembered."""

    def __init__(self, context: Context, folder: str, num_wanted: int) -> None:
        self._context, self._folder, self._num_wanted = context, folder, num_wanted
        self._num_finished = 0

    def poll(self) -> None:
        done = tables.num_rows(self._folder)
        if not done:
            on_cpu = self._context.placement.engine.device == "cpu"
            self._context.progress.say(
                f"starting the engine for {self._num_wanted} rows",
                CPU_ENGINE_START_SECONDS if on_cpu else None,
            )
        elif done != self._num_finished:
            self._context.progress.update(done, self._num_wanted, "rows")
            self._context.metrics.add(rows=done, of=self._num_wanted)
        self._num_finished = done
