"""Output tokens/s of our generate stage / bare vLLM, for two sizes of model.

Both sides get the same 512 prompts as text, the same engine arguments, environment and sampling,
and decode the answers. Both leave out start and warm-up. Our side's time runs from the engine's
readiness to the driver's last row, so it includes Ray Data's transport of rows in both directions.
The sides run in turns, each in a separate process.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import harness
import models
import psutil
from warm_engine import WarmEngine

from humpback_ray.config.placement import EnginePlacement
from humpback_ray.config.settings import LongPromptSettings, SamplingSettings
from humpback_ray.execution.stage import Source
from humpback_ray.method import prompts
from humpback_ray.rows import Candidate
from humpback_ray.serving import vllm_engine
from humpback_ray.serving.requests import RowTask, ServedModel, load_tokenizer
from humpback_ray.stages.augment import Augment, to_candidate

GOALS = {"5M": 0.85, "63M": 0.97}
TAG = "Answer in the style of an AI Assistant."


@dataclass(frozen=True)
class Case:
    """Inputs of all sides."""

    model: ServedModel
    placement: EnginePlacement
    sampling: SamplingSettings
    texts: tuple[str, ...]
    warm_up: tuple[str, ...]

    def rows(self, texts: Sequence[str]) -> list[dict[str, Any]]:
        return [
            {"segment_id": f"{at:05}", "candidate_id": f"{at:05}-0", "text": text}
            for at, text in enumerate(texts)
        ]

    def task(self) -> RowTask:
        stage = Augment(
            path="candidates", segments=Source("", None), model=Source(self.model.location, None),
            tag=TAG, sampling=self.sampling, num_candidates=1, long_prompts=LongPromptSettings(),
            context_length=self.model.context_length, dtype=self.model.dtype, random_seed=0,
        )  # fmt: skip
        return RowTask(
            self.model, "candidate_id", Candidate, stage.to_request, to_candidate, "text"
        )


def bare(case: Case) -> Generator[dict[str, Any], Any, None]:
    """vLLM's offline API on the rendered prompts."""
    from vllm import LLM, SamplingParams

    begin = load_tokenizer(case.model).bos_token
    engine = LLM(**vllm_engine.arguments(case.model, case.placement))
    to_request = case.task().to_request

    def generate(texts: Sequence[str]) -> list[Any]:
        sampling = [
            SamplingParams(
                max_tokens=case.sampling.max_tokens, temperature=case.sampling.temperature,
                top_p=case.sampling.top_p, seed=seed if case.sampling.temperature else None,
            )
            for seed in seeds[: len(texts)]
        ]  # fmt: skip
        rendered = [begin + prompts.render(prompts.backward_prompt(text), TAG) for text in texts]
        return engine.generate(rendered, sampling, use_tqdm=False)

    tokenizer = load_tokenizer(case.model)
    seeds = [to_request(row, tokenizer).seed for row in case.rows(case.texts)]
    generate(case.warm_up)
    yield {}
    while True:
        engine.reset_prefix_cache()
        began = time.process_time()
        seconds, outputs = harness.timed(lambda: generate(case.texts))
        cpu_seconds = time.process_time() - began
        answers = [output.outputs[0] for output in outputs]
        num_generated = sum(len(answer.token_ids) for answer in answers)
        num_prompt = sum(len(output.prompt_token_ids) for output in outputs)
        yield _figures(seconds, num_generated, num_prompt, cpu_seconds)


def ours(case: Case, folder: Path) -> Generator[dict[str, Any], Any, None]:
    """The rows through a `EnginePool`, as a stage sends them."""
    import pyarrow as pa
    import ray
    import ray.data

    from humpback_ray.serving.pool import EnginePool

    ray.init(
        address="local", num_cpus=4, include_dashboard=False, log_to_driver=False,
        logging_level="ERROR",
    )  # fmt: skip
    tokenizer, task = load_tokenizer(case.model), case.task()
    warm_up = [task.to_request(row, tokenizer) for row in case.rows(case.warm_up)]
    ready = folder / f"ready-{os.getpid()}"
    make_engine = partial(WarmEngine, warm_up=warm_up, ready_file=str(ready))
    size = case.placement.rows_per_batch
    rows = case.rows(case.texts)
    blocks = [pa.Table.from_pylist(rows[at : at + size]) for at in range(0, len(rows), size)]
    yield {}
    with EnginePool(task, case.placement, make_engine) as pool:
        answered = pool.through(ray.data.from_arrow(blocks))
        tables = [ray.get(ref) for ref in answered.to_arrow_refs()]
        finished = time.monotonic()
        (engine,) = pool.engines()
        used = psutil.Process(engine.pid).cpu_times()
    began, cpu_began = json.loads(ready.read_text())
    answers = pa.concat_tables(tables).to_pydict()
    assert sorted(answers["candidate_id"]) == [row["candidate_id"] for row in rows]
    yield _figures(
        finished - began,
        sum(answers["num_generated_tokens"]),
        sum(answers["num_prompt_tokens"]),
        used.user + used.system - cpu_began,
    ) | {"engine_busy_seconds": engine.counters.busy_seconds}


