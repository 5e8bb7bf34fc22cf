"""A small training: base model, examples, settings, and the same training as one plain loop."""

from __future__ import annotations

import random
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from humpback_ray.config.placement import TrainingPlacement
from humpback_ray.config.settings import LoraSettings, TrainingSettings
from humpback_ray.method.schedule import (
    batch_indices,
    learning_rate,
)
from humpback_ray.method.tokens import example_ids
from humpback_ray.rows import Origin, TrainingExample
from humpback_ray.training.finetune import OnStep, TrainingResult, finetune
from humpback_ray.training.task import BaseModel, TrainingTask

TAG = "Answer in the style of an AI Assistant."
MAX_LENGTH = 160
SETTINGS = TrainingSettings(
    learning_rate=2e-3,
    final_learning_rate=5e-4,
    warmup_steps=2,
    dropout=0.0,
    max_gradient_norm=0.5,
    batch_size=8,
    num_steps=10,
    max_length=MAX_LENGTH,
    precision="fp32",
)
PLACEMENT = TrainingPlacement(
    device="cpu", num_workers=2, zero_stage=2, micro_batch_tokens=200, checkpoint_every=4
)
SEED = 7
LORA = SETTINGS.model_copy(
    update={"lora": LoraSettings(rank=4, alpha=8.0, dropout=0.0), "learning_rate": 2e-2}
)


def make_base(folder: Path, *, dtype: torch.dtype = torch.float32, tied: bool = False) -> str:
    """A tiny LLaMA with a byte-level BPE tokenizer, as a folder. Matrices of 128 x 1024 are large
    enough that ZeRO-3 really partitions them (its persistence threshold is 100,000)."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["### Request ### Answer, the question of the day"], trainer)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(wrapped),
        hidden_size=128,
        intermediate_size=1024,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=tied,
        bos_token_id=wrapped.bos_token_id,
        eos_token_id=wrapped.eos_token_id,
    )
    LlamaForCausalLM(config).to(dtype).save_pretrained(folder)
    wrapped.save_pretrained(folder)
    return str(folder)


def make_examples(num_examples: int) -> list[TrainingExample]:
    """Examples of very unequal target lengths; one prompt is too long, one completion is cut."""
    draw = random.Random(0)
    examples = [
        TrainingExample(
            example_id=f"e{i:03}",
            prompt=f"question {'why ' * draw.randint(0, 8)}{i}",
            tag=TAG,
            completion=" ".join(str(draw.randint(0, 99)) for _ in range(draw.choice([1, 4, 20]))),
            origin=Origin.SEED,
        )
        for i in range(num_examples - 2)
    ]
    long = "endless " * 200
    return [
        *examples,
        TrainingExample("x-cut", "say much", TAG, long, Origin.WEB),
        TrainingExample("y-dropped", long, TAG, "short", Origin.WEB),
    ]


def write_examples(folder: Path, examples: list[TrainingExample], num_files: int = 1) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(num_files):
        rows = [asdict(example) for example in examples[k::num_files]]
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / f"{k}.parquet")
    return str(folder)


def run(
    base: str,
    examples: str,
    folder: Path,
    *,
    settings: TrainingSettings = SETTINGS,
    placement: TrainingPlacement = PLACEMENT,
    on_step: OnStep | None = None,
) -> TrainingResult:
    return finetune(
        task_for(base, examples, settings),
        placement=placement,
        output=str(folder / "model"),
        scratch_folder=str(folder / "scratch"),
        on_step=on_step,
    )


def task_for(
    base: str, examples: str = "", settings: TrainingSettings = SETTINGS, random_seed: int = SEED
) -> TrainingTask:
    return TrainingTask(BaseModel(base), examples, settings, random_seed)


def plain_training(
    base: str,
    examples: list[TrainingExample],
    settings: TrainingSettings,
    last_step: int | None = None,
) -> tuple[list[float], list[float], dict[str, torch.Tensor]]:
    """The same finetuning in one process with nothing but transformers and torch.

    One example at a time without padding, full logits, no DeepSpeed, no project code but the
    tokens and the order.

    Returns:
        Loss and gradient norm of each step, and the final weights, with LoRA's merged by peft.
    """
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = plain_model(base, settings)
    tokenized = [
        example_ids(tokenizer, e.prompt, e.tag, e.completion, MAX_LENGTH)
        for e in sorted(examples, key=lambda e: e.example_id)
    ]
    kept = [t for t in tokenized if t is not None]
    weights = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    decayed = [p for name, p in weights if "norm" not in name]
    others = [p for name, p in weights if "norm" in name]
    optimizer = torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": settings.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ],
        betas=(settings.adam_beta1, settings.adam_beta2),
    )
    losses, norms = [], []
    num_steps, batch_size = settings.num_steps or 0, settings.batch_size or 0
    for step in range(1, (last_step or num_steps) + 1):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, num_steps, settings)
        batch = [kept[i] for i in batch_indices(step, batch_size, len(kept), SEED)]
        num_tokens = sum(len(t.ids) - t.num_prompt for t in batch)
        total = torch.zeros(())
        for t in batch:
            logits = model(input_ids=torch.tensor([t.ids])).logits[0]
            predicted = logits[t.num_prompt - 1 : -1].log_softmax(-1)
            target = torch.tensor(t.ids[t.num_prompt :])
            total = total - predicted.gather(1, target[:, None]).sum()
        (total / num_tokens).backward()
        norms.append(
            float(torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_gradient_norm))
        )
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total.item() / num_tokens)
    if settings.lora:
        model = model.merge_and_unload()
    return losses, norms, {name: t.detach() for name, t in model.state_dict().items()}


def plain_model(base: str, settings: TrainingSettings) -> Any:
    model = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32).train()
    if not settings.lora:
        return model
    torch.manual_seed(SEED)
    config = LoraConfig(
        r=settings.lora.rank,
        lora_alpha=settings.lora.alpha,
        lora_dropout=settings.lora.dropout,
        target_modules=settings.lora.target_modules,
    )
    return get_peft_model(model, config).train()
