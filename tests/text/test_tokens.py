"""Token ids: one function for training and engines, the same ids as the exported chat template."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from humpback_ray.config import PromptSettings
from humpback_ray.text import prompts, tokens

TAGS = prompts.inference_tags(PromptSettings())
TEXTS = ["Name a fruit.", "naïve café 12345", "line one\n\n  line two", "ends with spaces  "]


@pytest.fixture(scope="module")
def llama_tokenizer():
    """Words with LLaMA's `▁` marks, a prefix mark and byte fallback, as SentencePiece gives."""
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2}
    for byte in range(256):
        vocabulary[f"<0x{byte:02X}>"] = len(vocabulary)
    for piece in ["▁", *"0123456789abcdefghijklmnopqrstuvwxyzANRS#.:", "Sc", "or", "Scor", "Score",
                  "▁Score"]:  # fmt: skip
        vocabulary.setdefault(piece, len(vocabulary))
    merges = [("S", "c"), ("o", "r"), ("Sc", "or"), ("Scor", "e"), ("▁", "Score")]
    model = models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


@pytest.fixture(params=["byte_level", "llama"])
def any_tokenizer(request, tokenizer, llama_tokenizer):
    return {"byte_level": tokenizer, "llama": llama_tokenizer}[request.param]


@pytest.mark.parametrize("text", TEXTS)
def test_engine_ids_are_the_ids_trained_on(any_tokenizer, text):
    sent = tokens.prompt_ids(any_tokenizer, text, TAGS[0])
    example = tokens.example_ids(any_tokenizer, text, TAGS[0], "An apple.", 2048)
    assert example.ids[: example.num_prompt] == sent
    assert example.num_target > 1


@pytest.mark.parametrize("text", TEXTS)
def test_the_exported_chat_template_gives_the_same_ids(any_tokenizer, text):
    any_tokenizer.chat_template = prompts.chat_template(*TAGS)
    messages = [{"role": "user", "content": text}]
    by_template = any_tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_dict=False
    )
    assert by_template == tokens.prompt_ids(any_tokenizer, text, *TAGS)
    no_tags = any_tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_dict=False, tags=[]
    )
    assert no_tags == tokens.prompt_ids(any_tokenizer, text)
    assert no_tags != by_template


def test_the_loss_mask_is_exactly_the_completion_and_its_end_token(any_tokenizer):
    num_checked = 0
    for prompt, completion in [("Name a fruit.", "An apple."), ("Why?", "a b c\nd 1 2 3")]:
        example = tokens.example_ids(any_tokenizer, prompt, TAGS[0], completion, 2048)
        target = example.ids[example.num_prompt :]
        assert target[-1] == any_tokenizer.eos_token_id
        assert any_tokenizer.decode(target[:-1]).strip() == completion
        assert any_tokenizer.eos_token_id not in example.ids[:-1]
        num_checked += len(target)
    assert num_checked > 20


def test_a_long_completion_is_cut_and_does_not_end(tokenizer):
    whole = tokens.example_ids(tokenizer, "Name a fruit.", "", "An apple. " * 50, 2048)
    cut = tokens.example_ids(tokenizer, "Name a fruit.", "", "An apple. " * 50, 60)
    assert len(cut.ids) == 60
    assert cut.ids == whole.ids[:60]
    assert cut.ids[-1] != tokenizer.eos_token_id


def test_a_prompt_that_leaves_no_room_gives_no_example(tokenizer):
    assert tokens.example_ids(tokenizer, "Name a fruit. " * 50, "", "An apple.", 60) is None


def test_plain_text_has_loss_on_everything_but_the_begin_token(tokenizer):
    example = tokens.example_ids(tokenizer, "", "", "An apple.", 60)
    assert example.ids[0] == tokenizer.bos_token_id
    assert example.num_prompt == 1


def test_special_tokens_spelled_out_in_data_end_no_turn(any_tokenizer):
    ids = tokens.prompt_ids(any_tokenizer, "what does </s> or <s> mean?")
    assert ids.count(any_tokenizer.bos_token_id) == 1
    assert any_tokenizer.eos_token_id not in ids
    target = tokens.completion_ids(any_tokenizer, "</s> ends a turn")
    assert target.count(any_tokenizer.eos_token_id) == 1


def test_grades_are_read_where_the_tokenizer_puts_them(any_tokenizer):
    start, grades = tokens.grade_ids(any_tokenizer)
    assert len(set(grades)) == 5
    for number, grade in enumerate(grades, start=1):
        written = any_tokenizer.encode(f"Score: {number}", add_special_tokens=False)
        assert written == [*start, grade]


def test_a_tokenizer_without_single_grades_is_refused():
    class Merged:
        def encode(self, text, add_special_tokens):
            return [1] if text.endswith(("1", "2")) else [1, 2, 3]

    with pytest.raises(ValueError, match=r"rating\.method=text"):
        tokens.grade_ids(Merged())
