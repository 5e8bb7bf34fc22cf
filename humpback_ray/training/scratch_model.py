"""A tokenizer and an untrained LLaMA for the demo, as an ordinary base model folder."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from humpback_ray import storage
from humpback_ray.config.settings import ScratchBase
from humpback_ray.models.local import local_folder

BEGIN, END, PADDING = "<s>", "</s>", "<pad>"


def create(
    texts: list[str], settings: ScratchBase, *, context_length: int, random_seed: int, output: str
) -> int:
    """Write tokenizer and random weights to a folder or URL; returns the number of parameters."""
    tokenizer = train_tokenizer(texts, settings.vocabulary_size)
    torch.manual_seed(random_seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=settings.hidden_size,
            intermediate_size=settings.intermediate_size,
            num_hidden_layers=settings.num_layers,
            num_attention_heads=settings.num_heads,
            num_key_value_heads=settings.num_heads,
            max_position_embeddings=context_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        filesystem, path = storage.locate(output)
        filesystem.put(f"{folder}/", f"{path}/", recursive=True)
    return sum(parameter.numel() for parameter in model.parameters())


def train_tokenizer(texts: list[str], vocabulary_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer that gives each digit its own token, as LLaMA's does.

    The grades 1 to 5 are then one token each, which the rating reads.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=[BEGIN, END, PADDING],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BEGIN, eos_token=END, pad_token=PADDING
    )


def pieces(texts: list[str], model: str, sequence_length: int) -> Iterator[str]:
    """Texts cut into pieces of at most `sequence_length` tokens, begin and end token included."""
    tokenizer = AutoTokenizer.from_pretrained(local_folder(model, weights=False))
    max_tokens = sequence_length - 2
    for text in texts:
        offsets = tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True
        )["offset_mapping"]  # fmt: skip
        for first in range(0, len(offsets), max_tokens):
            start = offsets[first][0]
            after = first + max_tokens
            end = offsets[after][0] if after < len(offsets) else len(text)
            if text[start:end].strip():
                yield text[start:end]
