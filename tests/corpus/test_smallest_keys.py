"""Rows with the smallest keys, without Ray: which ones, from any files, after a kill."""

from __future__ import annotations

import random

import numpy as np
import pyarrow as pa
import pytest

from humpback_ray import tables
from humpback_ray.corpus import smallest_keys
from humpback_ray.corpus.smallest_keys import Division, divide
from humpback_ray.method import prefilter
from humpback_ray.rows import PlainText
from tests.support.duplicates import one_by_one

ROWS = [PlainText(f"{n:05}", f"text {n}") for n in range(500)]


def keys_of(table: pa.Table) -> np.ndarray:
    return prefilter.draw_keys(table["segment_id"].to_pylist(), 3)


def marked(table: pa.Table, keys: np.ndarray, is_kept: bool) -> pa.Table:
    pairs = zip(table["text"].to_pylist(), keys.tolist(), strict=True)
    texts = [f"{text} {key} {is_kept}" for text, key in pairs]
    return table.set_column(1, "text", pa.array(texts))


def division(folder, rows, num_files: int, keys=keys_of, dropped: bool = True) -> Division:
    size = -(-len(rows) // num_files)
    for number in range(num_files):
        part = rows[number * size : (number + 1) * size]
        tables.write_rows(str(folder / "source"), part, PlainText, f"part-{number:03}")
    names = [str(folder / name) for name in ("source", "work", "rows")]
    return Division(*names, str(folder / "dropped") if dropped else None, keys, marked)


def texts(folder) -> set[str]:
    return {row.text for row in tables.read_rows(str(folder), PlainText)}


def test_kept_rows_are_those_with_the_smallest_keys_and_all_others_are_dropped(tmp_path):
    assert divide(division(tmp_path, ROWS, 7), 123, one_by_one) == 123
    keys = keys_of(tables.to_table(ROWS, PlainText))
    edge = int(np.sort(keys)[122])
    expected = {
        kept: {f"{row.text} {key} {kept}" for row, key in zip(ROWS, keys.tolist(), strict=True)
               if (key <= edge) is kept}
        for kept in (True, False)
    }  # fmt: skip
    assert texts(tmp_path / "rows") == expected[True]
    assert texts(tmp_path / "dropped") == expected[False]
    assert len(expected[True]) == 123


@pytest.mark.parametrize(("num_files", "rows_per_task"), [(1, 20_000), (3, 1), (25, 90)])
def test_kept_rows_do_not_depend_on_files_tasks_and_order(
    tmp_path, monkeypatch, num_files, rows_per_task
):
    divide(division(tmp_path / "one", ROWS, 4), 60, one_by_one)
    monkeypatch.setattr(smallest_keys, "ROWS_PER_TASK", rows_per_task)
    shuffled = random.Random(num_files).sample(ROWS, len(ROWS))
    divide(division(tmp_path / "other", shuffled, num_files), 60, one_by_one)
    for name in ("rows", "dropped"):
        assert texts(tmp_path / "one" / name) == texts(tmp_path / "other" / name)


def test_rows_with_the_key_of_the_last_one_are_kept_too(tmp_path):
    work = division(tmp_path, ROWS, 2, lambda table: np.zeros(len(table), np.uint64))
    assert divide(work, 5, one_by_one) == len(ROWS)
    assert not (tmp_path / "dropped").exists()


def test_others_are_not_written_where_nobody_asks_for_them(tmp_path):
    divide(division(tmp_path, ROWS, 2, dropped=False), 5, one_by_one)
    assert len(texts(tmp_path / "rows")) == 5
    assert not (tmp_path / "dropped").exists()


@pytest.mark.parametrize("num_before", range(1, 9))
def test_killed_division_runs_no_finished_task_again_and_gives_the_same_rows(
    tmp_path, monkeypatch, num_before
):
    """Killed after each of its tasks in turn: four that rank, one edge, four that divide."""
    monkeypatch.setattr(smallest_keys, "ROWS_PER_TASK", 100)
    divide(division(tmp_path / "whole", ROWS, 4), 60, one_by_one)
    work, done = division(tmp_path / "killed", ROWS, 4), []

    def counted(label, run, items):
        found = []
        for item in items:
            if len(done) == num_before:
                raise KeyboardInterrupt
            found.append(run(*item))
            done.append(label)
        return found

    with pytest.raises(KeyboardInterrupt):
        divide(work, 60, counted)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.glob("killed/*/*.parquet")}
    num_kept = divide(work, 60, one_by_one)
    assert num_kept == 60
    assert all(path.stat().st_mtime_ns == when for path, when in files.items())
    for name in ("rows", "dropped"):
        assert texts(tmp_path / "whole" / name) == texts(tmp_path / "killed" / name)
