"""Training in bf16 on CPUs that have no instructions for it.

PyTorch multiplies bf16 matrices on such a CPU in a plain loop, ten to fifty times as slow as fp32.
The product of two bf16 numbers is exact in fp32, and bf16 products are summed in fp32 on every
device. So the same product in fp32, rounded to bf16 at its end, differs only by the order of a sum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from humpback_ray.training.task import TrainingJob

PRODUCTS = {
    torch.nn.functional.linear,
    torch.nn.functional.scaled_dot_product_attention,
    torch.matmul,
    torch.Tensor.matmul,
    torch.Tensor.__matmul__,
    torch.mm,
    torch.addmm,
    torch.bmm,
}


def fast_products(job: TrainingJob) -> AbstractContextManager[object]:
    """The context in which this node's CPU trains a bf16 job fastest; elsewhere it does nothing."""
    is_slow = (
        job.placement.device == "cpu"
        and job.settings.precision == "bf16"
        and not torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )
    return Float32Products() if is_slow else nullcontext()


class Float32Products(TorchFunctionMode):
    """Computes products of bf16 tensors, and their gradients, in fp32."""

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Call a function of torch, with fp32 copies of its bf16 arguments if it is a product."""
        kwargs = kwargs or {}
        if function not in PRODUCTS or not any(map(_is_bf16, (*args, *kwargs.values()))):
            return function(*args, **kwargs)
        args = [_float32(value) for value in args]
        kwargs = {name: _float32(value) for name, value in kwargs.items()}
        return function(*args, **kwargs).to(torch.bfloat16)


def _is_bf16(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.dtype == torch.bfloat16


def _float32(value: Any) -> Any:
    return value.float() if _is_bf16(value) else value
