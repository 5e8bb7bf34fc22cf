"""The sections of a run's report: tables, charts and texts out of its figures.

Each module has the sections of one subject.
"""

from __future__ import annotations

from humpback_ray.figures.types import RunFigures
from humpback_ray.report.document import Section
from humpback_ray.report.sections.benchmarks import benchmarks
from humpback_ray.report.sections.data import data
from humpback_ray.report.sections.funnel import funnel
from humpback_ray.report.sections.models import models
from humpback_ray.report.sections.people import people
from humpback_ray.report.sections.raters import raters
from humpback_ray.report.sections.run import engines, missing, setup
from humpback_ray.report.sections.safety import safety
from humpback_ray.report.sections.scores import scores
from humpback_ray.report.sections.trainings import trainings


def sections_of(figures: RunFigures) -> list[Section]:
    """Every section that has something to say."""
    parts = [
        ("models", "Models compared", models(figures)),
        ("people", "What people say", people(figures)),
        ("safety", "Refusals", safety(figures.refusals)),
        ("benchmarks", "Benchmarks", benchmarks(figures.benchmarks)),
        ("funnel", "From documents to training examples", funnel(figures)),
        ("scores", "Scores and selections", scores(figures)),
        ("rater", "The rater against people", raters(figures)),
        ("training", "Trainings", trainings(figures)),
        ("data", "Lengths, diversity and sources", data(figures)),
        ("engines", "Time, engines and failures", engines(figures)),
        ("setup", "Settings, versions and lineage", setup(figures)),
        ("missing", "Not computed, and what does not fit", missing(figures)),
    ]
    sections = [Section(anchor, title, list(blocks)) for anchor, title, blocks in parts]
    return [section for section in sections if section.blocks]
