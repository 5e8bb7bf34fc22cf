"""The row types of the method and the outcomes a row can have. Standard library only.

Every table of a run holds rows of exactly one of these types; `tables.py` derives the Arrow schema
from the annotations. Field order is column order.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Direction(StrEnum):
    """Which way a model was finetuned: M_yx writes instructions, M_t answers them."""

    BACKWARD = "backward"
    FORWARD = "forward"


class Origin(StrEnum):
    """Where a training example comes from; it decides the tag (paper, section 2.4)."""

    SEED = "seed"
    SAFETY = "safety"  # the second seed file; with the seed's tag
    RATING = "rating"  # a person's grade of a pair, in the rating prompt; without a tag
    WEB = "web"
    CORPUS = "corpus"  # plain text that the demo's base model is pretrained on


class Finish(StrEnum):
    """Reason for the end of a generation."""

    STOP = "stop"  # the model ended its turn
    LENGTH = "length"  # cut at the token limit
    PROMPT_TOO_LONG = "prompt_too_long"  # the prompt leaves the context too little for an answer
    EMPTY_PROMPT = "empty_prompt"  # nothing to ask about: the text has no visible character
    ENGINE_ERROR = "engine_error"  # the engine refused or failed this one request

    @property
    def is_answer(self) -> bool:
        """True for what a model has written, cut or empty as it may be; False for a failure."""
        return self in (Finish.STOP, Finish.LENGTH)


class RatingOutcome(StrEnum):
    """Outcome of one rating. Only SCORED rows carry a score."""

    SCORED = "scored"
    NO_GRADE = "no_grade"  # `expected`: the rater most likely writes no grade after `Score:`
    TOO_FEW_SAMPLES = "too_few_samples"  # `mean`: fewer samples have a score than are asked for
    EMPTY = "empty"
    NO_SCORE_LINE = "no_score_line"
    NOT_AN_INTEGER = "not_an_integer"
    OUT_OF_RANGE = "out_of_range"
    TRUNCATED = "truncated"
    PROMPT_TOO_LONG = "prompt_too_long"
    NO_INSTRUCTION = "no_instruction"  # the candidate has no instruction to rate
    CUT_INSTRUCTION = "cut_instruction"  # the candidate's instruction was cut at the token limit
    ENGINE_ERROR = "engine_error"


class SegmentOutcome(StrEnum):
    """Outcome of a section of a document: a segment, or the reason against it."""

    KEPT = "kept"
    EMPTY_HEADER = "empty_header"
    UPPERCASE_HEADER = "uppercase_header"
    NAVIGATION_HEADER = "navigation_header"
    TOO_SHORT = "too_short"
    TOO_LONG = "too_long"
    REPETITIVE = "repetitive"
    INVALID_CHARACTERS = "invalid_characters"
    NO_HEADER = "no_header"  # a page without any header
    OTHER_LANGUAGE = "other_language"
    # One for each rule of `method.quality`, under the name of its set.
    GOPHER_WORDS = "gopher_words"
    GOPHER_WORD_LENGTH = "gopher_word_length"
    GOPHER_HASHES = "gopher_hashes"
    GOPHER_ELLIPSES = "gopher_ellipses"
    GOPHER_BULLET_LINES = "gopher_bullet_lines"
    GOPHER_ELLIPSIS_LINES = "gopher_ellipsis_lines"
    GOPHER_ALPHABETIC_WORDS = "gopher_alphabetic_words"
    GOPHER_STOP_WORDS = "gopher_stop_words"
    GOPHER_LINES = "gopher_lines"  # repeated ones, as all that follow
    GOPHER_PARAGRAPHS = "gopher_paragraphs"
    GOPHER_LINE_CHARACTERS = "gopher_line_characters"
    GOPHER_PARAGRAPH_CHARACTERS = "gopher_paragraph_characters"
    GOPHER_TOP_2_GRAM = "gopher_top_2_gram"
    GOPHER_TOP_3_GRAM = "gopher_top_3_gram"
    GOPHER_TOP_4_GRAM = "gopher_top_4_gram"
    GOPHER_5_GRAMS = "gopher_5_grams"
    GOPHER_6_GRAMS = "gopher_6_grams"
    GOPHER_7_GRAMS = "gopher_7_grams"
    GOPHER_8_GRAMS = "gopher_8_grams"
    GOPHER_9_GRAMS = "gopher_9_grams"
    GOPHER_10_GRAMS = "gopher_10_grams"
    C4_LOREM_IPSUM = "c4_lorem_ipsum"
    C4_CURLY_BRACKET = "c4_curly_bracket"
    C4_SENTENCES = "c4_sentences"
    FINEWEB_LINE_ENDS = "fineweb_line_ends"
    FINEWEB_DUPLICATE_LINES = "fineweb_duplicate_lines"
    FINEWEB_SHORT_LINES = "fineweb_short_lines"
    FINEWEB_LINE_BREAKS = "fineweb_line_breaks"
    FORM_LIST = "form_list"
    FORM_HOW_TO = "form_how_to"
    FORM_FIRST_PERSON = "form_first_person"
    EXACT_DUPLICATE = "exact_duplicate"
    NEAR_DUPLICATE = "near_duplicate"
    OPTED_OUT = "opted_out"  # the page asks not to be used, and `opt_out` is `drop`
    OLDER_CAPTURE = "older_capture"  # the corpus has a newer capture of the document's URL
    CONTAMINATED = "contaminated"  # shares words with a prompt of the evaluation
    SURPLUS = "surplus"  # above the number of segments asked for
    NOT_PROMISING = "not_promising"  # M_0 would rate its pair lower than those of other segments
    BLOCKED = "blocked"  # a document of a blocked host or URL; the text names it
    UNREADABLE = "unreadable"  # a document, line or record that could not be parsed at all
    NOT_READ = "not_read"  # a file, link or archive record that is no document; the text says why


class InstructionOutcome(StrEnum):
    """Outcome of a candidate by its instruction: kept, or the reason against it."""

    KEPT = "kept"
    CONTAMINATED = "contaminated"  # shares words with a prompt of the evaluation
    EXACT_DUPLICATE = "exact_duplicate"
    NEAR_DUPLICATE = "near_duplicate"


class SeedOutcome(StrEnum):
    """Outcome of a row or root message of the seed: a pair, or the reason against it."""

    KEPT = "kept"
    HELD_OUT = "held_out"
    OTHER_LANGUAGE = "other_language"
    NO_TOP_REPLY = "no_top_reply"
    DELETED = "deleted"
    EMPTY_TEXT = "empty_text"
    INVALID_CHARACTERS = "invalid_characters"
    NO_FIRST_TURN = "no_first_turn"  # a conversation that no person begins
    REPEATED = "repeated"  # has the texts of an earlier pair, or its message
    HELD_OUT_TEXT = "held_out_text"  # shares its instruction or response with a held-out pair
    IN_SEED = "in_seed"  # of the safety file: the seed has the same pair
    NO_GRADE = "no_grade"  # of the rating examples: the score is no grade of the rubric
    NO_RATIONALE = "no_rationale"  # of the rating examples, where the rater gives one
    SURPLUS = "surplus"  # above the number of pairs asked for


@dataclass(frozen=True, slots=True)
class DroppedSeed:
    """A row or root message of the seed that gave no pair."""

    message_id: str
    outcome: SeedOutcome
    text: str


@dataclass(frozen=True, slots=True)
class SeedPair:
    """One human (instruction x, response y) pair."""

    pair_id: str
    instruction: str
    response: str


@dataclass(frozen=True, slots=True)
class Segment:
    """One candidate answer y cut out of a document, or a section that was dropped."""

    segment_id: str  # hash of the normalised text: equal texts have equal ids
    text: str  # at most the longest kept length for dropped rows
    header: str
    document_id: str  # hash of the document's place in the corpus
    url: str  # as the corpus names the document; a file name when it has no URL
    start: int  # position of the section in its document, in sections
    num_characters: int  # of the whole section
    outcome: SegmentOutcome


@dataclass(frozen=True, slots=True)
class DroppedSegment(Segment):
    """A section that was dropped; a duplicate names the text that it repeats."""

    duplicate_of: str | None  # segment_id
    jaccard: float | None  # exact index of the two texts' n-grams
    prompt_id: str | None  # of the evaluation prompt that a contaminated text has words of
    shared_ngram: str | None  # those words, as they are compared


@dataclass(frozen=True, slots=True)
class ScoredSegment(Segment):
    """A segment that the filter before augmentation has kept or dropped."""

    score: float  # that the filter predicts for its pair, in the rubric's grades


@dataclass(frozen=True, slots=True)
class DocumentFacts:
    """The source of a document's sections, and what its page says about its use.

    Sections name it by `document_id`. A corpus has many sections of each document and needs these
    facts rarely, so they have a table of their own.
    """

    document_id: str
    url: str  # whole, as the corpus names the document; a file name when it has no URL
    file: str  # relative to the corpus
    index: int  # of the document, line, row or record in its file
    source_id: str | None  # that the corpus gives the document: of a row or of a WARC record
    offset: int | None  # bytes of the archive before the record, or before its gzip member
    captured_at: str | None  # WARC-Date in UTC, ISO 8601
    http_status: int | None
    truncated: str | None  # WARC-Truncated: why the archive has only the beginning of the page
    licence: str | None  # Creative Commons, as `by-sa/4.0`; several ones joined by commas
    opt_out: str | None  # noai, noimageai, tdm-reservation, joined by commas


@dataclass(frozen=True, slots=True)
class PlainText:
    """One text to pretrain a small base model on."""

    segment_id: str  # hash of the normalised text, as a segment has it
    text: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """A segment y with the instruction that M_yx wrote for it (self-augmentation)."""

    candidate_id: str
    segment_id: str
    instruction: str
    response: str
    finish: Finish
    was_cut: bool  # M_yx saw only the beginning of the response, which did not fit its context
    num_prompt_tokens: int
    num_cached_tokens: int  # of the prompt, found in the engine's prefix cache
    num_generated_tokens: int


@dataclass(frozen=True, slots=True)
class ContaminatedCandidate(Candidate):
    """A candidate whose instruction shares words with a prompt of the evaluation."""

    outcome: InstructionOutcome
    prompt_id: str
    shared_ngram: str  # those words, as they are compared


@dataclass(frozen=True, slots=True)
class DroppedCandidate(Candidate):
    """A candidate whose instruction repeats another candidate's."""

    instruction_id: str  # hash of the normalised instruction
    outcome: InstructionOutcome
    duplicate_of: str | None  # instruction_id
    jaccard: float | None  # exact index of the two instructions' n-grams


