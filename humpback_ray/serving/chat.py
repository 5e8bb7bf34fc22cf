"""A talk with a model through transformers and the model's chat template."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, TextIteratorStreamer
from transformers.utils import logging

from humpback_ray.method.tokens import plain_text
from humpback_ray.models.local import local_folder


class Chat:
    """One talk with a model. Sampling follows the model's generation_config.json."""

    def __init__(self, model: str, max_tokens: int) -> None:
        folder = local_folder(model)
        logging.disable_progress_bar()  # of the weights, in a terminal that is for the talk
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
        if torch.cuda.is_available():
            self._model.to("cuda")
        self._max_tokens = max_tokens
        self._turns: list[dict[str, str]] = []

    def answer(self, text: str) -> Iterator[str]:
        """The model's answer to the next turn, piece by piece as the model generates it."""
        # As in training: a person who quotes `</s>` ends no turn.
        text = plain_text(self._tokenizer, text)
        self._turns.append({"role": "user", "content": text})
        inputs = self._tokenizer.apply_chat_template(
            self._turns, add_generation_prompt=True, return_tensors="pt", return_dict=True
        ).to(self._model.device)
        streamer = TextIteratorStreamer(self._tokenizer, skip_prompt=True, skip_special_tokens=True)
        arguments = {**inputs, "streamer": streamer, "max_new_tokens": self._max_tokens}
        thread = threading.Thread(target=self._model.generate, kwargs=arguments)
        thread.start()
        pieces = []
        for piece in streamer:
            pieces.append(piece)
            yield piece
        thread.join()
        self._turns.append({"role": "assistant", "content": "".join(pieces).strip()})
