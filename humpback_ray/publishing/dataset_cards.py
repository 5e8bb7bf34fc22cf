"""The card of a run's examples: seed and selected web pairs of every iteration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from huggingface_hub import DatasetCardData

from humpback_ray.figures.types import RunFigures, StageFigures
from humpback_ray.models.licences import front_matter_of
from humpback_ray.publishing import statements
from humpback_ray.report import pages
from humpback_ray.report.document import Document, Paragraph, Section, Table
from humpback_ray.report.wording import count
from humpback_ray.rows import Origin

MEASURED = ("funnel", "scores", "rater", "data", "setup", "missing")  # of the run's report
# Upper bounds of the hub's size categories.
_SIZES = {10**3: "n<1K", 10**4: "1K<n<10K", 10**5: "10K<n<100K", 10**6: "100K<n<1M",
          10**7: "1M<n<10M", 10**8: "10M<n<100M"}  # fmt: skip
_COLUMNS = {
    "example_id": "origin, then the id of the pair",
    "prompt": "what a user says",
    "tag": "the sentence behind the prompt in training, by origin; empty for none",
    "completion": "the answer, the only part that carries the loss",
    "origin": "seed or safety (written by people), rating (a person's grade of a pair), "
    "or web (text of the corpus)",
}


def config_name(iteration: int) -> str:
    """The configuration of an iteration's examples, and the folder of its files."""
    return f"iteration-{iteration}"


def dataset_card(
    examples: Mapping[int, StageFigures], figures: RunFigures, licence: str | None
) -> str:
    """The card of the examples.

    Args:
        examples: finished ones, by iteration.
        figures: of the run, without places.
        licence: of all rows; None: nobody has stated it.
    """
    name = f"Curated pairs of {figures.run}"
    data = DatasetCardData(
        pretty_name=name,
        annotations_creators=["machine-generated"],
        language_creators=["found", "machine-generated"],
        size_categories=[size_category(sum(s.num_rows or 0 for s in examples.values()))],
        task_categories=["text-generation"],
        tags=statements.TAGS,
        configs=[_config(number, is_last=number == max(examples)) for number in sorted(examples)],
    )
    for key, value in front_matter_of(licence or statements.UNKNOWN).items():
        data[key] = value
    sections = [
        _contents(examples),
        statements.data_limits(),
        statements.data_licences(licence),
        *statements.measured(figures, MEASURED),
    ]
    return statements.card_text(data, pages.markdown(Document(name, _SUBTITLE, "", sections)))


_SUBTITLE = (
    "The training examples of instruction backtranslation (Humpback, "
    f"{statements.PAPER}): pairs of the seed, and web texts whose instruction a model wrote and "
    "which a model rated among the best. Made with humpback_ray."
)


def size_category(num_rows: int) -> str:
    """The hub's category of a number of rows."""
    return next((name for bound, name in _SIZES.items() if num_rows < bound), "100M<n<1B")


def _config(iteration: int, *, is_last: bool) -> dict[str, object]:
    name = config_name(iteration)
    files = [{"split": "train", "path": f"{name}/*.parquet"}]
    return {"config_name": name, "data_files": files} | ({"default": True} if is_last else {})


def _contents(examples: Mapping[int, StageFigures]) -> Section:
    origins = [Origin.SEED, Origin.SAFETY, Origin.RATING, Origin.WEB]
    rows: Sequence[Sequence[str]] = [
        (config_name(n), f"M_{n}", count(examples[n].num_rows),
         *(count(examples[n].outcomes.get(origin, 0)) for origin in origins))
        for n in sorted(examples)
    ]  # fmt: skip
    columns = ("configuration", "examples of", "rows", *origins)
    return Section("contents", "Contents", [
        Table("Configurations", columns, rows, frozenset({0, 1})),
        Table("Columns", ("column", "content"), list(_COLUMNS.items()), frozenset({0, 1})),
        Paragraph("Every iteration selects from the same web pairs, so the configurations share "
                  "rows."),
    ])  # fmt: skip
