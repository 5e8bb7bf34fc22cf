"""Pairs/s of rating by probabilities / by a written rationale, with the same model and pairs.

`expected`: our engine and arguments, one token per pair, the rubric from the prefix cache.
`text`: vLLM's offline API with its defaults and no prefix caching, and a sampled rationale of 150
tokens, as the public reimplementation rates. Both sides have the same threads and number format. A
pair has 512 tokens of rubric, which all pairs share, and 480 more.
"""

from __future__ import annotations

import random
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import harness
import models

from humpback_ray.config.placement import EnginePlacement
from humpback_ray.method import tokens
from humpback_ray.serving import vllm_engine
from humpback_ray.serving.requests import Request, ServedModel, load_tokenizer

GOAL = 6.0
NUM_SHARED, NUM_OWN = 512, 480
# vLLM's default cache for a bf16 63M model holds 37 such pairs in one GiB, too few for `text`.
CACHE_GIB = 4


@dataclass(frozen=True)
class Case:
    """Inputs of both sides."""

    model: ServedModel
    placement: EnginePlacement

    def prompts(self, num_pairs: int, seed: int) -> list[list[int]]:
        """Token ids: the first 512 are the same for every seed, the others are each pair's."""
        vocabulary = range(300, len(load_tokenizer(self.model)))
        shared = random.Random(0).choices(vocabulary, k=NUM_SHARED)
        own = random.Random(seed)
        return [shared + own.choices(vocabulary, k=NUM_OWN) for _ in range(num_pairs)]


def expected(case: Case) -> Generator[dict[str, Any], Any, None]:
    """Rating requests through our engine, all at once."""
    engine = vllm_engine.VLLMEngine(case.model, case.placement)
    _, grades = tokens.grade_ids(load_tokenizer(case.model))

    def rate(prompts: Sequence[list[int]]) -> list[Any]:
        for number, prompt in enumerate(prompts):
            engine.add(f"{number}", Request(prompt, max_tokens=1, wanted_ids=grades))
        found = []
        while engine.num_unfinished:
            found += [generation for _, generation in engine.step()]
        return found

    rate(case.prompts(8, seed=1))
    num_pairs = yield {}
    for seed in range(2, 1000):
        prompts = case.prompts(num_pairs, seed)
        began = time.process_time()
        seconds, found = harness.timed(partial(rate, prompts))
        num_prompt = sum(generation.num_prompt_tokens for generation in found)
        num_pairs = yield {
            "value": len(found) / seconds,
            "seconds": seconds,
            "cpu_seconds": time.process_time() - began,
            "num_pairs": len(found),
            "without_score": sum(not generation.wanted_logprobs for generation in found),
            "hit_share": sum(generation.num_cached_tokens for generation in found) / num_prompt,
        }


def text(case: Case) -> Generator[dict[str, Any], Any, None]:
    """Rationales of so many tokens from vLLM's offline API."""
    from vllm import LLM, SamplingParams

    engine = LLM(
        case.model.location, dtype=case.model.dtype, max_model_len=case.model.context_length,
        enforce_eager=case.placement.enforce_eager, enable_prefix_caching=False,
        load_format=case.model.load_format,
    )  # fmt: skip

    def rate(prompts: Sequence[list[int]], num_tokens: int) -> list[Any]:
        sampling = SamplingParams(
            max_tokens=num_tokens, ignore_eos=True, temperature=1.0, top_p=0.9
        )
        asked = [{"prompt_token_ids": prompt} for prompt in prompts]
        return engine.generate(asked, sampling, use_tqdm=False)

    rate(case.prompts(8, seed=1), 8)
    num_pairs, num_tokens = yield {}
    for seed in range(2, 1000):
        prompts = case.prompts(num_pairs, seed)
        began = time.process_time()
        seconds, found = harness.timed(partial(rate, prompts, num_tokens))
        assert all(len(output.outputs[0].token_ids) == num_tokens for output in found)
        num_pairs, num_tokens = yield {
            "value": len(found) / seconds,
            "seconds": seconds,
            "cpu_seconds": time.process_time() - began,
            "num_pairs": len(found),
            "num_tokens": num_tokens,
        }


def compare(options: Any, folder: Path) -> list[harness.Comparison]:
    """Both sides in turns with rationales of 512 tokens, once, and of 150."""
    placement = EnginePlacement(device="cpu", enforce_eager=True, cpu_kv_cache_gib=CACHE_GIB)
    case = Case(models.create(options.size, folder), placement)
    environment = vllm_engine.environment(placement)
    by_expected = harness.Side(expected, case, environment=environment)
    by_text = harness.Side(text, case, environment=environment)
    by_expected.next()
    by_text.next()
    short, long = (
        harness.Comparison(f"rating, {options.size}, {name}", "pairs/s", "expected", "text", GOAL)
        for name in ("rationales of 150 tokens", "rationales of 512 tokens")
    )
    for comparison, num_tokens, repeats in ((long, 512, 1), (short, 150, options.repeats)):
        for _ in range(repeats):
            comparison.add("expected", **by_expected.next(2 * options.pairs))
            comparison.add("text", **by_text.next((options.pairs, num_tokens)))
    by_expected.close()
    by_text.close()
    return [long, short]


def main() -> None:
    parser = harness.arguments(__doc__)
    parser.add_argument("--size", choices=models.SHAPES, default="63M")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--pairs", type=int, default=64, help="a round; `expected` has twice these")
    options = parser.parse_args()
    with harness.scratch_folder() as folder:
        comparisons = compare(options, folder)
    harness.finish(comparisons, options.json)


if __name__ == "__main__":
    main()