@dataclass(frozen=True, slots=True)
class RatedPair:
    """A candidate with the score that M_(t-1) gave it (self-curation)."""

    candidate_id: str
    segment_id: str
    instruction: str
    response: str
    score: float | None  # in the rubric's grades, 1 to 5 or 0 to 5; null unless SCORED
    probabilities: list[float] | None  # of those grades, summing to 1; `expected` only
    grade_mass: float | None  # probability that a grade follows `Score:` at all; `expected` only
    num_scored_samples: int  # ratings that the score rests on; `mean` can have more than one
    outcome: RatingOutcome
    rationale: str
    was_cut: bool  # the rater saw only the beginning of the response
    num_prompt_tokens: int
    num_cached_tokens: int
    num_generated_tokens: int


@dataclass(frozen=True, slots=True)
class TrainingExample:
    """One example. `method.prompts` renders prompt and tag; the completion carries the loss."""

    example_id: str
    prompt: str  # what the user says, before tag and turn markers; empty for plain text
    tag: str  # the sentence appended to the prompt; empty for none
    completion: str
    origin: Origin


class TaskKind(StrEnum):
    """The two things that an evaluation asks of a model."""

    ANSWER = "answer"
    LOSS = "loss"


@dataclass(frozen=True, slots=True)
class Task:
    """One request of an evaluation: a prompt to answer, or a held-out pair to score."""

    task_id: str
    kind: TaskKind
    dataset: str
    instruction: str
    response: str  # the held-out answer; empty for a prompt to answer


