"""LLaMAs of random weights, with a tokenizer trained on installed READMEs."""

from __future__ import annotations

from pathlib import Path

from humpback_ray.config.settings import CorpusSettings, ScratchBase, TrainingSettings
from humpback_ray.corpus.files import list_files
from humpback_ray.corpus.readers import read_documents
from humpback_ray.serving.requests import ServedModel

CONTEXT_LENGTH = 2048
# Hidden size, size between the two matrices of a layer, layers, heads, arithmetic.
SHAPES = {
    "5M": (256, 704, 4, 4, "float32"),  # the tiny recipe's
    "63M": (768, 2048, 8, 12, "bfloat16"),
}
SMOLLM2 = "135M"


def texts() -> list[str]:
    """The READMEs of the installed packages, real text on every machine with this project."""
    settings = CorpusSettings(path="installed-packages")
    return [
        document.content
        for file in list_files(settings.path)
        for document in read_documents(file, settings)
        if getattr(document, "content", "").strip()
    ]


def create(size: str, folder: Path) -> ServedModel:
    """A model of a size in a folder, as the engines serve it."""
    from humpback_ray.training import scratch_model

    hidden, intermediate, layers, heads, dtype = SHAPES[size]
    settings = ScratchBase(
        kind="scratch", vocabulary_size=4096, hidden_size=hidden,
        intermediate_size=intermediate, num_layers=layers, num_heads=heads,
        training=TrainingSettings(),
    )  # fmt: skip
    output = str(folder / size)
    scratch_model.create(
        texts(), settings, context_length=CONTEXT_LENGTH, random_seed=0, output=output
    )
    return ServedModel(output, CONTEXT_LENGTH, dtype)


def create_smollm2(folder: Path) -> ServedModel:
    """Random weights in the shape of SmolLM2-135M: costs as much to train as the real ones.

    Its tokenizer has 4,096 of the 49,152 tokens.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from humpback_ray.training import scratch_model

    output = folder / SMOLLM2
    tokenizer = scratch_model.train_tokenizer(texts(), 4096)
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=49_152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
            num_attention_heads=9, num_key_value_heads=3, tie_word_embeddings=True,
            max_position_embeddings=8192, rope_theta=100_000.0,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip
    model.to(torch.bfloat16).save_pretrained(output)
    tokenizer.save_pretrained(output)
    return ServedModel(str(output), CONTEXT_LENGTH, "bfloat16")
