"""The small files of a running pass, merged into one file for each shard.

A pass writes a file for each batch: 200,000 files for 50 million rows. The driver looks at the
names of the files now and then, and gives every shard whose rows have all been asked to a task that
merges its files. So there are as many files as shards, and those of the few shards that are in
work.
"""

from __future__ import annotations

from types import TracebackType

import ray
from ray.exceptions import RayError

from humpback_ray import storage
from humpback_ray.execution.logs import logger
from humpback_ray.serving.missing_rows import PassState, RowFolders, Shard

ROWS_PER_LOOK = 25_000  # saved rows between two listings of the folder: about a shard


class Merging:
    """Merges of one try of a pass. A context manager, which waits for them at the end.

    The files that are there at the start stay to the end, because `RowFolders.missing` reads them.

    Args:
        folders: of the pass.
        state: of the folders at the start of the try.
    """

    def __init__(self, folders: RowFolders, state: PassState) -> None:
        self._folders, self._wanted = folders, state.wanted
        self._staying = {file for shard in folders.shards() for file in shard.answers}
        self._num_rows = 0  # saved since the last look
        self._running: dict[str, ray.ObjectRef] = {}  # by the shard's key

    def __enter__(self) -> Merging:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # The caller looks at the folders next, which must not change then.
        for merge in self._running.values():
            _warn_of_failure(merge)

    def add(self, num_rows: int) -> None:
        """Count saved rows, and look for shards to merge after enough of them."""
        self._num_rows += num_rows
        if self._num_rows < ROWS_PER_LOOK:
            return
        self._num_rows = 0
        try:
            self._look()
        except storage.errors() as error:  # a store that fails briefly must not end the pass
            logger.warning("the files of the answers are not merged: %s", error)

    def _look(self) -> None:
        done, _ = ray.wait([*self._running.values()], num_returns=len(self._running), timeout=0)
        for key, merge in [*self._running.items()]:
            if merge in done:
                _warn_of_failure(self._running.pop(key))
        for shard in self._folders.shards():
            if shard.key not in self._running and self._has_all(shard):
                num_wanted = self._wanted[shard.key]
                staying = [file for file in shard.answers if file in self._staying]
                self._running[shard.key] = _merge.remote(self._folders, shard, num_wanted, staying)

    def _has_all(self, shard: Shard) -> bool:
        """True if every row of an unfinished shard has been asked, by the names of its files."""
        return (
            shard.num_finished is None
            and not self._staying.issuperset(shard.answers)
            and shard.num_asked() >= self._wanted[shard.key]
        )


@ray.remote
def _merge(folders: RowFolders, shard: Shard, num_wanted: int, staying: list[str]) -> None:
    folders.merge(shard, num_wanted, staying)


def _warn_of_failure(merge: ray.ObjectRef) -> None:
    try:
        ray.get(merge)
    except RayError as error:  # the rows are saved, and the next look at the folders merges them
        logger.warning("the files of a shard are not merged: %s", error)
