"""The card of a published model: the README of its folder, and what the run has measured."""

from __future__ import annotations

import os

import yaml
from huggingface_hub import CardData, ModelCard, try_to_load_from_cache

from humpback_ray import storage
from humpback_ray.errors import UserError
from humpback_ray.figures.types import RunFigures
from humpback_ray.models.card import CARD_FILE, licence_of
from humpback_ray.models.licences import front_matter_of
from humpback_ray.publishing import statements
from humpback_ray.publishing.run_models import RunModel
from humpback_ray.report import pages
from humpback_ray.report.document import Paragraph, Section

# Of the run's report.
MEASURED = ("models", "people", "safety", "benchmarks")
MADE = ("funnel", "scores", "training", "setup", "missing")


def model_card(
    model: RunModel, figures: RunFigures, readme: str, dataset: str | None, data_licence: str | None
) -> str:
    """The card of a model.

    The front matter has no `model-index`, because a figure there stands without its interval and
    without the controls of the judge that it comes from.

    Args:
        model: of the run.
        figures: of the run, without places.
        readme: content of the README.md in the model's folder; empty where it has none.
        dataset: hub id of the examples; None where they have none yet.
        data_licence: of the examples; None: nobody has stated it.

    Raises:
        UserError: the README's front matter cannot be read.
    """
    title = f"# {pages.markdown_line(f'{figures.run}: {model.stage.path}')}"
    card = _parsed(readme or f"---\nlibrary_name: transformers\n---\n{title}\n", model)
    licence = _licence(card.data)
    sections = [
        statements.model_limits(model, figures),
        statements.model_licences(licence, data_licence),
        Section("answer", "What was measured", [Paragraph(figures.headline)]),
        *statements.measured(figures, [*MEASURED, *MADE]),
    ]
    data = card.data
    data["tags"] = list(dict.fromkeys([*(data.get("tags") or []), *statements.TAGS]))
    data["datasets"] = [dataset] if dataset else None
    named = front_matter_of(licence)
    data["license"], data["license_name"] = named.get("license"), named.get("license_name")
    return statements.card_text(
        data, f"{card.text.rstrip()}\n\n{pages.markdown_sections(sections)}"
    )


def _parsed(readme: str, model: RunModel) -> ModelCard:
    try:
        return ModelCard(readme)
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(
            f"{model.stage.path}/{CARD_FILE} has a front matter that the hub cannot read "
            f"({storage.one_line(error)}): correct it, or delete the file"
        ) from error


def _licence(data: CardData) -> str:
    """The base's licence: as the README names it, or a hub model's card in the local cache."""
    if named := data.get("license_name") or data.get("license"):
        return str(named)
    base = data.get("base_model")
    found = try_to_load_from_cache(base, CARD_FILE) if isinstance(base, str) else None
    return (licence_of(os.path.dirname(found)) or "") if isinstance(found, str) else ""
