"""Every template of the method, in one place.

Training, augmentation, rating, evaluation and the exported chat template all render through
`render`. The two tags are settings with the paper's sentences as defaults. All other wording is
this project's: the paper's appendix and `Instruction Back-and-Forth Translation` (arXiv 2408.04614)
describe the paper's prompts, and this file does not copy them.
"""

from __future__ import annotations

import string
from functools import lru_cache

from humpback_ray.config.settings import PromptSettings
from humpback_ray.errors import UserError

# The turn markers are plain words and not special tokens, so that a base model with any tokenizer
# needs no new embeddings. The line break before the answer belongs to the prompt, so a completion
# starts a fresh line and has the same tokens everywhere.
USER_MARKER = "### Request\n"
ASSISTANT_MARKER = "\n\n### Answer\n"

SCORE_LINE = "Score:"


def render(prompt: str, *tags: str) -> str:
    """The text a model sees before its answer: the prompt, the tags as a suffix, the turn markers.

    Args:
        prompt: the user's words.
        tags: sentences to append to the prompt, in order, without the empty ones (paper, section
            2.4: a suffix of the prompt, not a system role).
    """
    sentences = [prompt.strip(), *filter(None, tags)]
    return f"{USER_MARKER}{chr(10).join(sentences)}{ASSISTANT_MARKER}"


def chat_template(*tags: str) -> str:
    """The Jinja template of an exported model, which renders a user turn exactly as `render` does.

    A caller may pass `tags=[...]` (also through vLLM's `chat_template_kwargs`) to replace the
    tags, or `tags=[]` for none. The template puts a system message before the first user message.
    """
    default = "[" + ", ".join(repr(tag) for tag in tags if tag) + "]"
    return (
        "{%- set tags = tags if tags is defined else " + default + " -%}"
        "{{- bos_token if bos_token is defined and bos_token else '' -}}"
        "{%- set ns = namespace(system='') -%}"
        "{%- for message in messages -%}"
        "{%- if message['role'] == 'system' -%}"
        "{%- set ns.system = message['content'].strip() + '\\n\\n' -%}"
        "{%- elif message['role'] == 'user' -%}"
        "{{- " + repr(USER_MARKER) + " + ns.system + message['content'].strip() -}}"
        "{%- set ns.system = '' -%}"
        "{%- for tag in tags -%}{{- '\\n' + tag -}}{%- endfor -%}"
        "{{- " + repr(ASSISTANT_MARKER) + " -}}"
        "{%- elif message['role'] == 'assistant' -%}"
        "{{- message['content'] + eos_token + '\\n\\n' -}}"
        "{%- endif -%}"
        "{%- endfor -%}"
    )


def inference_tags(tags: PromptSettings) -> tuple[str, str]:
    """The tags with which a finetuned model is prompted, an empty one for each that is left out.

    The paper takes both, in this order (section 2.4).
    """
    seed_tag = "" if tags.inference == "none" else tags.seed_tag
    return seed_tag, tags.web_tag if tags.inference == "both" else ""


# --- self-augmentation --------------------------------------------------------------------------

BACKWARD_TEMPLATE = string.Template(
    "Below is a text that was given as an answer. Write the one request that somebody most likely "
    "made to get it, a request to which this text would be a great answer. Write nothing but the "
    "request.\n\n"
    "Text:\n$response"
)


def backward_prompt(response: str) -> str:
    """The prompt of M_yx in training and augmentation: the request for x, then the text y."""
    return BACKWARD_TEMPLATE.substitute(response=response.strip())


# --- self-curation ------------------------------------------------------------------------------

# The rubric stands before the pair, so the engines' prefix cache computes it once for all pairs.
# The grades paraphrase the paper's Table 19.
RATING_TEMPLATE = string.Template(
    "You judge how good a training example an answer would make for an AI assistant. Give the "
    "answer one grade from 1 to 5:\n"
    "1 - The answer is incomplete, vague, off-topic or disputed, or is not what was asked for: "
    "parts are missing, it starts in the middle, it repeats the request, it is one person's own "
    "view or experience (as in a blog or a forum), or it is promotion or site navigation.\n"
    "2 - The answer deals with most of what was asked, but not directly: it gives a general "
    "method, say, where an exact solution was wanted.\n"
    "3 - The answer is helpful, complete and self-contained, but it reads as part of a web page, "
    "a blog post or a manual and not as an assistant speaking to the person who asked.\n"
    "4 - The answer is written as an assistant would, for this very request. It is complete, "
    "clear, self-contained and well organised; small things could be better, such as being more "
    "concise or more to the point.\n"
    "5 - The answer is what a perfect assistant would give: made for the request, expert, well "
    "written, easy to follow, engaging, and without anything that does not belong.\n\n"
    "Request:\n$instruction\n\n"
    "Answer to judge:\n$response\n\n"
    "$answer_format"
)

