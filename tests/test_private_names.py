"""Names of libraries that their makers promise to nobody, each with the place that relies on it.

An upgrade that renames one fails here, in seconds, and not in a run.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest


def parameters(function: Callable[..., Any]) -> set[str]:
    return set(inspect.signature(function).parameters)


def finetune_shortens_the_cleaners_stop() -> None:
    from ray.train.v2._internal.callbacks import placement_group_callback
    from ray.train.v2.api import data_parallel_trainer

    # The module is imported first as Ray has it; `finetune` puts a partial of the class there.
    cleaner = placement_group_callback.PlacementGroupCleanerCallback
    in_trainer = data_parallel_trainer.PlacementGroupCleanerCallback
    assert cleaner in (in_trainer, getattr(in_trainer, "func", None))
    assert "stop_timeout" in parameters(cleaner)
    # The trainer looks the name up in its module when it starts.
    trainer = inspect.getsource(data_parallel_trainer.DataParallelTrainer)
    assert " = PlacementGroupCleanerCallback()" in trainer


def checkpoints_ask_for_the_storage() -> None:
    from ray.train.v2._internal.execution.storage import StorageContext
    from ray.train.v2.api.context import DistributedTrainContext

    assert parameters(DistributedTrainContext.get_storage) == {"self"}
    fields = inspect.getsource(StorageContext)
    assert "self.storage_filesystem" in fields
    assert isinstance(StorageContext.experiment_fs_path, property)


def loop_asks_for_preemption() -> None:
    import ray.train

    assert not parameters(ray.train.get_preemption_info)


def generate_counts_the_rows_of_bundles() -> None:
    import ray.data
    from ray.data._internal.execution.interfaces import RefBundle

    assert parameters(ray.data.Dataset.iter_internal_ref_bundles) == {"self"}
    assert parameters(RefBundle.num_rows) == {"self"}


def pools_place_actors_themselves() -> None:
    import ray.data

    of_batches = parameters(ray.data.Dataset.map_batches)
    assert {"ray_remote_args_fn", "zero_copy_batch"} <= of_batches
    assert parameters(ray.data.ActorPoolStrategy) >= {
        "size",
        "max_concurrent_calls_per_actor",
        "max_tasks_in_flight_per_actor",
        "enable_true_multi_threading",
    }


def endpoint_awaits_batches() -> None:
    from ray.data._internal.planner import plan_udf_map_op

    class Actor:
        async def __call__(self, batch: Any) -> Any: ...

    assert plan_udf_map_op._is_async_udf(Actor.__call__)


def nodes_find_the_dashboard() -> None:
    from ray._private.worker import get_dashboard_url

    assert not parameters(get_dashboard_url)


def nodes_see_token_authentication() -> None:
    from ray._private.authentication.authentication_utils import is_token_auth_enabled

    assert not parameters(is_token_auth_enabled)
    assert is_token_auth_enabled() in (True, False)


def nodes_read_the_autoscalers_arguments() -> None:
    from ray._private import services

    source = inspect.getsource(services.start_monitor)
    assert '"--autoscaling-config="' in source
    assert "--gcs-address=" in source


def nodes_know_the_head() -> None:
    from ray._common.constants import HEAD_NODE_RESOURCE_NAME

    assert HEAD_NODE_RESOURCE_NAME == "node:__internal_head__"


def connect_quietens_logs() -> None:
    from ray.util.annotations import RayDeprecationWarning

    assert issubclass(RayDeprecationWarning, Warning)


def submission_uploads_every_folder() -> None:
    from ray._private import ray_constants

    names = inspect.getsource(ray_constants)
    assert '"RAY_OVERRIDE_RUNTIME_ENV_DEFAULT_EXCLUDES"' in names


def engine_leaves_out_shared_memory_kernels() -> None:
    import deepspeed.ops

    assert "deepspeed_shm_comm" in deepspeed.ops.__compatible_ops__


def training_reads_partitioned_parameters() -> None:
    from deepspeed.runtime.zero.partition_parameters import GatheredParameters, Init

    source = inspect.getsource(Init)
    for name in ("ds_id", "ds_shape", "ds_numel"):
        assert f"param.{name} = " in source
    assert {"params", "enabled"} <= parameters(GatheredParameters)


def checkpoints_are_converted_to_the_universal_form() -> None:
    from deepspeed.checkpoint import ds_to_universal

    options = inspect.getsource(ds_to_universal.parse_arguments)
    for option in ("--input_folder", "--output_folder", "--inject_missing_state"):
        assert f"'{option}'" in options
    assert "__main__" in inspect.getsource(ds_to_universal)


def engine_partitions_while_loading() -> None:
    from transformers.integrations import HfDeepSpeedConfig

    assert parameters(HfDeepSpeedConfig) == {"config_file_or_dict"}


def export_knows_converted_and_tied_weights() -> None:
    import transformers
    from transformers import LlamaConfig, LlamaForCausalLM, core_model_loading

    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 1}
    config = LlamaConfig(
        vocab_size=8, num_hidden_layers=1, num_key_value_heads=1, tie_word_embeddings=True, **sizes
    )
    assert set(LlamaForCausalLM(config).all_tied_weights_keys) == {"lm_head.weight"}
    assert "model._weight_conversions = " in inspect.getsource(core_model_loading)
    assert "state_dict" in parameters(transformers.PreTrainedModel.save_pretrained)


def attention_asks_for_flash_attention() -> None:
    from transformers.utils import is_flash_attn_2_available

    assert is_flash_attn_2_available() in (True, False)


def bf16_products_ask_for_instructions() -> None:
    import torch

    assert torch.ops.mkldnn._is_mkldnn_bf16_supported() in (True, False)


def lora_reads_pefts_layers() -> None:
    import torch
    from peft import LoraConfig, inject_adapter_in_model

    from humpback_ray.training import lora

    model = torch.nn.Sequential(torch.nn.Linear(2, 3))
    inject_adapter_in_model(LoraConfig(r=1, target_modules=["0"]), model)
    layer = model[0]
    assert layer.base_layer.weight.shape == (3, 2)
    assert layer.lora_A[lora.ADAPTER].weight.shape == (1, 2)
    assert layer.lora_B[lora.ADAPTER].weight.shape == (3, 1)
    assert layer.scaling[lora.ADAPTER] == 8.0
    assert "0.base_layer.weight" in model.state_dict()
    assert "0.lora_A.default.weight" in model.state_dict()


def storage_makes_a_files_folder() -> None:
    from fsspec.implementations.local import LocalFileSystem
    from fsspec.implementations.memory import MemoryFileSystem

    for filesystem in (LocalFileSystem(), MemoryFileSystem()):
        assert filesystem._parent("/a/b") == "/a"


def vllm_engine_is_built_for_offline_use() -> None:
    from vllm import LLMEngine
    from vllm.usage.usage_lib import UsageContext

    first, second, *_ = inspect.signature(LLMEngine.from_engine_args).parameters
    assert (first, second) == ("engine_args", "usage_context")
    assert UsageContext.LLM_CLASS in UsageContext
    assert parameters(LLMEngine.step) == {"self"}
    assert list(inspect.signature(LLMEngine.add_request).parameters)[1:4] == [
        "request_id",
        "prompt",
        "params",
    ]


def vllm_engine_asks_for_grades_and_whole_answers() -> None:
    from vllm import SamplingParams
    from vllm.exceptions import VLLMClientError
    from vllm.sampling_params import RequestOutputKind

    assert {"logprob_token_ids", "prompt_logprobs", "detokenize", "output_kind"} <= parameters(
        SamplingParams
    )
    assert RequestOutputKind.FINAL_ONLY in RequestOutputKind
    assert issubclass(VLLMClientError, Exception)


def vllm_plugin_is_loaded_by_its_group() -> None:
    from importlib.metadata import entry_points

    from vllm import plugins

    assert plugins.DEFAULT_PLUGINS_GROUP == "vllm.general_plugins"
    assert "humpback_end_with_parent" in entry_points(group=plugins.DEFAULT_PLUGINS_GROUP).names


def endpoint_client_leaves_headers_out() -> None:
    import openai

    assert isinstance(openai.omit, openai.Omit)


def engine_takes_ligers_kernels() -> None:
    transformers = pytest.importorskip(
        "liger_kernel.transformers", reason="liger-kernel is in the gpu extra alone: it needs CUDA"
    )
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN

    assert "model" in parameters(transformers._apply_liger_kernel_to_instance)
    assert "llama" in MODEL_TYPE_TO_APPLY_LIGER_FN
    assert "fused_linear_cross_entropy" in parameters(MODEL_TYPE_TO_APPLY_LIGER_FN["llama"])


RELIED_ON = {
    "training/finetune.py: PlacementGroupCleanerCallback": finetune_shortens_the_cleaners_stop,
    "training/deepspeed_engine.py: HfDeepSpeedConfig": engine_partitions_while_loading,
    "training/checkpoints.py: StorageContext": checkpoints_ask_for_the_storage,
    "training/checkpoints.py: ds_to_universal": checkpoints_are_converted_to_the_universal_form,
    "training/loop.py: get_preemption_info": loop_asks_for_preemption,
    "training/deepspeed_engine.py: __compatible_ops__": engine_leaves_out_shared_memory_kernels,
    "training/deepspeed_engine.py: ds_id, ds_shape": training_reads_partitioned_parameters,
    "training/deepspeed_engine.py: is_flash_attn_2": attention_asks_for_flash_attention,
    "training/deepspeed_engine.py: liger": engine_takes_ligers_kernels,
    "training/export.py: _weight_conversions": export_knows_converted_and_tied_weights,
    "training/float32_products.py: _is_mkldnn_bf16": bf16_products_ask_for_instructions,
    "training/lora.py: lora_A, base_layer": lora_reads_pefts_layers,
    "serving/generate.py: iter_internal_ref_bundles": generate_counts_the_rows_of_bundles,
    "serving/pool.py: ActorPoolStrategy": pools_place_actors_themselves,
    "serving/endpoint.py: async batches": endpoint_awaits_batches,
    "serving/endpoint_client.py: omit": endpoint_client_leaves_headers_out,
    "serving/vllm_engine.py: LLMEngine": vllm_engine_is_built_for_offline_use,
    "serving/vllm_engine.py: SamplingParams": vllm_engine_asks_for_grades_and_whole_answers,
    "serving/vllm_plugin.py: general_plugins": vllm_plugin_is_loaded_by_its_group,
    "cluster/nodes.py: get_dashboard_url": nodes_find_the_dashboard,
    "cluster/nodes.py: is_token_auth_enabled": nodes_see_token_authentication,
    "cluster/nodes.py: --autoscaling-config": nodes_read_the_autoscalers_arguments,
    "cluster/nodes.py: __internal_head__": nodes_know_the_head,
    "cluster/connect.py: RayDeprecationWarning": connect_quietens_logs,
    "cluster/jobs.py: RUNTIME_ENV_DEFAULT_EXCLUDES": submission_uploads_every_folder,
    "storage.py: _parent": storage_makes_a_files_folder,
}


@pytest.mark.parametrize("check", RELIED_ON.values(), ids=RELIED_ON.keys())
def test_private_name_in_use_exists(check):
    check()
