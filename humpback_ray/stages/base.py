"""The demo's base model: a tokenizer and a small LLaMA made from the corpus itself."""

from __future__ import annotations

from humpback_ray import storage, tables
from humpback_ray.config.settings import ScratchBase
from humpback_ray.execution.stage import Context, Result
from humpback_ray.rows import Origin, TrainingExample


def run_initial(
    context: Context,
    *,
    segments: str,
    settings: ScratchBase,
    context_length: int,
    random_seed: int,
) -> Result:
    """Write a model folder: a byte-level BPE tokenizer of the segments, and random weights."""
    from humpback_ray.training import scratch_model

    context.progress.say("training the tokenizer")
    texts = _texts(segments)
    num_parameters = scratch_model.create(
        texts, settings, context_length=context_length, random_seed=random_seed,
        output=context.folder,
    )  # fmt: skip
    return Result(len(texts), {"read": len(texts)}, {"num_parameters": num_parameters})


def run_examples(context: Context, *, segments: str, initial: str, sequence_length: int) -> Result:
    """Write the segments as plain text examples of at most `sequence_length` tokens."""
    from humpback_ray.training import scratch_model

    pieces = scratch_model.pieces(_texts(segments), initial, sequence_length)
    examples = [
        TrainingExample(f"{Origin.CORPUS}-{number:08}", "", "", text, Origin.CORPUS)
        for number, text in enumerate(pieces)
    ]
    storage.delete(context.path("rows"))
    tables.write_rows(context.path("rows"), examples, TrainingExample)
    return Result(len(examples), {Origin.CORPUS.value: len(examples)})


def _texts(segments: str) -> list[str]:
    table = tables.read_table(segments, ["segment_id", "text"]).sort_by("segment_id")
    return table["text"].to_pylist()
