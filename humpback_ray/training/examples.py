"""A folder of training examples as token ids."""

from __future__ import annotations

from array import array
from dataclasses import fields
from typing import Any

import fsspec
import numpy
import pyarrow
import pyarrow.parquet

from humpback_ray.errors import UserError
from humpback_ray.method.tokens import example_ids
from humpback_ray.rows import TrainingExample
from humpback_ray.training.batches import TokenizedSet


def tokenize(
    examples: str, tokenizer: Any, max_length: int, *, cut: bool = True
) -> tuple[TokenizedSet, int, int]:
    """Token ids of all examples in the order of their ids, whatever the files.

    Args:
        examples: folder of Parquet files.
        tokenizer: the base model's.
        max_length: tokens of an example.
        cut: whether a completion that is too long is cut at its end, or its example dropped.

    Returns:
        The set, the number of completions cut at `max_length`, and the number of examples dropped
        because no token of the completion could be predicted within `max_length`, or because they
        were too long and not to be cut.

    Raises:
        UserError: no Parquet file, a missing column, no example, or none that fits.
    """
    ids, starts, first_targets = array("i"), array("q", [0]), array("i")
    num_truncated = num_dropped = 0
    table = read_examples(examples)
    for row in (row for batch in table.to_batches() for row in batch.to_pylist()):
        example = example_ids(tokenizer, row["prompt"], row["tag"], row["completion"], max_length)
        # Without a begin token the first token of a plain text has nothing to be predicted from.
        if example is None or len(example.ids) <= (first := max(example.num_prompt, 1)):
            num_dropped += 1
            continue
        is_cut = example.ids[-1] != tokenizer.eos_token_id
        if is_cut and not cut:
            num_dropped += 1
            continue
        num_truncated += is_cut
        ids.extend(example.ids)
        starts.append(len(ids))
        first_targets.append(first)
    if not first_targets:
        raise UserError(
            f"all {table.num_rows} examples in {examples!r} have prompts of at least "
            f"{max_length} tokens{'' if cut else ', or are longer as a whole'}: raise max_length "
            "of the training"
        )
    tokenized = TokenizedSet(
        ids=numpy.frombuffer(ids, dtype=numpy.int32),
        starts=numpy.frombuffer(starts, dtype=numpy.int64),
        first_targets=numpy.frombuffer(first_targets, dtype=numpy.int32),
    )
    assert tokenized.num_examples + num_dropped == table.num_rows
    return tokenized, num_truncated, num_dropped


def read_examples(examples: str) -> pyarrow.Table:
    """All training examples of a folder, sorted by id.

    Raises:
        UserError: no Parquet file, a missing column, or no example.
    """
    filesystem, path = fsspec.core.url_to_fs(examples)
    paths = [name for name in filesystem.find(path) if name.endswith(".parquet")]
    if not paths:
        raise UserError(f"no training examples: there is no Parquet file in {examples!r}")
    columns = [field.name for field in fields(TrainingExample)]
    tables = []
    for name in paths:
        with filesystem.open(name, "rb") as file:
            table = pyarrow.parquet.read_table(file)
        if missing := sorted(set(columns) - set(table.column_names)):
            raise UserError(
                f"{name} has no column {missing[0]!r}: training examples have the columns "
                f"{', '.join(columns)}"
            )
        tables.append(table.select(columns))
    table = pyarrow.concat_tables(tables, promote_options="permissive").sort_by("example_id")
    if not table.num_rows:
        raise UserError(f"no training examples: the Parquet files in {examples!r} have no rows")
    # Equal ids would be ordered by file.
    assert len(table["example_id"].unique()) == table.num_rows, "example ids must be unique"
    return table
