"""Tokenized examples, and the tensors of one forward pass over some of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy
import torch

IGNORED = -100  # label of a position that carries no loss; cross_entropy's default


@dataclass(frozen=True, slots=True)
class TokenizedSet:
    """All examples as flat arrays, which Ray's object store shares on a node without a copy.

    Example i is `ids[starts[i] : starts[i + 1]]`; the loss is on its positions from
    `first_targets[i]` on.
    """

    ids: numpy.ndarray  # int32 (total tokens,)
    starts: numpy.ndarray  # int64 (num_examples + 1,)
    first_targets: numpy.ndarray  # int32 (num_examples,), at least 1

    @property
    def num_examples(self) -> int:
        return len(self.first_targets)

    @property
    def lengths(self) -> numpy.ndarray:
        """Tokens of each example, prompt included: int64 (num_examples,)."""
        return self.starts[1:] - self.starts[:-1]

    def num_target_tokens(self, indices: list[int] | None = None) -> int:
        """Tokens that carry loss, of these examples or of all."""
        num_targets = self.lengths - self.first_targets
        return int((num_targets if indices is None else num_targets[indices]).sum())

    def example(self, index: int) -> tuple[numpy.ndarray, int]:
        """Token ids of one example, and the first of them that carries loss."""
        ids = self.ids[self.starts[index] : self.starts[index + 1]]
        return ids, int(self.first_targets[index])


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """One forward pass: B rows of T tokens, and the P positions at which a token is predicted."""

    input_ids: torch.Tensor  # int64 (B, T)
    position_ids: torch.Tensor  # int64 (B, T): 0 where an example begins
    attention_mask: torch.Tensor | None  # int64 (B, T), 0 on padding; None in a packed row
    positions: torch.Tensor  # int64 (P,): only these get logits, a step's largest tensor
    labels: torch.Tensor  # int64 (B, P): the next token at `positions`, or IGNORED

    def to(self, device: torch.device) -> dict[str, torch.Tensor]:
        """Arguments of the model's forward pass."""
        inputs = {
            "input_ids": self.input_ids.to(device),
            "position_ids": self.position_ids.to(device),
            "logits_to_keep": self.positions.to(device),
        }
        if self.attention_mask is not None:
            inputs["attention_mask"] = self.attention_mask.to(device)
        return inputs


def packed(examples: TokenizedSet, indices: list[int], pad_token_id: int) -> MicroBatch:
    """All examples in one row; the position ids of each example begin at 0.

    transformers reads from the position ids where an example begins, and lets no token attend to
    another example's (https://huggingface.co/docs/transformers/main/en/attention_interface).
    Without examples the row is one token that carries no loss, because all workers must take part
    in each micro-step.
    """
    chosen = [examples.example(index) for index in indices]
    ids = [row for row, _ in chosen] or [numpy.array([pad_token_id])]
    starts = numpy.cumsum([0, *(len(row) for row in ids)])
    positions = [
        numpy.arange(start + first - 1, start + len(row) - 1)
        for start, (row, first) in zip(starts[:-1], chosen, strict=False)
    ] or [numpy.array([0])]
    labels = [row[first:] for row, first in chosen] or [numpy.array([IGNORED])]
    return MicroBatch(
        input_ids=_tensor(numpy.concatenate(ids))[None],
        position_ids=_tensor(numpy.concatenate([numpy.arange(len(row)) for row in ids]))[None],
        attention_mask=None,
        positions=_tensor(numpy.concatenate(positions)),
        labels=_tensor(numpy.concatenate(labels))[None],
    )


def padded(examples: TokenizedSet, indices: list[int], pad_token_id: int) -> MicroBatch:
    """One example to a row, padded on the right to the longest."""
    if not indices:
        return packed(examples, indices, pad_token_id)
    chosen = [examples.example(index) for index in indices]
    length = max(len(row) for row, _ in chosen)
    input_ids = numpy.full((len(chosen), length), pad_token_id, dtype=numpy.int64)
    attention_mask = numpy.zeros_like(input_ids)
    next_tokens = numpy.full_like(input_ids, IGNORED)
    for b, (row, first) in enumerate(chosen):
        input_ids[b, : len(row)] = row
        attention_mask[b, : len(row)] = 1
        next_tokens[b, first - 1 : len(row) - 1] = row[first:]
    positions = numpy.flatnonzero((next_tokens != IGNORED).any(axis=0))
    return MicroBatch(
        input_ids=_tensor(input_ids),
        position_ids=torch.arange(length).expand(len(chosen), length),
        attention_mask=_tensor(attention_mask),
        positions=_tensor(positions),
        labels=_tensor(next_tokens[:, positions]),
    )


def full_size(capacity: int, max_length: int, *, is_packed: bool, token_id: int) -> MicroBatch:
    """The largest micro-batch that a training can meet: every token carries loss."""
    length = min(capacity, max_length)
    num_examples = max(capacity // length, 1)
    examples = TokenizedSet(
        numpy.full(num_examples * length, token_id, dtype=numpy.int32),
        numpy.arange(num_examples + 1, dtype=numpy.int64) * length,
        numpy.ones(num_examples, dtype=numpy.int32),
    )
    collate = packed if is_packed else padded
    return collate(examples, list(range(num_examples)), token_id)


def _tensor(values: numpy.ndarray) -> torch.Tensor:
    return torch.from_numpy(numpy.asarray(values, dtype=numpy.int64))
