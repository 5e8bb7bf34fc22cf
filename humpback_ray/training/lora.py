"""LoRA adapters (arXiv 2106.09685) through peft: put into a model, and merged into its weights.

The functions import peft themselves, because most trainings do not need it.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from humpback_ray.config.settings import LoraSettings
from humpback_ray.errors import UserError
from humpback_ray.models.local import local_folder
from humpback_ray.training.task import BaseModel

ADAPTER = "default"  # peft's name for an adapter without a name


def add_adapters(model: torch.nn.Module, settings: LoraSettings, random_seed: int) -> None:
    """Freeze a model and put adapters into it, in place; the model keeps its class.

    peft draws their first values after `torch.manual_seed(random_seed)`, so they are the same on
    every rank and for every placement.
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


def check_targets(base: BaseModel, settings: LoraSettings) -> None:
    """Refuse modules that the base model does not have, or that could not be merged into it.

    Raises:
        UserError: none of the names is a linear layer, or a layer shares its weight.
    """
    if isinstance(settings.target_modules, str):
        return
    folder = local_folder(base.location, weights=False)
    config = AutoConfig.from_pretrained(folder, **base.load_options)
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(
            config, trust_remote_code=base.trust_remote_code
        )
    linear = [name for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)]
    shared = {name.removesuffix(".weight") for name in model.all_tied_weights_keys}
    for target in settings.target_modules:
        layers = [name for name in linear if name == target or name.endswith(f".{target}")]
        if not layers or shared.intersection(layers):
            choices = sorted({name.rpartition(".")[2] for name in linear if name not in shared})
            why = "shares its weight with the embedding" if layers else "is no linear layer"
            raise UserError(
                f"the training's lora.target_modules has {target!r}, which {why} of "
                f"{base.location!r}: choose from {', '.join(choices)}, or set it to all-linear"
            )


def num_parameters(model: torch.nn.Module) -> tuple[int, int]:
    """Numbers of trained and of all parameters, of the whole model also under ZeRO-3."""
    sizes = [(getattr(p, "ds_numel", p.numel()), p.requires_grad) for p in model.parameters()]
    return sum(size for size, trained in sizes if trained), sum(size for size, _ in sizes)


def base_name(name: str) -> str | None:
    """A tensor's name in the model without adapters; None for a tensor of an adapter."""
    return None if ".lora_" in name else name.replace(".base_layer.", ".")


def adapters_of(model: torch.nn.Module) -> dict[str, Any]:
    """peft's layers by the name of the weight that their adapter changes; empty without LoRA."""
    layers = ((name, module) for name, module in model.named_modules() if hasattr(module, "lora_A"))
    return {f"{name}.base_layer.weight": module for name, module in layers}


def matrices_of(adapter: Any) -> list[torch.nn.Parameter]:
    """A (rank, inputs) and B (outputs, rank) of a layer's adapter."""
    return [adapter.lora_A[ADAPTER].weight, adapter.lora_B[ADAPTER].weight]


def merged(weight: torch.Tensor, adapter: Any) -> torch.Tensor:
    """W + (alpha / rank) B A in fp32; all three must be whole."""
    down, up = (matrix.detach().float() for matrix in matrices_of(adapter))
    return torch.addmm(weight.float(), up, down, alpha=adapter.scaling[ADAPTER])
