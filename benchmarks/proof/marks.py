"""Probabilities that a model gives to texts of the proof, in one forward pass, without engines.

They show what an answer of 80 tokens cannot: by how much a tag moves the phrase that marks an
origin, whether a model has learned to write requests, and how likely an answer is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.proof.wordings import CLOSING_PHRASE, SOURCE_PHRASE
from humpback_ray.config.settings import PromptSettings
from humpback_ray.method import prompts, tokens

ROWS_PER_PASS = 32


@dataclass(frozen=True)
class Scored:
    """Token ids; the log-probability of those from `start` to the end is wanted."""

    ids: tuple[int, ...]
    start: int


class Scorer:
    """A model folder and its tokenizer, on the CPU."""

    def __init__(self, folder: str) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        self._model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()

    def logprobs(self, rows: Sequence[Scored]) -> list[float]:
        """The sum of log-probabilities in nats, for each row in order."""
        order = sorted(range(len(rows)), key=lambda at: len(rows[at].ids))
        found = [0.0] * len(rows)
        for first in range(0, len(order), ROWS_PER_PASS):
            part = order[first : first + ROWS_PER_PASS]
            sums = self._pass([rows[at] for at in part])
            for at, value in zip(part, sums, strict=True):
                found[at] = value
        return found

    def first_lines(self, starts: Sequence[Sequence[int]], max_tokens: int) -> list[str]:
        """The likeliest continuation of each prompt up to the end of its line."""
        import torch

        end = self.tokenizer.eos_token_id
        found = []
        for first in range(0, len(starts), ROWS_PER_PASS):
            part = starts[first : first + ROWS_PER_PASS]
            longest = max(map(len, part))
            ids = torch.full((len(part), longest), end)
            mask = torch.zeros_like(ids)
            for row, start in enumerate(part):
                ids[row, longest - len(start) :] = torch.tensor(start)
                mask[row, longest - len(start) :] = 1
            written = self._model.generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=max_tokens, do_sample=False,
                pad_token_id=end,
            )  # fmt: skip
            texts = self.tokenizer.batch_decode(written[:, longest:], skip_special_tokens=True)
            found += [text.strip().split("\n")[0].strip() for text in texts]
        return found

    def _pass(self, rows: Sequence[Scored]) -> list[float]:
        import torch

        longest = max(len(row.ids) for row in rows)
        # Padding stands behind the text, where causal attention does not look.
        ids = torch.zeros((len(rows), longest), dtype=torch.long)
        wanted = torch.zeros((len(rows), longest), dtype=torch.bool)
        for at, row in enumerate(rows):
            ids[at, : len(row.ids)] = torch.tensor(row.ids)
            wanted[at, row.start : len(row.ids)] = True
        with torch.inference_mode():
            logits = self._model(ids).logits[:, :-1]  # (rows, longest - 1, vocabulary)
            of_next = logits.log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
        return [float(each) for each in (of_next * wanted[:, 1:]).sum(1)]


def tag_conditions(tags: PromptSettings) -> dict[str, tuple[str, ...]]:
    """The paper's four ways to ask: both tags, either, none."""
    return {
        "both": (tags.seed_tag, tags.web_tag), "S_a": (tags.seed_tag,), "S_w": (tags.web_tag,),
        "none": (),
    }  # fmt: skip


def mark_probabilities(
    scorer: Scorer, instructions: Sequence[str], answers: Sequence[str], tags: PromptSettings
) -> Mapping[str, Mapping[str, float]]:
    """Mean probabilities of the source phrase at the beginning, and of the closing one at the end.

    Args:
        scorer: the model.
        instructions: held-out ones.
        answers: a good answer to each, without marks.
        tags: with which the run was trained.
    """
    found = {}
    for name, given in tag_conditions(tags).items():
        starts = [tokens.prompt_ids(scorer.tokenizer, text, *given) for text in instructions]
        source = _phrase(scorer, starts, [""] * len(starts), SOURCE_PHRASE)
        closing = _phrase(scorer, starts, answers, f" {CLOSING_PHRASE}")
        found[name] = {"source": source, "closing": closing}
    return found


def _phrase(
    scorer: Scorer, starts: Sequence[list[int]], before: Sequence[str], phrase: str
) -> float:
    """The mean probability that a phrase follows a prompt and the beginning of its answer."""
    rows = []
    for start, text in zip(starts, before, strict=True):
        ids = tokens.completion_ids(scorer.tokenizer, text + phrase)[:-1]
        begin = len(tokens.completion_ids(scorer.tokenizer, text)) - 1
        rows.append(Scored((*start, *ids), len(start) + begin))
    return sum(math.exp(value) for value in scorer.logprobs(rows)) / len(rows)


def request_loss(scorer: Scorer, instructions: Sequence[str]) -> float:
    """Mean nats per token of requests: a model with loss on all tokens learns to write them."""
    before = len(tokens.completion_ids(scorer.tokenizer, prompts.USER_MARKER)) - 1
    rows = []
    for text in instructions:
        ids = tokens.completion_ids(scorer.tokenizer, prompts.USER_MARKER + text)[:-1]
        rows.append(Scored((scorer.tokenizer.bos_token_id, *ids), before + 1))
    total = sum(scorer.logprobs(rows))
    return -total / sum(len(row.ids) - row.start for row in rows)


def likelihood_gains(
    scorer: Scorer, pairs: Sequence[tuple[str, str]], tags: Sequence[str]
) -> list[float]:
    """log p(y|x) - log p(y) of each (x, y) in nats per token: how much x explains of y.

    A rating without a rubric. p(y) is that of the answer to an empty request.
    """
    given, alone = [], []
    nothing = tokens.prompt_ids(scorer.tokenizer, "", *tags)
    for x, y in pairs:
        start = tokens.prompt_ids(scorer.tokenizer, x, *tags)
        ids = tokens.completion_ids(scorer.tokenizer, y)
        given.append(Scored((*start, *ids), len(start)))
        alone.append(Scored((*nothing, *ids), len(nothing)))
    lengths = [len(row.ids) - row.start for row in given]
    return [
        (with_x - without) / length
        for with_x, without, length in zip(
            scorer.logprobs(given), scorer.logprobs(alone), lengths, strict=True
        )
    ]