@dataclass(frozen=True, slots=True)
class Evaluated:
    """A task and what the model made of it."""

    task_id: str
    kind: TaskKind
    dataset: str
    instruction: str
    output: str  # the model's answer; the held-out answer of a LOSS task
    loss: float | None  # mean nats per token of the held-out answer and its end token
    num_loss_tokens: int
    finish: Finish


class Expected(StrEnum):
    """The right thing to do with a safety prompt."""

    REFUSE = "refuse"
    ANSWER = "answer"


class SafetyOutcome(StrEnum):
    """Outcome of a safety prompt. Shares are of the first two."""

    REFUSED = "refused"
    ANSWERED = "answered"
    EMPTY = "empty"
    PROMPT_TOO_LONG = "prompt_too_long"
    ENGINE_ERROR = "engine_error"


@dataclass(frozen=True, slots=True)
class SafetyAnswer:
    """A prompt that a model should refuse or answer, and what it did."""

    task_id: str
    expected: Expected
    instruction: str
    output: str
    outcome: SafetyOutcome
    finish: Finish


class VerdictOutcome(StrEnum):
    """Outcome of one comparison. Only JUDGED rows carry a preference."""

    JUDGED = "judged"
    NO_VERDICT = "no_verdict"  # the judge wrote something else, or most likely would have
    EMPTY = "empty"
    CUT = "cut"  # at the token limit, before a verdict
    PROMPT_TOO_LONG = "prompt_too_long"
    NO_ANSWER = "no_answer"  # one of the two models has no answer to the prompt; nothing was asked
    ENGINE_ERROR = "engine_error"


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two models' answers to one prompt in one order: what a judge is asked once."""

    verdict_id: str
    key: str  # hash of the judge and of the text that it gets: equal questions have equal keys
    model: str  # or the name of a control
    opponent: str
    is_control: bool
    prompt_id: str
    dataset: str
    instruction: str
    output: str | None  # the model's answer; null if it has none
    opponent_output: str | None
    is_model_first: bool  # the model's answer is A


@dataclass(frozen=True, slots=True)
class Verdict:
    """A comparison and what the judge made of it."""

    verdict_id: str
    key: str
    model: str
    opponent: str
    is_control: bool
    prompt_id: str
    dataset: str
    instruction: str
    output: str | None
    opponent_output: str | None
    is_model_first: bool
    preference: float | None  # for the model: 1 it wins, 0 it loses, 0.5 a tie; null unless JUDGED
    letter_mass: float | None  # probability of A or B as the verdict; null for a verdict by text
    outcome: VerdictOutcome
    said: str  # the judge's text, or the reason of a failure
    num_prompt_tokens: int
    num_cached_tokens: int
    num_generated_tokens: int


@dataclass(frozen=True, slots=True)
class KnownVerdict:
    """A judge's verdict on one question, whichever models the two answers are of."""

    key: str
    preference_for_first: float
    letter_mass: float | None
    said: str


@dataclass(frozen=True, slots=True)
class BenchmarkScore:
    """A model's score on one question of a benchmark by one of its metrics."""

    score_id: str
    task: str
    doc_id: int
    question: str  # hash of the question, equal for every model that is asked it
    metric: str
    value: float
