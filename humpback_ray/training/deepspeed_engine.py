"""The DeepSpeed engine around a base model: configuration, loading, optimizer, export.

The functions import DeepSpeed themselves: it picks its accelerator at import from DS_ACCELERATOR,
which only the workers have, and the driver imports this module too. Nothing here needs Ray.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from humpback_ray.models.local import local_folder
from humpback_ray.models.problems import set_dropout
from humpback_ray.training import lora
from humpback_ray.training.export import export_model
from humpback_ray.training.masters import StoredWeights, shape_of, stored_weights
from humpback_ray.training.packed_attention import use_packed_attention
from humpback_ray.training.task import TrainingJob

# Gradients that DeepSpeed sums over the ranks at a time. Its default of ten times as many takes
# 2 GB of fp32 even from the smallest model.
REDUCE_BUCKET = 50_000_000


def deepspeed_config(job: TrainingJob, num_workers: int) -> dict[str, Any]:
    """The DeepSpeed configuration of a job, https://www.deepspeed.ai/docs/config-json/."""
    placement = job.placement
    bf16 = job.settings.precision == "bf16"
    on_gpu = placement.device == "gpu"
    zero: dict[str, Any] = {
        "stage": job.zero_stage,
        "reduce_bucket_size": REDUCE_BUCKET,
        # A CPU has no streams that could overlap communication and computation, and below stage 2
        # DeepSpeed sums gradients over the ranks only once, at the step.
        "overlap_comm": on_gpu and job.zero_stage > 1,
        # One worker has nothing to scatter, and to do so DeepSpeed copies each bucket twice more.
        "reduce_scatter": on_gpu or num_workers > 1 or job.zero_stage > 1,
    }
    for key, device in (
        ("offload_optimizer", placement.offload_optimizer),
        ("offload_param", placement.offload_parameters),
    ):
        if device:
            zero[key] = {"device": device, "pin_memory": on_gpu}
            if device == "nvme":
                zero[key]["nvme_path"] = placement.nvme_path
    config: dict[str, Any] = {
        # The number of forward passes of a step depends on the lengths of its examples, so the
        # loop calls `step` after the last one. Its losses are already the batch's mean.
        "managed_gradient_accumulation": False,
        "train_batch_size": num_workers,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": job.settings.max_gradient_norm,
        "bf16": {"enabled": bf16},
        "zero_optimization": zero,
        # The loop reports every step to the driver, so DeepSpeed's lines would repeat it.
        "steps_per_print": None,
    }
    if bf16:
        # In bf16 the sum of many small gradients would depend on the micro-batches.
        config["data_types"] = {"grad_accum_dtype": "fp32"}
    return config


def build_engine(job: TrainingJob, num_workers: int, *, universal: bool = False) -> Any:
    """The DeepSpeed engine around the base model.

    Args:
        job: what to train.
        num_workers: ranks of this attempt.
        universal: prepare it for a checkpoint in DeepSpeed's universal form.
    """
    import deepspeed

    config = deepspeed_config(job, num_workers)
    model = load_model(job, config)
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=build_optimizer(model, job),
        config=config | ({"checkpoint": {"load_universal": True}} if universal else {}),
        dist_init_required=False,
    )
    return engine


def load_model(job: TrainingJob, config: dict[str, Any]) -> Any:
    """The base model; under ZeRO-3 each rank holds only its share of every parameter."""
    import deepspeed
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.integrations import HfDeepSpeedConfig

    if job.placement.device == "cpu":
        # Only inference uses the shared-memory kernels, and compiling them takes a minute.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    # DeepSpeed adopts the process group that Ray Train has made. This comes before the model is
    # loaded, because ZeRO-3 partitions it over the ranks that DeepSpeed knows by then.
    deepspeed.init_distributed()
    base = job.task.base
    folder = local_folder(base.location)
    # While this object lives, `from_pretrained` partitions a ZeRO-3 model as it loads it: rank 0
    # reads one tensor after the other from the mapped files, and the others get their shares.
    partitioning = HfDeepSpeedConfig(config)
    model_config = AutoConfig.from_pretrained(folder, **base.load_options)
    set_dropout(model_config, job.settings.dropout)
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        config=model_config,
        dtype=torch.bfloat16 if job.settings.precision == "bf16" else torch.float32,
        attn_implementation=attention(job.placement.device, job.settings.precision),
        use_safetensors=True,
        **base.load_options,
    )
    del partitioning
    if job.placement.kernels == "liger":
        from liger_kernel.transformers import _apply_liger_kernel_to_instance

        # `completion_loss` stays, because it is over the completions' positions alone.
        _apply_liger_kernel_to_instance(model, fused_linear_cross_entropy=False)
    if job.settings.lora:
        lora.add_adapters(model, job.settings.lora, job.task.random_seed)
    if job.placement.device == "cpu" and job.placement.packing:
        use_packed_attention(model)
    model.train()
    if job.placement.gradient_checkpointing:
        model.activation_checkpointing_enable()
    return model


