"""Attention over a packed row, for CPUs: example by example, not over all pairs of the row.

PyTorch's attention on CPUs computes every pair of tokens that the mask allows or forbids. In a row
of 1,024 tokens with three examples that is three times the work, in forward and backward pass.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "sdpa_by_example"


def use_packed_attention(model: Any) -> None:
    """Let a model that transformers has loaded attend to each packed example alone.

    A model whose code chooses its attention itself keeps what it has.
    """
    if not model.is_backend_compatible():
        return
    AttentionInterface.register(NAME, attend_by_example)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)


def attend_by_example(
    module: torch.nn.Module,
    query: torch.Tensor,  # (B, heads, T, d)
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' SDPA attention; if the mask keeps examples apart, over one after the other.

    Each example has its block of the mask, so a sliding window stays what it is.
    """
    lengths = example_lengths(attention_mask)
    if len(lengths) < 2 or options.get("position_bias") is not None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    assert attention_mask is not None
    outputs, start = [], 0
    # The gradient of a slice would be a whole row, with zeros for the other examples.
    split = (states.split(lengths, dim=2) for states in (query, key, value))
    for queries, keys, values in zip(*split, strict=True):
        end = start + queries.shape[2]
        block = attention_mask[:, :, start:end, start:end]
        output, _ = sdpa_attention_forward(module, queries, keys, values, block, **options)
        outputs.append(output)  # (B, tokens of the example, heads, d)
        start = end
    return torch.cat(outputs, dim=1), None


def example_lengths(attention_mask: torch.Tensor | None) -> list[int]:
    """Tokens of each example of a packed row, as its mask tells them.

    Empty if the mask is not that of one row, or allows a pair of tokens of two examples.
    """
    if attention_mask is None or attention_mask.dtype != torch.bool:
        return []
    if attention_mask.shape[:2] != (1, 1) or attention_mask.shape[2] != attention_mask.shape[3]:
        return []
    allowed = attention_mask[0, 0]  # (T, T)
    # An example begins where a token does not see the one before it.
    begins = (~allowed.diagonal(-1)).nonzero().flatten() + 1
    bounds = [0, *begins.tolist(), len(allowed)]
    examples = list(pairwise(bounds))
    num_inside = sum(int(allowed[i:j, i:j].count_nonzero()) for i, j in examples)
    return [j - i for i, j in examples] if num_inside == int(allowed.count_nonzero()) else []
