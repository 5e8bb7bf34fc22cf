"""The parts of a card that no table of the report has: front matter, limits and licences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from huggingface_hub import CardData, RepoCard

from humpback_ray.figures.types import RunFigures
from humpback_ray.publishing.run_models import BACKWARD, RunModel
from humpback_ray.report.document import Block, Paragraph, Section, Table
from humpback_ray.report.sections import sections_of
from humpback_ray.report.wording import count
from humpback_ray.rows import Origin

ARXIV = "2308.06259"
PAPER = f"https://arxiv.org/abs/{ARXIV}"
TAGS = ["instruction-backtranslation", "humpback", f"arxiv:{ARXIV}"]
UNKNOWN = "unknown"  # the hub's name of such a licence


def card_text(data: CardData, text: str) -> str:
    """A card with its front matter, which the hub's client reads back as it is."""
    card = f"---\n{data.to_yaml()}\n---\n\n{text.strip()}\n"
    assert RepoCard(card).data.to_dict() == data.to_dict(), data
    return card


def measured(figures: RunFigures, anchors: Sequence[str]) -> list[Section]:
    """The sections of the run's report with these anchors, in this order."""
    sections = {section.anchor: section for section in sections_of(figures)}
    return [sections[anchor] for anchor in anchors if anchor in sections]


def model_limits(model: RunModel, figures: RunFigures) -> Section:
    """Known limits of a model, and what nobody has measured."""
    return Section("limits", "Known limits", [Paragraph(t) for t in _model_limits(model, figures)])


def _model_limits(model: RunModel, figures: RunFigures) -> Iterator[str]:
    if model.has_web_pairs:
        yield (
            "The web texts that this model learned to write were no answers when people wrote "
            "them. A model wrote the instruction for each and a model rated the pairs. No step of "
            "the run asks a person to read them."
        )
        yield _BIAS + _remedy(model)
    else:
        yield (
            "None of the examples of its finetuning is a text of the corpus. It has the bias of "
            "its base and of the seed's authors."
        )
    yield "It can state false things with confidence, as its base can."
    if model.name == BACKWARD:
        yield "It writes instructions for texts. It was not trained to answer any."
        return
    if not figures.judges and not figures.people:
        yield "No judge and no person has compared its answers with those of another model."
    if not figures.refusals:
        yield "This run has not measured which harmful requests it refuses."
    if not any(task.is_crows_pairs for each in figures.benchmarks for task in each.tasks):
        yield "This run has not measured its bias against groups of people (CrowS-Pairs)."


_BIAS = (
    "The bias of the web comes along: prejudice, errors, advertising and personal data of the "
    "corpus can appear in its answers. The paper names this limit, and safety pairs in the seed as "
    "a remedy. "
)


def _remedy(model: RunModel) -> str:
    number = model.examples.get(Origin.SAFETY, 0)
    return f"This model has seen {count(number) if number else 'no'} safety pairs."


def data_limits() -> Section:
    """Known limits of the examples."""
    texts = [
        "The web texts are quoted from their pages. They may hold prejudice, errors, advertising, "
        "personal data and text that its authors would not give away. No step of the run asks a "
        "person to read them.",
        "A model wrote the instructions, and the scores that selected the pairs are a model's. An "
        "instruction can ask for something that its text does not answer.",
        "A row does not name its page. The run's folder does: the middle part of example_id is the "
        "segment_id of its segments.",
    ]
    return Section("limits", "Known limits", [Paragraph(text) for text in texts])


def model_licences(base: str, data: str | None) -> Section:
    """The licences of a model: its base's, and that of the examples."""
    rows = [
        ("base model", f"{base}; this model derives from it" if base else _UNNAMED),
        ("training examples", data or _PER_ROW),
    ]
    return _licences(rows, "Whoever uses the model has to respect both.")


def data_licences(data: str | None) -> Section:
    """The licence of the examples."""
    rows = [("web texts and seed pairs", data or _PER_ROW)]
    note = "As the person who published them states." if data else ""
    return _licences(rows, note)


_UNNAMED = "no file of the base names one; this model derives from it"
_PER_ROW = (
    "unknown: each web text has the licence of its page, and each seed pair that of the seed file"
)


def _licences(rows: Sequence[tuple[str, str]], note: str) -> Section:
    table: Block = Table("Licence of each part", ("part", "licence"), rows, frozenset({0, 1}), note)
    return Section("licences", "Licences", [table])
