"""A folder of training examples as token ids."""

from __future__ import annotations

from array import array
from typing import Any

import numpy
import pyarrow

from humpback_ray import storage, tables
from humpback_ray.errors import UserError
from humpback_ray.method.tokens import example_ids
from humpback_ray.rows import TrainingExample
from humpback_ray.training.batches import TokenizedSet


def tokenize(
    examples: str, tokenizer: Any, max_length: int, *, cut: bool = True
) -> tuple[TokenizedSet, int, int]:
    """Token ids of all examples in the order of their ids; the division into files has no effect.

    Args:
        examples: folder of Parquet files.
        tokenizer: the base model's.
        max_length: tokens of an example.
        cut: cut a completion that is too long at its end; otherwise drop its example.

    Returns:
        The set, the number of completions cut at `max_length`, and the number of dropped examples.
        An example is dropped if no token of its completion can be predicted within `max_length`,
        or if it is too long and `cut` is false.

    Raises:
        UserError: no Parquet file, a missing column, no example, or none that fits.
    """
    ids, starts, first_targets = array("i"), array("q", [0]), array("i")
    num_truncated = num_dropped = 0
    table = read_examples(examples)
    for row in (row for batch in table.to_batches() for row in batch.to_pylist()):
        example = example_ids(tokenizer, row["prompt"], row["tag"], row["completion"], max_length)
        # Without a begin token nothing predicts the first token of a plain text.
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
    if not tables.parquet_files(*storage.arrow_filesystem(examples)):
        raise UserError(f"no training examples: there is no Parquet file in {examples!r}")
    table = tables.read_table(examples)
    columns = tables.arrow_schema(TrainingExample).names
    if missing := sorted(set(columns) - set(table.column_names)):
        raise UserError(
            f"{examples!r} has no column {missing[0]!r}: training examples have the columns "
            f"{', '.join(columns)}"
        )
    if not table.num_rows:
        raise UserError(f"no training examples: the Parquet files in {examples!r} have no rows")
    table = tables.conform(table, TrainingExample).sort_by("example_id")
    # Equal ids would leave the order to the files.
    assert len(table["example_id"].unique()) == table.num_rows, "example ids must be unique"
    return table