def ray_data_llm(case: Case, folder: Path) -> Generator[dict[str, Any], Any, None]:
    """A plain `ray.data.llm` processor; its time begins when its engine has answered the warm-up.

    The processor does not report when its engine has started, so the warm-up rows go through it
    first, and the others wait for them.
    """
    import ray
    import ray.data
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    ray.init(
        address="local", num_cpus=8, include_dashboard=False, log_to_driver=False,
        logging_level="ERROR",
    )  # fmt: skip
    ray.data.DataContext.get_current().enable_progress_bars = False
    arguments = vllm_engine.arguments(case.model, case.placement)
    config = vLLMEngineProcessorConfig(
        model_source=arguments.pop("model"),
        engine_kwargs=arguments,
        batch_size=case.placement.rows_per_batch,
        max_concurrent_batches=8,
        concurrency=1,
        log_engine_metrics=False,  # its exporter needs ray[serve]
        chat_template_stage=False,
        tokenize_stage=False,
        detokenize_stage=False,
        placement_group_config={"bundles": [{"CPU": 1}]},
        runtime_env={"env_vars": vllm_engine.environment(case.placement)},
    )
    begin = load_tokenizer(case.model).bos_token
    tokenizer, to_request = load_tokenizer(case.model), case.task().to_request
    size = case.placement.rows_per_batch
    warm_up, is_warm = case.warm_up[:size], folder / f"warm-{os.getpid()}"

    def asked(row: dict[str, Any]) -> dict[str, Any]:
        while row["text"] not in warm_up and not is_warm.exists():
            time.sleep(0.05)
        request = to_request(row, tokenizer)
        return {
            "prompt": begin + prompts.render(prompts.backward_prompt(row["text"]), TAG),
            "sampling_params": {
                "max_tokens": request.max_tokens, "temperature": request.temperature,
                "top_p": request.top_p, "seed": request.seed,
            },
        }  # fmt: skip

    def answered(row: dict[str, Any]) -> dict[str, Any]:
        return {
            "num_generated": row["num_generated_tokens"],
            "num_prompt": row["num_input_tokens"],
            "text": row["generated_text"],
        }

    processor = build_processor(config, preprocess=asked, postprocess=answered)
    yield {}
    rows = ray.data.from_items(case.rows((*warm_up, *case.texts)))
    rows = rows.repartition(target_num_rows_per_block=size)
    times, tokens, prompt_tokens = [], 0, 0
    for batch in processor(rows).iter_batches(batch_size=size, prefetch_batches=0):
        times.append(time.monotonic())
        is_warm.touch()
        if len(times) > 1:
            tokens += int(batch["num_generated"].sum())
            prompt_tokens += int(batch["num_prompt"].sum())
    yield _figures(times[-1] - times[0], tokens, prompt_tokens)


def _figures(
    seconds: float, num_generated: int, num_prompt: int, cpu_seconds: float | None = None
) -> dict[str, Any]:
    return {
        "value": num_generated / seconds,
        "seconds": seconds,
        "engine_cpu_seconds": cpu_seconds,
        "num_generated_tokens": num_generated,
        "num_prompt_tokens": num_prompt,
    }


def compare(size: str, options: Any, folder: Path) -> harness.Comparison:
    """The sides in turns, with one size of model."""
    model = models.create(size, folder)
    # Short prompts, because the model's work on long ones would hide the cost of a token.
    texts = [text[:80] for document in models.texts() for text in document.split("\n\n")]
    texts = list(dict.fromkeys(text for text in texts if len(text) > 40))
    case = Case(
        model,
        EnginePlacement(
            device="cpu", enforce_eager=True, max_num_seqs=256,
            rows_per_batch=options.rows_per_batch, max_concurrent_batches=options.batches,
        ),
        SamplingSettings(max_tokens=options.tokens, temperature=options.temperature),
        tuple(texts[: options.prompts]),
        tuple(texts[-256:]),
    )  # fmt: skip
    comparison = harness.Comparison(
        f"generate, {size}", "output tokens/s", "ours", "bare vLLM", GOALS[size]
    )
    environment = vllm_engine.environment(case.placement)
    with closing(harness.Side(bare, case, environment=environment)) as reference:
        reference.next()
        for _ in range(options.repeats):
            comparison.add("bare vLLM", **reference.next())
            comparison.add("ours", **_once(ours, case, folder))
            if options.ray_data_llm:
                comparison.add("ray.data.llm", **_once(ray_data_llm, case, folder))
    return comparison


def _once(function: Any, case: Case, folder: Path) -> dict[str, Any]:
    with closing(harness.Side(function, case, folder)) as side:
        side.next()
        return side.next()


def main() -> None:
    parser = harness.arguments(__doc__)
    parser.add_argument("--sizes", nargs="+", choices=GOALS, default=list(GOALS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=64, help="of each answer")
    parser.add_argument("--temperature", type=float, default=0.7, help="0: greedy, without seeds")
    parser.add_argument("--rows-per-batch", type=int, default=256)
    parser.add_argument("--batches", type=int, default=4, help="in the engine at a time")
    parser.add_argument("--ray-data-llm", action="store_true", help="a third side")
    options = parser.parse_args()
    with harness.scratch_folder() as folder:
        comparisons = [compare(size, options, folder) for size in options.sizes]
    harness.finish(comparisons, options.json)


if __name__ == "__main__":
    main()
