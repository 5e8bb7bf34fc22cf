"""The real vLLM in the pool: ids, probabilities, lengths, prefix cache, rows that fail alone."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from humpback_ray import tables
from humpback_ray.config.placement import EnginePlacement
from humpback_ray.method import tokens
from humpback_ray.rows import Finish
from humpback_ray.serving.pool import EnginePool
from humpback_ray.serving.requests import Request, RowTask, ServedModel, row_seed

pytestmark = pytest.mark.slow
CONTEXT = 512
TAG = "Answer in the style of an AI Assistant."
TEXTS = ["Name a fruit.", "naïve café 12345", "Install the package with pip.\n\n  Then import it."]
LONG = "too long " * 900


@dataclass(frozen=True)
class PreparedRequest:
    row_id: str
    kind: str
    text: str


@dataclass(frozen=True)
class Answered:
    row_id: str
    kind: str
    text: str
    output: str
    finish: Finish
    num_prompt: int
    num_cached: int
    num_generated: int
    wanted: list[float]
    scored: list[float]


def to_request(row, tokenizer):
    if row["kind"] == "empty":
        return Request([], max_tokens=4)
    if row["kind"] == "foreign":
        return Request([tokenizer.vocab_size + 1000], max_tokens=4)
    ids = tokens.prompt_ids(tokenizer, row["text"], TAG)
    if row["kind"] == "grade":
        start, grades = tokens.grade_ids(tokenizer)
        return Request(ids + start, max_tokens=1, wanted_ids=grades)
    if row["kind"] == "score":
        target = tokens.completion_ids(tokenizer, "An apple a day.")
        return Request(ids + target, max_tokens=1, score_from=len(ids))
    if row["kind"] == "greedy":
        return Request(ids, max_tokens=12)
    seed = row_seed(0, row["text"], "test")
    return Request(ids, max_tokens=12, temperature=0.7, top_p=0.9, seed=seed)


def to_row(row, generation):
    return {
        "row_id": row["row_id"],
        "kind": row["kind"],
        "text": row["text"],
        "output": generation.text,
        "finish": generation.finish.value,
        "num_prompt": generation.num_prompt_tokens,
        "num_cached": generation.num_cached_tokens,
        "num_generated": generation.num_generated_tokens,
        "wanted": list(generation.wanted_logprobs),
        "scored": list(generation.prompt_logprobs),
    }


@pytest.fixture(scope="module")
def rows(model_folder, ray_cluster):
    """Answers of one engine to good rows and bad ones, by (kind, text)."""
    import ray.data

    kinds = ("generate", "greedy", "grade", "score", "again")
    wanted = [(kind, text) for kind in kinds for text in TEXTS]
    wanted += [("empty", ""), ("foreign", ""), ("generate", LONG)]
    wanted += [("generate", "a\x00b </s> \ufffd")]
    shared = "The same long beginning of many prompts. " * 10
    wanted += [("generate", f"{shared}{number}") for number in range(8)]
    asked = [PreparedRequest(str(number), kind, text) for number, (kind, text) in enumerate(wanted)]
    task = RowTask(
        ServedModel(model_folder, CONTEXT, "float32"), "row_id", Answered, to_request, to_row
    )
    placement = EnginePlacement(device="cpu", enforce_eager=True, max_num_seqs=4)
    with EnginePool(task, placement) as pool:
        dataset = ray.data.from_arrow(tables.to_table(asked, PreparedRequest)).repartition(
            target_num_rows_per_block=8
        )
        found = pool.through(dataset).take_all()
        (engine,) = pool.engines()
    assert sorted(int(row["row_id"]) for row in found) == list(range(len(wanted)))
    assert engine.counters.num_generated_tokens == sum(row["num_generated"] for row in found)
    assert engine.num_starts == 1
    return {(row["kind"], row["text"]): row for row in found}


@pytest.fixture(scope="module")
def log_probabilities(model_folder):
    """Next-token log-probabilities by transformers, shape (len(ids), vocabulary)."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).eval()

    def of(ids):
        with torch.no_grad():
            return model(torch.tensor([list(ids)])).logits[0].log_softmax(-1)

    return of


def ids_of(tokenizer, kind, text):
    return to_request({"kind": kind, "text": text}, tokenizer).prompt_ids


def test_vllm_receives_the_token_ids_of_training(rows, tokenizer, log_probabilities):
    for text in TEXTS:
        example = tokens.example_ids(tokenizer, text, TAG, "An apple.", CONTEXT)
        ids = example.ids[: example.num_prompt]
        row = rows["greedy", text]
        assert row["num_prompt"] == len(ids)
        # The engine's greedy answer is transformers' continuation of exactly these ids.
        answer = list(ids)
        for _ in range(row["num_generated"]):
            answer.append(int(log_probabilities(answer)[-1].argmax()))
        expected = tokenizer.decode(answer[len(ids) :], skip_special_tokens=True)
        assert row["output"] == expected


def test_grade_probabilities_equal_those_of_transformers(rows, tokenizer, log_probabilities):
    _, grades = tokens.grade_ids(tokenizer)
    for text in TEXTS:
        row = rows["grade", text]
        expected = log_probabilities(ids_of(tokenizer, "grade", text))[-1][grades].tolist()
        assert list(row["wanted"]) == pytest.approx(expected, abs=1e-3)
        assert row["num_generated"] == 1


def test_scored_tokens_equal_those_of_transformers(rows, tokenizer, log_probabilities):
    target = tokens.completion_ids(tokenizer, "An apple a day.")
    for text in TEXTS:
        row = rows["score", text]
        steps = log_probabilities(ids_of(tokenizer, "score", text))[-len(target) - 1 : -1]
        expected = [step[token].item() for step, token in zip(steps, target, strict=True)]
        assert list(row["scored"]) == pytest.approx(expected, abs=1e-3)


def test_row_gets_the_same_answer_at_any_position(rows):
    for text in TEXTS:
        assert rows["again", text]["output"] == rows["generate", text]["output"]
    assert len({rows["again", text]["output"] for text in TEXTS}) == len(TEXTS)


def test_shared_prompt_prefix_is_computed_once(rows):
    cached = [row["num_cached"] for (_, text), row in rows.items() if text[:8] == "The same"]
    assert len(cached) == 8
    assert sum(number > 0 for number in cached) >= 4


def test_bad_rows_become_outcomes_and_stop_nothing(rows):
    assert rows["empty", ""]["finish"] == Finish.EMPTY_PROMPT
    assert rows["foreign", ""]["finish"] == Finish.ENGINE_ERROR
    assert rows["generate", LONG]["finish"] == Finish.PROMPT_TOO_LONG
    good = rows["generate", TEXTS[0]]
    assert good["finish"] in (Finish.LENGTH, Finish.STOP)
    assert (good["num_generated"] == 12) == (good["finish"] == Finish.LENGTH)
    assert rows["generate", "a\x00b </s> \ufffd"]["num_generated"] > 0
