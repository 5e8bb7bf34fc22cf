"""Attention example by example: the values and gradients of attention over the whole row."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from humpback_ray.training import packed_attention
from humpback_ray.training.packed_attention import example_lengths, use_packed_attention

LENGTHS = [9, 1, 14]
SHAPE = {
    "vocab_size": 40, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2,
}  # fmt: skip


def row() -> dict[str, torch.Tensor]:
    """The arguments of a forward pass over three packed examples."""
    ids = torch.randint(40, (1, sum(LENGTHS)), generator=torch.Generator().manual_seed(1))
    positions = torch.cat([torch.arange(length) for length in LENGTHS])
    return {"input_ids": ids, "position_ids": positions[None]}


def model_of(kind: str) -> Any:
    torch.manual_seed(0)
    if kind == "Llama":
        return LlamaForCausalLM(LlamaConfig(**SHAPE)).train()
    return MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=4)).train()


def logits_and_gradients(model: Any) -> list[torch.Tensor]:
    model.zero_grad()
    logits = model(**row(), use_cache=False).logits
    (logits * torch.linspace(-1, 1, logits.numel()).view_as(logits)).sum().backward()
    return [logits.detach(), *(parameter.grad.clone() for parameter in model.parameters())]


@pytest.mark.parametrize("kind", ["Llama", "Mistral"])
def test_attention_by_example_equals_attention_over_the_row(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of(kind)
    model.set_attn_implementation("sdpa")
    whole = logits_and_gradients(model)
    num_queries: list[int] = []
    attention = packed_attention.sdpa_attention_forward

    def counting(module: Any, query: torch.Tensor, *others: Any, **more: Any) -> Any:
        num_queries.append(query.shape[2])
        return attention(module, query, *others, **more)

    monkeypatch.setattr(packed_attention, "sdpa_attention_forward", counting)
    use_packed_attention(model)
    by_example = logits_and_gradients(model)
    assert num_queries == LENGTHS * SHAPE["num_hidden_layers"], "no pass over the whole row"
    for ours, theirs in zip(by_example, whole, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_example_lengths_of_a_mask_are_empty_unless_examples_are_apart() -> None:
    causal = torch.ones(6, 6, dtype=torch.bool).tril()
    apart = torch.block_diag(causal[:2, :2], causal[:4, :4]).bool()
    assert example_lengths(apart[None, None]) == [2, 4]
    assert example_lengths(causal[None, None]) == [6]
    mixed = apart.clone()
    mixed[5, 0] = True  # the second example sees the first one's begin
    assert example_lengths(mixed[None, None]) == []
    assert example_lengths(None) == []
    assert example_lengths(apart[None, None].expand(2, 1, 6, 6)) == [], "two rows"
    assert example_lengths(apart[None, None].float()) == [], "additive"


def test_attention_by_example_of_a_padded_batch_is_that_of_its_rows() -> None:
    model = model_of("Llama")
    batch = {
        "input_ids": torch.arange(12).view(2, 6),
        "attention_mask": torch.tensor([[1] * 6, [1, 1, 1, 0, 0, 0]]),
    }
    model.set_attn_implementation("sdpa")
    expected = model(**batch, use_cache=False).logits
    use_packed_attention(model)
    assert model.config._attn_implementation == packed_attention.NAME
    torch.testing.assert_close(model(**batch, use_cache=False).logits, expected)
