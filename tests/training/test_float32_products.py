"""bf16 products computed in fp32: the results of bf16 up to rounding, and gradients in bf16."""

from __future__ import annotations

from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from humpback_ray.training.float32_products import Float32Products


def loss_and_gradients(model: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    ids = torch.arange(48)[None]
    loss = model(input_ids=ids, labels=ids, use_cache=False).loss
    loss.backward()
    return loss.detach(), {name: value.grad.clone() for name, value in model.named_parameters()}


def test_products_in_float32_train_as_bf16_up_to_rounding() -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, initializer_range=0.2,
    )  # fmt: skip
    model = LlamaForCausalLM(config).to(torch.bfloat16).train()
    plain_loss, plain = loss_and_gradients(model)
    with Float32Products():
        loss, gradients = loss_and_gradients(model)
    torch.testing.assert_close(loss, plain_loss, rtol=2e-3, atol=0)
    for name, gradient in gradients.items():
        assert gradient.dtype == torch.bfloat16
        error = (gradient.float() - plain[name].float()).norm() / plain[name].float().norm()
        assert error < 0.03, name


def test_products_in_float32_keep_bf16_outputs_and_leave_float32_alone() -> None:
    weight, states = torch.randn(5, 8), torch.randn(3, 8)
    in_bf16 = weight.bfloat16(), states.bfloat16()
    with Float32Products():
        rounded = torch.nn.functional.linear(in_bf16[1], in_bf16[0])
        exact = torch.nn.functional.linear(states, weight)
    in_float32 = in_bf16[1].float() @ in_bf16[0].float().T
    assert torch.equal(rounded, in_float32.bfloat16())
    assert torch.equal(exact, torch.nn.functional.linear(states, weight))
