"""Token ids: one function for training and engines, the same ids as the exported chat template."""

from __future__ import annotations

import string
from copy import deepcopy

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from humpback_ray.config.settings import PromptSettings
from humpback_ray.method import prompts, tokens

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


@pytest.fixture(scope="module")
def metaspace_tokenizer(llama_tokenizer):
    """The same vocabulary with the mark put on by a pre-tokenizer, at the start of every piece."""
    backend = Tokenizer.from_str(llama_tokenizer.backend_tokenizer.to_str())
    backend.normalizer = normalizers.Sequence([])
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


@pytest.fixture(params=["byte_level", "llama"])
def any_tokenizer(request, tokenizer, llama_tokenizer):
    return {"byte_level": tokenizer, "llama": llama_tokenizer}[request.param]


@pytest.mark.parametrize("text", TEXTS)
def test_prompt_ids_of_engines_equal_those_of_training(any_tokenizer, text):
    sent = tokens.prompt_ids(any_tokenizer, text, TAGS[0])
    example = tokens.example_ids(any_tokenizer, text, TAGS[0], "An apple.", 2048)
    assert example.ids[: example.num_prompt] == sent
    assert len(example.ids) - example.num_prompt > 1


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


def test_long_completion_is_cut_without_an_end_token(tokenizer):
    whole = tokens.example_ids(tokenizer, "Name a fruit.", "", "An apple. " * 50, 2048)
    cut = tokens.example_ids(tokenizer, "Name a fruit.", "", "An apple. " * 50, 60)
    assert len(cut.ids) == 60
    assert cut.ids == whole.ids[:60]
    assert cut.ids[-1] != tokenizer.eos_token_id


def test_prompt_longer_than_the_limit_gives_no_example(tokenizer):
    assert tokens.example_ids(tokenizer, "Name a fruit. " * 50, "", "An apple.", 60) is None


def test_plain_text_has_loss_on_everything_but_the_begin_token(tokenizer):
    example = tokens.example_ids(tokenizer, "", "", "An apple.", 60)
    assert example.ids[0] == tokenizer.bos_token_id
    assert example.num_prompt == 1


def test_special_tokens_written_in_data_are_encoded_as_text(any_tokenizer):
    ids = tokens.prompt_ids(any_tokenizer, "what does </s> or <s> mean?")
    assert ids.count(any_tokenizer.bos_token_id) == 1
    assert any_tokenizer.eos_token_id not in ids
    target = tokens.completion_ids(any_tokenizer, "</s> ends a turn")
    assert target.count(any_tokenizer.eos_token_id) == 1


CONTROL = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|im_start|>", "<|im_end|>"]


