"""Room for the answer: which prompts are too long, and what becomes of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from humpback_ray.config.placement import EnginePlacement
from humpback_ray.config.settings import Settings
from humpback_ray.execution.stage import Source
from humpback_ray.rows import Candidate, Finish, TaskKind
from humpback_ray.serving.requests import (
    Generation,
    Request,
    RowTask,
    ServedModel,
    prepare_request,
)
from humpback_ray.serving.vllm_engine import arguments
from humpback_ray.stages.evaluate import Evaluate, to_evaluated

CONTEXT = 2048


def prepared(num_prompt: int, request: Request, **task):
    """A prompt of one token for each character of the row's text."""

    def to_request(row, tokenizer):
        return replace(request, prompt_ids=[7] * len(row["text"]))

    model = ServedModel("model", task.pop("context_length", CONTEXT), "float32")
    row_task = RowTask(
        model, "id", Candidate, to_request, lambda row, generation: {}, "text", **task
    )
    return prepare_request({"text": "x" * num_prompt}, row_task, None)


@pytest.mark.parametrize(
    ("num_prompt", "max_tokens", "refusal"),
    [
        (1536, 512, None),
        (1537, 512, Finish.PROMPT_TOO_LONG),
        (2047, 512, Finish.PROMPT_TOO_LONG),
        (2048, 512, Finish.PROMPT_TOO_LONG),
        (2047, 1, None),
        (2048, 1, Finish.PROMPT_TOO_LONG),
        (1024, 2048, None),  # an answer that may fill the context needs half of it
        (1025, 2048, Finish.PROMPT_TOO_LONG),
        (0, 512, Finish.EMPTY_PROMPT),
    ],
)
def test_a_prompt_that_leaves_less_room_than_the_answer_needs_is_too_long(
    num_prompt, max_tokens, refusal
):
    found = prepared(num_prompt, Request([], max_tokens))
    assert found.refusal is refusal
    if refusal is None:
        assert found.request.max_tokens == min(max_tokens, CONTEXT - num_prompt)
        assert not found.was_cut


@pytest.mark.parametrize("num_prompt", [1537, 2047, 2048, 9000])
def test_a_prompt_without_room_is_cut_where_the_policy_says_so(num_prompt):
    found = prepared(num_prompt, Request([], 512), cut_long=True)
    assert found.refusal is None
    assert found.was_cut
    assert 1400 < len(found.request.prompt_ids) <= 1536
    assert found.request.max_tokens == 512
    assert not prepared(1536, Request([], 512), cut_long=True).was_cut


def test_a_request_may_need_less_than_it_may_take():
    request = Request([], 2048, needed_tokens=512)
    assert prepared(1536, request).request.max_tokens == 512
    assert prepared(1537, request).refusal is Finish.PROMPT_TOO_LONG
    assert prepared(256, request, context_length=512).refusal is None
    assert prepared(257, request, context_length=512).refusal is Finish.PROMPT_TOO_LONG


def test_an_evaluation_allows_answers_of_2048_tokens_and_asks_long_prompts_too(tokenizer):
    recipe = {
        "base": {"model": "base"}, "seed": {"path": "seed"}, "corpus": {"path": "corpus"},
        "evaluation": {"prompts": "prompts"},
    }  # fmt: skip
    sampling = Settings.model_validate(recipe).evaluation.sampling
    assert sampling.max_tokens == 2048
    stage = Evaluate(
        path="out", name="M_1", model=Source("model", "model"), seed=Source("seed", "seed"),
        prompts=Source("prompts", "prompts"), seed_tag="S_a.", web_tag="S_w.",
        sampling=sampling, context_length=CONTEXT, dtype="float32", random_seed=0,
    )  # fmt: skip
    row = {"task_id": "a", "kind": TaskKind.ANSWER, "instruction": "Why?", "response": ""}
    asked = stage.to_request(row, tokenizer)
    found = prepared(1100, asked)
    assert (found.refusal, found.request.max_tokens) == (None, CONTEXT - 1100)
    assert prepared(1600, asked).refusal is Finish.PROMPT_TOO_LONG
    scored = stage.to_request(row | {"kind": TaskKind.LOSS, "response": "So."}, tokenizer)
    assert prepared(2047, scored).refusal is None


def test_a_raters_logits_are_computed_in_32_bits():
    placement = EnginePlacement(device="cpu")
    served = ServedModel("model", CONTEXT, "bfloat16", head_dtype="float32")
    assert arguments(served, placement)["hf_overrides"] == {"head_dtype": "float32"}
    assert "hf_overrides" not in arguments(replace(served, head_dtype=None), placement)


def test_engine_reads_the_stored_weights_unless_dummy_ones_are_asked_for():
    placement = EnginePlacement(device="cpu")
    served = ServedModel("model", CONTEXT, "bfloat16")
    assert arguments(served, placement)["load_format"] == "auto"
    assert arguments(replace(served, load_format="dummy"), placement)["load_format"] == "dummy"


@pytest.mark.parametrize(
    ("kind", "finish", "logprobs", "stored"),
    [
        (TaskKind.LOSS, Finish.LENGTH, (-1.0, -2.0), "stop"),
        (TaskKind.LOSS, Finish.PROMPT_TOO_LONG, (), "prompt_too_long"),
        (TaskKind.ANSWER, Finish.LENGTH, (), "length"),
        (TaskKind.ANSWER, Finish.STOP, (), "stop"),
    ],
)
def test_only_answers_that_were_cut_count_as_cut(kind, finish, logprobs, stored):
    row = {"task_id": "a", "kind": kind, "dataset": "d", "instruction": "x", "response": "y"}
    found = to_evaluated(row, Generation("z", finish, 9, prompt_logprobs=logprobs))
    assert found["finish"] == stored
    assert found["loss"] == (1.5 if logprobs else None)
