"""The real vLLM through ray.data.llm: ids, probabilities, lengths, rows that fail alone."""

from __future__ import annotations

from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from humpback_ray.config import EnginePlacement
from humpback_ray.engines.vllm_generate import Model, Request, generate, row_seed
from humpback_ray.records import Finish
from humpback_ray.text import tokens

pytestmark = pytest.mark.slow
CONTEXT = 256
TAG = "Answer in the style of an AI Assistant."
TEXTS = ["Name a fruit.", "naïve café 12345", "Install the package with pip.\n\n  Then import it."]


def to_request(row, tokenizer):
    if row["kind"] == "empty":
        return Request([], max_tokens=4, score_from=0)
    ids = tokens.prompt_ids(tokenizer, row["text"], TAG)
    if row["kind"] == "grade":
        start, grades = tokens.grade_ids(tokenizer)
        return Request(ids + start, max_tokens=1, wanted_ids=grades, score_from=len(ids + start))
    if row["kind"] == "score":
        target = tokens.completion_ids(tokenizer, "An apple a day.")
        return Request(ids + target, max_tokens=1, score_from=len(ids))
    seed = row_seed(0, row["text"], "test")
    return Request(ids, max_tokens=12, temperature=0.7, top_p=0.9, seed=seed, score_from=len(ids))


def to_row(row, generation):
    engine_ids = row.get("prompt_token_ids")
    return {
        "row_id": row["row_id"],
        "kind": row["kind"],
        "text": row["text"],
        "finish": generation.finish.value,
        "num_generated": generation.num_generated_tokens,
        "engine_ids": [] if engine_ids is None else [int(token) for token in engine_ids],
        "wanted": generation.wanted_logprobs,
        "scored": generation.prompt_logprobs,
    }


@pytest.fixture(scope="module")
def rows(tmp_path_factory, model_folder, ray_cluster):
    """What one engine made of good rows and bad ones, by (kind, text)."""
    import ray.data

    wanted = [(kind, text) for kind in ("generate", "grade", "score") for text in TEXTS]
    wanted += [("empty", ""), ("generate", "too long " * 400), ("generate", "a\x00b </s> \ufffd")]
    wanted += [("again", text) for text in TEXTS]
    folder = tmp_path_factory.mktemp("rows")
    table = {
        "row_id": [str(number) for number in range(len(wanted))],
        "kind": [kind for kind, _ in wanted],
        "text": [text for _, text in wanted],
    }
    pq.write_table(pa.table(table), folder / "rows.parquet")
    dataset = generate(
        ray.data.read_parquet(str(folder)),
        model=Model(model_folder, CONTEXT, "float32"),
        engine=EnginePlacement(device="cpu", enforce_eager=True, rows_per_batch=4),
        to_request=partial(to_request), to_row=partial(to_row),
    )  # fmt: skip
    found = dataset.take_all()
    assert sorted(int(row["row_id"]) for row in found) == list(range(len(wanted)))
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


def test_the_ids_vllm_receives_are_the_ids_trained_on(rows, tokenizer):
    for text in TEXTS:
        example = tokens.example_ids(tokenizer, text, TAG, "An apple.", CONTEXT)
        assert rows["generate", text]["engine_ids"] == example.ids[: example.num_prompt]


def test_grade_probabilities_are_those_of_transformers(rows, tokenizer, log_probabilities):
    _, grades = tokens.grade_ids(tokenizer)
    for text in TEXTS:
        row = rows["grade", text]
        expected = log_probabilities(row["engine_ids"])[-1][grades].tolist()
        assert row["wanted"] == pytest.approx(expected, abs=1e-3)
        assert row["num_generated"] == 1


def test_scored_tokens_are_those_of_transformers(rows, tokenizer, log_probabilities):
    target = tokens.completion_ids(tokenizer, "An apple a day.")
    for text in TEXTS:
        row = rows["score", text]
        steps = log_probabilities(row["engine_ids"])[-len(target) - 1 : -1]
        expected = [step[token].item() for step, token in zip(steps, target, strict=True)]
        assert row["scored"] == pytest.approx(expected, abs=1e-3)


def test_bad_rows_have_outcomes_and_stop_nothing(rows):
    assert rows["empty", ""]["finish"] == Finish.EMPTY_PROMPT
    assert rows["generate", "too long " * 400]["finish"] == Finish.PROMPT_TOO_LONG
    good = rows["generate", TEXTS[0]]
    assert good["finish"] in (Finish.LENGTH, Finish.STOP)
    assert (good["num_generated"] == 12) == (good["finish"] == Finish.LENGTH)
    assert rows["generate", "a\x00b </s> \ufffd"]["num_generated"] > 0