@pytest.fixture(params=["byte_level", "llama"])
def control_tokenizer(request, tokenizer, llama_tokenizer):
    """Control tokens in the file that no map names, as LLaMA 3 and ChatML have them."""
    original = {"byte_level": tokenizer, "llama": llama_tokenizer}[request.param]
    backend = Tokenizer.from_str(original.backend_tokenizer.to_str())
    backend.add_special_tokens([AddedToken(name, special=True) for name in CONTROL])
    backend.add_tokens([AddedToken("<tool>", special=False)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=original.bos_token, eos_token=original.eos_token
    )


def test_control_tokens_that_no_map_names_are_encoded_as_text(control_tokenizer):
    ids = set(control_tokenizer.convert_tokens_to_ids(CONTROL))
    assert not set(CONTROL) & set(control_tokenizer.all_special_tokens)
    text = "It says <|eot_id|><|start_header_id|>system<|end_header_id|> <|im_start|>user<|im_end|>"
    assert len(ids & set(control_tokenizer.encode(text, add_special_tokens=False))) == 5
    template = prompts.RATING_TEMPLATE
    for found in (
        tokens.prompt_ids(control_tokenizer, text, *TAGS),
        tokens.completion_ids(control_tokenizer, text),
        tokens.example_ids(control_tokenizer, text, "", text, 2048).ids,
        tokens.rating_ids(control_tokenizer, template, text, text, reasoning=False),
    ):
        assert not ids & set(found)
        assert len(found) > 30
    assert tokens.plain_text(control_tokenizer, "a <tool> b") == "a <tool> b"


def test_grade_ids_follow_the_ids_of_the_score_prefix(any_tokenizer):
    start, grades = tokens.grade_ids(any_tokenizer)
    assert len(set(grades)) == 5
    for number, grade in enumerate(grades, start=1):
        written = any_tokenizer.encode(f"Score: {number}", add_special_tokens=False)
        assert written == [*start, grade]


def test_tokenizer_without_one_token_for_each_grade_is_refused():
    class Merged:
        def encode(self, text, add_special_tokens):
            return [1] if text.endswith(("1", "2")) else [1, 2, 3]

    with pytest.raises(ValueError, match=r"rating\.method=text"):
        tokens.grade_ids(Merged())


@pytest.mark.parametrize("grades", [range(1, 6), range(6)])
def test_grade_ids_of_each_rubric_are_distinct(any_tokenizer, grades):
    start, ids = tokens.grade_ids(any_tokenizer, grades)
    assert len(set(ids)) == len(grades)
    written = any_tokenizer.encode(f"Score: {grades[0]}", add_special_tokens=False)
    assert written == [*start, ids[0]]


# --- ratings: the rubric is tokenized once --------------------------------------------------------


@pytest.fixture(params=["byte_level", "llama", "metaspace"])
def rating_tokenizer(request, tokenizer, llama_tokenizer, metaspace_tokenizer):
    return {
        "byte_level": tokenizer, "llama": llama_tokenizer, "metaspace": metaspace_tokenizer,
    }[request.param]  # fmt: skip


PAIRS = [
    ("Name a fruit.", "An apple."),
    ("  spaces around it \n", "\n\n  naïve café\n\n  12345  "),
    ("1. a list\n2. of two", "- one\n\t- two"),
    ("$response and $$", "{x} %s"),
    ("what is </s>?", "<s> begins and </s> ends"),
    ("日本語 🐋", "\u0301 begins with an accent"),
]
USERS_TEMPLATES = [
    "Judge.\n\n$instruction\n$response\n$answer_format",
    "Judge for $$5.\n$answer_format\nThe request: ${instruction} The answer: $response",
    "\n\nJudge.\n   $response of $instruction: $answer_format",
    "$instruction and $response: $answer_format",
]
TEMPLATES = [*prompts.RUBRICS.values(), *map(string.Template, USERS_TEMPLATES)]


@pytest.mark.parametrize("reasoning", [True, False])
@pytest.mark.parametrize("template", TEMPLATES)
def test_rating_prompt_encoded_in_two_parts_decodes_to_the_same_text(
    rating_tokenizer, template, reasoning
):
    for x, y in PAIRS:
        ids = tokens.rating_ids(rating_tokenizer, template, x, y, reasoning=reasoning)
        prompt = prompts.rating_prompt(template, x, y, reasoning=reasoning)
        whole = tokens.prompt_ids(rating_tokenizer, prompt)
        assert rating_tokenizer.decode(ids) == rating_tokenizer.decode(whole)
        assert ids.count(rating_tokenizer.bos_token_id) == 1
        assert rating_tokenizer.eos_token_id not in ids
        # Nothing is normalized away by these tokenizers: the text itself comes back.
        rendered = prompts.render(prompt)
        if "<" not in x:
            text = rating_tokenizer.decode(ids, skip_special_tokens=True)
            assert text.removeprefix(" ") == rendered


@pytest.mark.parametrize("rubric", list(prompts.RUBRICS))
def test_rating_prompts_of_all_pairs_begin_with_the_same_ids(rating_tokenizer, rubric):
    template = prompts.RUBRICS[rubric]
    shared = prompts.shared_rating_text(template, reasoning=False)
    assert shared.endswith("\n")
    assert len(shared) > 1000
    expected = rating_tokenizer.encode(
        rating_tokenizer.bos_token + shared, add_special_tokens=False
    )
    for x, y in PAIRS:
        ids = tokens.rating_ids(rating_tokenizer, template, x, y, reasoning=False)
        assert ids[: len(expected)] == expected
        assert len(ids) > len(expected)


def test_tokenizer_that_joins_across_line_breaks_encodes_the_rating_prompt_whole():
    class Joins:
        """A token is what stands between two spaces, line breaks and all."""

        bos_token, all_special_tokens = "", ()

        def encode(self, text, add_special_tokens):
            return [hash(word) for word in text.split(" ")]

    joins = Joins()
    template = prompts.RATING_TEMPLATE
    prompt = prompts.rating_prompt(template, "Why?", "Because.", reasoning=False)
    ids = tokens.rating_ids(joins, template, "Why?", "Because.", reasoning=False)
    assert ids == tokens.prompt_ids(joins, prompt)


def test_text_with_several_special_tokens_has_each_of_them_split():
    class Many:
        all_special_tokens = ("<a>", "<|b|>", "x", *(f"<|reserved_{n}|>" for n in range(200)))

    broken = tokens._without_special_tokens(Many(), "<a> <|b|> <c> <|reserved_7|>")
    assert broken == "< a> < |b|> <c> < |reserved_7|>"
    assert tokens._without_special_tokens(Many(), "xa") == "x a"
    assert tokens._without_special_tokens(Many(), "plain <text>") == "plain <tex t>"


# --- a prompt to any model ------------------------------------------------------------------------


def test_chat_ids_by_the_projects_own_template_are_those_of_a_prompt_without_tags(tokenizer):
    exported = deepcopy(tokenizer)
    exported.chat_template = prompts.chat_template("Answer in style.", "Answer with search.")
    wanted = tokens.prompt_ids(tokenizer, " Which is better? </s> \n")
    assert tokens.chat_ids(exported, " Which is better? </s> \n") == wanted
    assert tokens.chat_ids(tokenizer, " Which is better? </s> \n") == wanted


def test_chat_ids_break_up_special_tokens_that_a_prompt_spells(tokenizer):
    other = deepcopy(tokenizer)
    other.chat_template = "{{ messages[0]['content'] }}{{ eos_token }}"
    end = other.eos_token_id
    ids = tokens.chat_ids(other, f"It says {other.eos_token} here.")
    assert ids.count(end) == 1
    assert ids[-1] == end


def test_choices_are_the_last_tokens_of_lines_with_one_beginning(tokenizer):
    start, choices = tokens.choice_ids(tokenizer, "Better:", ("A", "B"))
    for letter, choice in zip("AB", choices, strict=True):
        assert tokenizer.decode([*start, choice]) == f"Better: {letter}"
    assert tokens.choice_ids(tokenizer, "Better:", ("A", "A and more")) is None
    assert tokens.choice_ids(tokenizer, "Better:", ("A", "A")) is None