# Points instead of grades, a paraphrase of Self-Rewarding (arXiv 2401.10020), where they agreed
# with people on more pairs than five grades. Without a point the grade is 0, so there are six.
ADDITIVE_RATING_TEMPLATE = string.Template(
    "You judge how good a training example an answer would make for an AI assistant. Its grade is "
    "the sum of its points, from 0 to 5. These are the points; each counts 1 where what it says is "
    "true of the answer:\n"
    "First point, topic: the answer has to do with the request, and there is something to learn "
    "from it about what was asked. Gaps and digressions do not matter yet.\n"
    "Second point, coverage: it deals with a large part of what was asked, though the actual "
    "solution may still be missing.\n"
    "Third point, use: with it, somebody who made this request would get by in the main things. "
    "Who wrote it does not count here: it may come from a blog or any other web page.\n"
    "Fourth point, voice: it is an assistant that speaks, to the person who asked and about just "
    "what was asked. Nothing is left out, and it is clear, well ordered and of help; only small "
    "improvements come to mind.\n"
    "Fifth point, mastery: it is made to measure for this request by somebody who knows the "
    "subject thoroughly. It is a pleasure to read, and there is nothing in it to take out.\n\n"
    "Request:\n$instruction\n\n"
    "Answer to judge:\n$response\n\n"
    "$answer_format"
)

# By `settings.rating.rubric`. A user's template replaces either and has the grades of the first.
RUBRICS = {"five_grades": RATING_TEMPLATE, "additive": ADDITIVE_RATING_TEMPLATE}

# `text`: the paper's way, a rationale and then the grade.
REASON_THEN_SCORE = (
    "First explain in a few sentences which grade fits and why. Then end with one last line of "
    f'the form "{SCORE_LINE} N", where N is the grade.'
)
# `expected`: the prompt ends with `Score:`, and the rating reads the next token's probabilities.
SCORE_ONLY = f'Reply with one line of the form "{SCORE_LINE} N", where N is the grade.'

RATING_FIELDS = ("instruction", "response", "answer_format")


def rating_template(text: str) -> string.Template:
    """A rating template from a user's file.

    Raises:
        UserError: one of $instruction, $response, $answer_format is missing, or another
            placeholder stands in the text (write a literal dollar sign as `$$`).
    """
    template = string.Template(text)
    if not template.is_valid():
        raise UserError("a `$` that starts no placeholder: write a literal dollar sign as `$$`")
    placeholders = set(template.get_identifiers())
    if missing := [name for name in RATING_FIELDS if name not in placeholders]:
        raise UserError(f"the placeholder ${missing[0]} is missing")
    if unknown := sorted(placeholders - set(RATING_FIELDS)):
        raise UserError(
            f"unknown placeholder ${unknown[0]}: only "
            f"{', '.join('$' + name for name in RATING_FIELDS)} are filled in"
        )
    return template


def rating_prompt(
    template: string.Template, instruction: str, response: str, *, reasoning: bool
) -> str:
    """The prompt of the rater M_(t-1) for one pair; `reasoning` asks for a rationale first."""
    return template.substitute(
        instruction=instruction.strip(),
        response=response.strip(),
        answer_format=_answer_format(reasoning),
    )


def shared_rating_text(template: string.Template, *, reasoning: bool) -> str:
    """The common beginning of `render(rating_prompt(...))` for all pairs.

    It ends with the last line break before the instruction or the response, because tokenizers do
    not join words across one. It is empty if the template has no such line break.
    """
    return _shared_rating_text(template.template, _answer_format(reasoning))


@lru_cache(maxsize=16)
def _shared_rating_text(template: str, answer_format: str) -> str:
    first_field = min(
        match.start()
        for match in string.Template.pattern.finditer(template)
        if (match["named"] or match["braced"]) in ("instruction", "response")
    )
    head = string.Template(template[:first_field]).substitute(answer_format=answer_format)
    before, line_break, _ = head.lstrip().rpartition("\n")
    return USER_MARKER + before + line_break if line_break else ""


def _answer_format(reasoning: bool) -> str:
    return REASON_THEN_SCORE if reasoning else SCORE_ONLY