def refuse_kernels(job: TrainingJob) -> str:
    """The reason why this node cannot use the placement's kernels; empty if it can.

    Liger itself silently leaves a model alone that it has no kernels for.
    """
    if job.placement.kernels == "torch":
        return ""
    way_out = "set placement.training.kernels to torch"
    try:
        from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN
    except ImportError as error:
        return f"Liger's kernels cannot be loaded ({error}): install the gpu extra, or {way_out}"
    from transformers import AutoConfig

    base = job.task.base
    kind = AutoConfig.from_pretrained(local_folder(base.location), **base.load_options).model_type
    if kind not in MODEL_TYPE_TO_APPLY_LIGER_FN:
        return f"Liger has no kernels for a {kind} model: {way_out}"
    return ""


def attention(device: str, precision: str) -> str:
    """The fastest attention on this machine that keeps packed examples apart.

    FlashAttention computes in 16 bits alone (https://github.com/Dao-AILab/flash-attention).
    """
    from transformers.utils import is_flash_attn_2_available

    can_flash = device == "gpu" and precision == "bf16" and is_flash_attn_2_available()
    return "flash_attention_2" if can_flash else "sdpa"


def build_optimizer(model: torch.nn.Module, job: TrainingJob) -> torch.optim.Optimizer:
    """AdamW over the trained parameters, with weight decay on matrices, not on norms and biases."""
    # Under ZeRO-3 a parameter is an empty shard here; `ds_shape` keeps the original shape.
    matrices: list[torch.nn.Parameter] = []
    vectors: list[torch.nn.Parameter] = []
    for parameter in filter(lambda parameter: parameter.requires_grad, model.parameters()):
        num_dimensions = len(getattr(parameter, "ds_shape", parameter.shape))
        (matrices if num_dimensions >= 2 else vectors).append(parameter)
    groups = [{"params": matrices, "weight_decay": job.settings.weight_decay}]
    if vectors:  # adapters have none, and DeepSpeed refuses a group without parameters
        groups.append({"params": vectors, "weight_decay": 0.0})
    options: dict[str, Any] = {
        "lr": job.settings.learning_rate,
        "betas": (job.settings.adam_beta1, job.settings.adam_beta2),
    }
    if job.placement.offload_optimizer:
        from deepspeed.ops.adam import DeepSpeedCPUAdam

        return DeepSpeedCPUAdam(groups, **options)
    return torch.optim.AdamW(groups, **options, fused=True)


# --- export -------------------------------------------------------------------------------------


def export(model: Any, job: TrainingJob, rank: int) -> None:
    """Write the model folder: all ranks gather one tensor after the other, rank 0 writes them."""
    base = job.task.base
    export_model(
        model=model,
        weights=gathered_weights(model, stored_weights(model, job)),
        is_writer=rank == 0,
        base=replace(base, location=local_folder(base.location)),
        output=job.output,
    )


def gathered_weights(
    model: Any, stored: StoredWeights | None = None
) -> Iterator[tuple[str, torch.Tensor]]:
    """Name and value of every parameter and saved buffer of the base model, whole.

    With LoRA each weight has its adapter merged into it. All ranks must iterate to the end. Only
    rank 0 may use the values, and each only until it advances the iterator. A tensor with several
    names comes under each of them.

    Args:
        stored: the base's weights where bf16 does not hold them. A trained weight then is the
            optimizer's fp32 one, and a frozen weight the stored one.
    """
    import deepspeed
    from deepspeed.utils import safe_get_full_fp32_param

    parameters = dict(model.named_parameters(remove_duplicate=False))
    adapters = lora.adapters_of(model)
    for name in model.state_dict():
        if (in_base := lora.base_name(name)) is None:
            continue
        if name not in parameters:
            yield in_base, model.get_buffer(name)
            continue
        parameter, adapter = parameters[name], adapters.get(name)
        shape = shape_of(parameter)
        if stored is not None and parameter.requires_grad:
            yield in_base, safe_get_full_fp32_param(parameter).view(shape)
            continue
        exact = stored.find(in_base, shape) if stored is not None else None
        needed = [parameter, *(lora.matrices_of(adapter) if adapter else [])]
        with deepspeed.zero.GatheredParameters(needed, enabled=hasattr(parameter, "ds_id")):
            weight = parameter.detach() if exact is None else exact[:].to(parameter.device)
            yield in_base, lora.merged(weight, adapter) if adapter else weight
