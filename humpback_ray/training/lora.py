"""LoRA adapters (arXiv 2106.09685) through peft: put into a model, and merged into its weights.

peft is imported inside the functions, because the driver needs it for such trainings alone.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from humpback_ray.config.settings import LoraSettings
from humpback_ray.errors import UserError

ADAPTER = "default"  # peft's own name for an adapter that is given none


def add_adapters(model: torch.nn.Module, settings: LoraSettings, random_seed: int) -> None:
    """Freeze a model and put adapters into it, in place; the model keeps its class.

    Their first values are peft's, drawn after `torch.manual_seed(random_seed)`: the same on every
    rank and for every placement.
    """
    from peft import LoraConfig, inject_adapter_in_model

    names = settings.target_modules
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=names if isinstance(names, str) else list(names),
        task_type="CAUSAL_LM",
    )
    torch.manual_seed(random_seed)
    inject_adapter_in_model(config, model)


def check_targets(base_model: str, settings: LoraSettings, source: dict[str, Any]) -> None:
    """Refuse modules that the base model has not got or that cannot be merged again.

    Args:
        base_model: local folder with config.json, or hub id.
        settings: the adapters.
        source: how transformers finds the model beside its place.

    Raises:
        UserError: none of the names is a linear layer, or a layer shares its weight.
    """
    if isinstance(settings.target_modules, str):
        return
    config = AutoConfig.from_pretrained(base_model, **source)
    trust = source["trust_remote_code"]
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config, trust_remote_code=trust)
    linear = [name for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)]
    shared = {name.removesuffix(".weight") for name in model.all_tied_weights_keys}
    for target in settings.target_modules:
        found = [name for name in linear if name == target or name.endswith(f".{target}")]
        if not found or shared.intersection(found):
            known = sorted({name.rpartition(".")[2] for name in linear if name not in shared})
            why = "shares its weight with the embedding" if found else "is no linear layer"
            raise UserError(
                f"the training's lora.target_modules has {target!r}, which {why} of "
                f"{base_model!r}: choose from {', '.join(known)}, or set it to all-linear"
            )


def num_parameters(model: torch.nn.Module) -> tuple[int, int]:
    """Parameters that are trained, and all of them; whole ones, also where ZeRO-3 has shares."""
    sizes = [(getattr(p, "ds_numel", p.numel()), p.requires_grad) for p in model.parameters()]
    return sum(size for size, trained in sizes if trained), sum(size for size, _ in sizes)


def base_name(name: str) -> str | None:
    """A tensor's name in the model without adapters; None for an adapter's own."""
    return None if ".lora_" in name else name.replace(".base_layer.", ".")


def adapters_of(model: torch.nn.Module) -> dict[str, Any]:
    """peft's layers by the name of the weight that their adapter changes; none without LoRA."""
    layers = ((name, module) for name, module in model.named_modules() if hasattr(module, "lora_A"))
    return {f"{name}.base_layer.weight": module for name, module in layers}


def matrices_of(adapter: Any) -> list[torch.nn.Parameter]:
    """A (rank, inputs) and B (outputs, rank) of a layer's adapter."""
    return [adapter.lora_A[ADAPTER].weight, adapter.lora_B[ADAPTER].weight]


def merged(weight: torch.Tensor, adapter: Any) -> torch.Tensor:
    """W + (alpha / rank) B A in fp32; all three must be whole."""
    down, up = (matrix.detach().float() for matrix in matrices_of(adapter))
    return torch.addmm(weight.float(), up, down, alpha=adapter.scaling[ADAPTER])
