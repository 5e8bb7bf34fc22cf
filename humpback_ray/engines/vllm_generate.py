"""Rows through a pool of vLLM engines with `ray.data.llm`: one row in, one row out.

A row that an engine cannot answer comes back with the reason as its `Finish`; nothing is dropped
here. (https://docs.ray.io/en/latest/data/working-with-llms.html)
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import ray.data
from ray.data.llm import build_processor, vLLMEngineProcessorConfig

from humpback_ray.config import EnginePlacement
from humpback_ray.engines import vllm_plugin
from humpback_ray.records import Finish

# Columns that travel beside a row through the engine.
REFUSAL = "engine_refusal"
LIMIT = "engine_max_tokens"
NUM_PROMPT = "engine_num_prompt_tokens"
END_TOKEN = "engine_end_token"
SCORE_FROM = "engine_score_from"
WANTED_IDS = "engine_wanted_ids"


@dataclass(frozen=True)
class Model:
    """A model as the engines serve it. Every field decides what is generated."""

    location: str  # folder, URL or hub id
    context_length: int  # tokens of prompt and answer together
    dtype: str  # of the engine's arithmetic, or `auto`
    trust_remote_code: bool = False


@dataclass(frozen=True)
class Request:
    """What one row asks of the engine. Ids, not text: what is trained on is what is sent.

    The rows of one pass agree in whether `wanted_ids` and `score_from` are given: between tasks
    they are columns, and a column of some integers and some nulls comes back as floats.
    """

    prompt_ids: list[int]  # empty: there is nothing to ask, the row finishes as EMPTY_PROMPT
    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    wanted_ids: list[int] | None = None  # whose log-probability as the next token is wanted
    score_from: int | None = None  # position in the prompt from where log-probabilities are wanted


@dataclass(frozen=True)
class Generation:
    """What came back for one row."""

    text: str
    finish: Finish
    num_prompt_tokens: int
    num_generated_tokens: int
    wanted_logprobs: list[float]  # nats, in the order of `wanted_ids`
    prompt_logprobs: list[float]  # nats, of the prompt's tokens from `score_from` on


def row_seed(random_seed: int, row_id: str, round_: str) -> int:
    """A sampling seed for one row that no batch, engine or resume can change."""
    digest = hashlib.sha256(f"{random_seed}/{row_id}/{round_}".encode()).digest()
    return int.from_bytes(digest[:4], "big")


@cache
def load_tokenizer(model: Model) -> Any:
    """The tokenizer of a model, loaded once in each process."""
    from transformers import AutoTokenizer

    from humpback_ray.engines.models import local_folder

    return AutoTokenizer.from_pretrained(
        local_folder(model.location, weights=False), trust_remote_code=model.trust_remote_code
    )


def generate(
    rows: ray.data.Dataset,
    *,
    model: Model,
    engine: EnginePlacement,
    to_request: Callable[[dict[str, Any], Any], Request],
    to_row: Callable[[dict[str, Any], Generation], dict[str, Any]],
) -> ray.data.Dataset:
    """Send every row through a pool of engines. Lazy, as Ray Data is.

    Args:
        rows: any dataset; its columns reach `to_request` and `to_row`. The names `prompt`, `model`
            and those in this module's constants are taken.
        model: what vLLM loads.
        engine: how many engines, and where.
        to_request: (row, tokenizer) to Request; runs in CPU tasks.
        to_row: (row, Generation) to the row that is written; runs in CPU tasks.
    """
    processor = build_processor(
        _processor_config(model, engine),
        preprocess=partial(prepare, model=model, to_request=to_request),
    )
    # Ray Data restarts an actor and retries its rows without end, and an engine that fails on a
    # certain row, or cannot start, would then loop in silence.
    arguments = processor.get_stage_by_name("vLLMEngineStage").map_batches_kwargs
    arguments |= {"max_restarts": engine.max_restarts, "max_task_retries": engine.max_restarts}
    return processor(rows).map(partial(finish, to_row=to_row))


def _processor_config(model: Model, engine: EnginePlacement) -> vLLMEngineProcessorConfig:
    arguments: dict[str, Any] = {
        "max_model_len": model.context_length,
        "dtype": model.dtype,
        "enforce_eager": engine.enforce_eager,
        "tensor_parallel_size": engine.tensor_parallel_size,
        "pipeline_parallel_size": engine.pipeline_parallel_size,
        "enable_prefix_caching": True,  # the rubric is computed once for all pairs
        "trust_remote_code": model.trust_remote_code,
    }
    if engine.max_num_seqs:
        arguments["max_num_seqs"] = engine.max_num_seqs
    variables = {
        vllm_plugin.ENABLED: "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_NO_USAGE_STATS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    placement_group = None
    if engine.device == "cpu":
        placement_group = {"bundle_per_worker": {"CPU": 1}}
        # `nobind` with an explicit thread count: the engine's own choice leaves out one core and
        # binds every engine of the machine to the same ones. Then the worker needs no process of
        # its own, which only serves the binding: one process and ten seconds less at each start.
        variables |= {
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_CPU_KVCACHE_SPACE": str(engine.cpu_kv_cache_gib),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": str(max((os.cpu_count() or 1) // engine.max_engines, 1)),
        }
        # After half a prompt vLLM 0.29 rewinds the request's generator, and a CPU generator cannot
        # be rewound: a seeded request in a chunked prefill ends the engine.
        arguments["enable_chunked_prefill"] = False
        arguments["max_num_batched_tokens"] = max(model.context_length, 4096)
    else:
        arguments["gpu_memory_utilization"] = engine.gpu_memory_utilization
    return vLLMEngineProcessorConfig(
        model_source=model.location,
        engine_kwargs=arguments,
        concurrency=(engine.min_engines, engine.max_engines),
        batch_size=engine.rows_per_batch,
        max_concurrent_batches=engine.max_concurrent_batches,
        accelerator_type=engine.accelerator_type,
        placement_group_config=placement_group,
        # One bad request is a row with an outcome. `max_errored_blocks` would lose whole blocks.
        should_continue_on_error=True,
        # vLLM's exporter to Ray's metrics imports ray.serve, which ray[data,train] does not bring.
        log_engine_metrics=False,
        chat_template_stage=False,
        tokenize_stage=False,
        detokenize_stage=False,
        runtime_env={"env_vars": variables},
    )


def prepare(
    row: dict[str, Any], *, model: Model, to_request: Callable[[dict[str, Any], Any], Request]
) -> dict[str, Any]:
    """What goes to the engine for a row: prompt ids, sampling, and what `finish` needs back."""
    tokenizer = load_tokenizer(model)
    request = to_request(row, tokenizer)
    num_prompt = len(request.prompt_ids)
    refusal = ""
    if not num_prompt:
        refusal = Finish.EMPTY_PROMPT.value
    elif num_prompt >= model.context_length:
        refusal = Finish.PROMPT_TOO_LONG.value
    max_tokens = max(min(request.max_tokens, model.context_length - num_prompt), 1)
    sampling: dict[str, Any] = {
        "max_tokens": max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "seed": request.seed,
        "logprob_token_ids": request.wanted_ids,
        "prompt_logprobs": None if request.score_from is None else 0,
    }
    return {
        # The stage between has no way to let a row pass by the engine, so a row that must not be
        # answered goes in without a prompt, which the engine's front refuses at no cost.
        "tokenized_prompt": [] if refusal else request.prompt_ids,
        "sampling_params": {name: value for name, value in sampling.items() if value is not None},
        REFUSAL: refusal,
        LIMIT: max_tokens,
        NUM_PROMPT: num_prompt,
        END_TOKEN: tokenizer.eos_token_id,
        SCORE_FROM: num_prompt if request.score_from is None else request.score_from,
        WANTED_IDS: request.wanted_ids or [],
    }


def finish(
    row: dict[str, Any], *, to_row: Callable[[dict[str, Any], Generation], dict[str, Any]]
) -> dict[str, Any]:
    """The row to write, out of what came back from the engine or its refusal."""
    if row["__inference_error__"]:
        finish = Finish(row[REFUSAL] or Finish.ENGINE_ERROR)
        return to_row(row, Generation("", finish, int(row[NUM_PROMPT]), 0, [], []))
    num_generated = int(row["num_generated_tokens"])
    ended = num_generated > 0 and int(row["generated_tokens"][-1]) == row[END_TOKEN]
    generation = Generation(
        text=row["generated_text"],
        # The engine's own reason is not passed on by ray.data.llm. A generation that filled its
        # limit was cut, unless its last token ended the turn.
        finish=Finish.LENGTH if num_generated == row[LIMIT] and not ended else Finish.STOP,
        num_prompt_tokens=int(row[NUM_PROMPT]),
        num_generated_tokens=num_generated,
        wanted_logprobs=_wanted_logprobs(row),
        prompt_logprobs=_prompt_logprobs(row),
    )
    return to_row(row, generation)


def _wanted_logprobs(row: dict[str, Any]) -> list[float]:
    wanted = row[WANTED_IDS]
    if len(wanted) == 0:
        return []
    # The sampled token comes along where it is none of those asked for.
    found = {int(token): entry["logprob"] for token, entry in row["logprobs"][0].items()}
    return [float(found.get(int(token), -math.inf)) for token in wanted]


def _prompt_logprobs(row: dict[str, Any]) -> list[float]:
    first = int(row[SCORE_FROM])
    if first == row[NUM_PROMPT]:
        return []
    steps = zip(row["prompt_logprobs"], row["prompt_token_ids"], strict=True)
    return [float(step[int(token)]["logprob"]) for step, token in list(steps)[first:]]
