"""One vLLM engine, fed and stepped by one thread of an actor (`engine_actor.py`).

It wraps the synchronous `LLMEngine`, because a pass needs whole answers and streams no tokens
(benchmarks/LOG.md, "The 5M model reaches 0.88 of the bare engine").
(https://docs.vllm.ai/en/latest/api/vllm/v1/engine/llm_engine/)
"""

from __future__ import annotations

import math
import os
from contextlib import nullcontext
from typing import Any

from humpback_ray.config.placement import EnginePlacement
from humpback_ray.models.local import first_alone, local_folder
from humpback_ray.rows import Finish
from humpback_ray.serving import vllm_plugin
from humpback_ray.serving.failures import RequestRefused
from humpback_ray.serving.requests import Generation, Request, ServedModel, load_tokenizer


def environment(placement: EnginePlacement) -> dict[str, str]:
    """Environment variables of the engine's process, which libraries read at import."""
    variables = {
        vllm_plugin.ENABLED: "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_NO_USAGE_STATS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if placement.device == "cpu":
        # vLLM's default binding leaves out one core and binds every engine of the machine to the
        # same cores, so `nobind` with an explicit thread count. The worker's separate process only
        # serves the binding; without it each start takes ten seconds less.
        variables |= {
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_CPU_KVCACHE_SPACE": str(placement.cpu_kv_cache_gib),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": str(max((os.cpu_count() or 1) // placement.max_engines, 1)),
        }
    return variables


def arguments(model: ServedModel, placement: EnginePlacement) -> dict[str, Any]:
    """vLLM's engine arguments for a model at a placement."""
    num_devices = placement.tensor_parallel_size * placement.pipeline_parallel_size
    values: dict[str, Any] = {
        "model": local_folder(model.location),
        "max_model_len": model.context_length,
        "dtype": model.dtype,
        "quantization": model.quantization,
        "load_format": model.load_format,
        "revision": model.revision,
        "tokenizer_revision": model.revision,
        "trust_remote_code": model.trust_remote_code,
        "enforce_eager": placement.enforce_eager,
        "tensor_parallel_size": placement.tensor_parallel_size,
        "pipeline_parallel_size": placement.pipeline_parallel_size,
        # With several devices the workers are Ray actors in the bundles of the engine's placement
        # group, which may span nodes. One device needs no further process.
        "distributed_executor_backend": "ray" if num_devices > 1 else "uni",
        "enable_prefix_caching": True,  # computes the rubric once for all pairs
        "disable_log_stats": True,  # the actor counts tokens from the answers
    }
    if model.head_dtype:
        values["hf_overrides"] = {"head_dtype": model.head_dtype}
    if placement.max_num_seqs:
        values["max_num_seqs"] = placement.max_num_seqs
    if placement.device == "cpu":
        # vLLM 0.29 rewinds a request's generator after part of a prompt, which a CPU generator
        # cannot do, so a seeded request in a chunked prefill would kill the engine.
        values["enable_chunked_prefill"] = False
        values["max_num_batched_tokens"] = max(model.context_length, 4096)
    else:
        values["gpu_memory_utilization"] = placement.gpu_memory_utilization
    return values


class VLLMEngine:
    """Takes requests at any time and returns whole answers in the order of their completion."""

    def __init__(self, model: ServedModel, placement: EnginePlacement) -> None:
        from vllm import EngineArgs, LLMEngine
        from vllm.usage.usage_lib import UsageContext

        self._tokenizer = load_tokenizer(model)
        engine_arguments = EngineArgs(**arguments(model, placement))
        # The engines of a node compile the same model into one cache.
        turn = nullcontext() if placement.enforce_eager else first_alone(repr(engine_arguments))
        with turn:
            # vLLM's defaults for requests and tokens per step depend on the usage context: 1,024
            # and 16,384 offline on an H100, 128 and 2,048 without a context.
            self._engine = LLMEngine.from_engine_args(engine_arguments, UsageContext.LLM_CLASS)
        self._score_from: dict[str, tuple[int, list[int]]] = {}

    def add(self, key: str, request: Request) -> None:
        """Queue a request under a key that no unfinished request has.

        Raises:
            RequestRefused: the engine refuses this request.
        """
        from vllm import SamplingParams
        from vllm.exceptions import VLLMClientError
        from vllm.sampling_params import RequestOutputKind

        try:
            sampling = SamplingParams(
                max_tokens=request.max_tokens,
                temperature=request.temperature,
                top_p=request.top_p,
                seed=request.seed if request.temperature else None,
                logprob_token_ids=request.wanted_ids,
                prompt_logprobs=None if request.score_from is None else 0,
                # `_generation` decodes once at the end, because no stop string needs the text.
                detokenize=False,
                output_kind=RequestOutputKind.FINAL_ONLY,
            )
            self._engine.add_request(key, {"prompt_token_ids": request.prompt_ids}, sampling)
        except VLLMClientError as error:
            raise RequestRefused(str(error)) from error
        self._score_from[key] = (request.score_from or 0, request.wanted_ids or [])

    @property
    def num_unfinished(self) -> int:
        """Number of requests without an answer yet."""
        return len(self._score_from)

    def step(self) -> list[tuple[str, Generation]]:
        """Run the model once; returns the finished answers with their keys."""
        return [
            (output.request_id, self._generation(output))
            for output in self._engine.step()
            if output.finished
        ]

    def _generation(self, output: Any) -> Generation:
        score_from, wanted_ids = self._score_from.pop(output.request_id)
        answer = output.outputs[0]
        finish = Finish.STOP if answer.finish_reason == "stop" else Finish.LENGTH
        prompt_logprobs: tuple[float, ...] = ()
        if output.prompt_logprobs:
            steps = zip(output.prompt_logprobs, output.prompt_token_ids, strict=True)
            prompt_logprobs = tuple(
                float(step[token].logprob) for step, token in list(steps)[score_from:]
            )
        wanted: tuple[float, ...] = ()
        if wanted_ids:
            # vLLM adds the sampled token if it is not among the wanted ones.
            logprobs = answer.logprobs[0]
            wanted = tuple(
                float(logprobs[token].logprob) if token in logprobs else -math.inf
                for token in wanted_ids
            )
        return Generation(
            text=self._tokenizer.decode(answer.token_ids, skip_special_tokens=True),
            finish=finish,
            num_prompt_tokens=len(output.prompt_token_ids),
            num_generated_tokens=len(answer.token_ids),
            num_cached_tokens=output.num_cached_tokens or 0,
            wanted_logprobs=wanted,
            prompt_logprobs=prompt_logprobs,
        )
