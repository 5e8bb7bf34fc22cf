"""Reads every figure of a run out of its folder: records, rows and metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from humpback_ray import storage
from humpback_ray.errors import UserError
from humpback_ray.evaluation.people.results import PeopleResults, read_people, summarize
from humpback_ray.evaluation.people.setup import PEOPLE
from humpback_ray.evaluation.people.votes import VOTES
from humpback_ray.evaluation.rater_quality import Labels
from humpback_ray.figures import benchmarks as benchmark_figures
from humpback_ray.figures import diversity, funnel, samples, selections, verbs
from humpback_ray.figures import models as model_figures
from humpback_ray.figures.headline import headline
from humpback_ray.figures.pair_sets import RunRows
from humpback_ray.figures.run_facts import status_of
from humpback_ray.figures.stage_records import StageRecords, read_stages
from humpback_ray.figures.types import NotComputed, RunFigures, StageFigures

Figures = TypeVar("Figures")


class _Gathering:
    """Computes figures one by one, and keeps the reason where one cannot be computed."""

    def __init__(self) -> None:
        self.not_computed: list[NotComputed] = []

    def compute(self, what: str, figures: Callable[[], list[Figures]], missing: str = "") \
            -> list[Figures]:  # fmt: skip
        """The figures; none where files are damaged or of another version of the program.

        Args:
            what: the figures, for people.
            missing: the reason for which a run may have none of them; empty if it needs none.
        """
        try:
            found = figures()
        except UserError as error:
            self.not_computed.append(NotComputed(what, str(error)))
            return []
        if not found and missing:
            self.not_computed.append(NotComputed(what, missing))
        return found


def figures_of(
    run_folder: str, labels: Labels | None = None, parser: str | None = None
) -> RunFigures:
    """Every figure of a run, finished or not.

    Args:
        run_folder: absolute path or URL.
        labels: of people, for the raters' precision and recall.
        parser: a spaCy model, for root verbs and objects; None: an installed one of English.

    Raises:
        UserError: the folder has no run or cannot be read from here.
    """
    facts = status_of(run_folder)
    with storage.explained(run_folder):
        records = read_stages(run_folder, facts)
        rows = RunRows(records)
        recipe: dict[str, Any] = {}
        with records.leaving_out():
            recipe = storage.read_as(storage.join(run_folder, "config.json"), dict) or {}
        gathering = _Gathering()
        compute = gathering.compute
        losses = compute("held-out losses", lambda: model_figures.losses_of(records),
                         "no model of the run is evaluated yet")  # fmt: skip
        judges = compute(
            "win rates", lambda: model_figures.judges_of(records),
            "no stage of the run judges answers (settings.evaluation names no judge)",
        )  # fmt: skip
        raters = compute(
            "precision and recall of the raters",
            lambda: selections.raters_of(rows, labels) if labels else [],
            "no labels are given: humpback report RUN --labels FILE",
        )
        text, basis = headline(records.stages, judges, losses)
        return RunFigures(
            run=storage.name(run_folder),
            folder=run_folder,
            state=facts.state.value,
            attempt=facts.attempt,
            recipe=str(recipe.get("name", "")),
            headline=text,
            basis=basis,
            settings=flat(recipe.get("settings", {})),
            versions=_versions(records.stages),
            stages=records.stages,
            funnel=compute("the funnel", lambda: funnel.funnel_of(records)),
            facts=compute("facts about the documents", lambda: funnel.facts_of(records)),
            scores=compute("scores", lambda: selections.scores_of(rows),
                           "no iteration has rated its pairs yet"),
            overlaps=compute("overlap of the selections", lambda: selections.overlaps_of(rows),
                             "the run has fewer than two finished selections"),
            losses=losses,
            judges=judges,
            trainings=compute("trainings", lambda: model_figures.trainings_of(records),
                              "no training is done yet"),
            generations=compute("engines", lambda: model_figures.generations_of(records),
                                "no stage has asked a model yet"),
            lengths=compute("lengths", lambda: selections.lengths_of(rows)),
            diversity=compute("diversity", lambda: diversity.diversity_of(rows)),
            languages=compute("languages", lambda: diversity.languages_of(rows)),
            verbs=compute("root verbs and direct objects", lambda: verbs.verbs_of(rows, parser)),
            sources=compute("sources", lambda: diversity.sources_of(rows)),
            raters=raters,
            people=compute("people's votes", lambda: _people(run_folder),
                           "the run has no votes (humpback annotate RUN collects them)"),
            benchmarks=compute("benchmarks", lambda: benchmark_figures.benchmarks_of(records),
                               "no stage has asked any (settings.evaluation.benchmarks)"),
            refusals=compute("refusals", lambda: model_figures.refusals_of_models(records),
                             "no model is asked for them (settings.evaluation.safety)"),
            samples=compute("samples", lambda: samples.samples_of(rows)),
            # Last, because every folder is read by now.
            problems=[*compute("checks of the counts", lambda: funnel.mismatches(rows)),
                      *_other_versions(records), *records.problems],
            not_computed=[*gathering.not_computed, *_unfinished(records)],
        )  # fmt: skip


def flat(content: Any, prefix: str = "") -> dict[str, Any]:
    """The values of nested mappings by dotted keys."""
    if not isinstance(content, Mapping):
        return {prefix: content}
    leaves: dict[str, Any] = {}
    for key, value in content.items():
        leaves |= flat(value, f"{prefix}.{key}" if prefix else str(key))
    return leaves


def _versions(stages: list[StageFigures]) -> dict[str, list[str]]:
    """Versions of libraries, Python, machine and program that made the stages, the oldest first."""
    found: dict[str, dict[str, None]] = {}
    for stage in sorted(stages, key=lambda stage: stage.finished_at):
        made = stage.provenance
        values = {**made.get("versions", {}), "humpback_ray": made.get("commit"),
                  "python": made.get("python"), "machine": made.get("machine")}  # fmt: skip
        for name, value in values.items():
            if value:
                found.setdefault(name, {})[str(value)] = None
    return {name: list(values) for name, values in found.items()}


def _people(run_folder: str) -> list[PeopleResults]:
    """People's votes, counted; empty without votes, which lie on this machine only."""
    folder = storage.join(run_folder, PEOPLE)
    if storage.is_url(run_folder) or VOTES not in storage.names(folder):
        return []
    return [summarize(read_people(folder), run_folder)]


def _other_versions(records: StageRecords) -> list[str]:
    """Lines on the stages whose code has changed since they ran, and on stages of unknown kinds."""
    lines = []
    others = [stage for stage in records.stages if stage.is_of_other_version]
    if others:
        named = ", ".join(
            f"{stage.path} ({stage.kind} {stage.version}, now {stage.version_now})"
            for stage in others
        )
        lines.append(
            f"{len(others)} of {len(records.stages)} stages are of another version of this "
            f"program, which would make them again: {named}"
        )
    for stage in records.stages:
        if stage.kind and stage.version_now is None:
            lines.append(f"{stage.path} is of the kind {stage.kind}, which this program lacks")
    return lines


def _unfinished(records: StageRecords) -> list[NotComputed]:
    return [
        NotComputed(f"figures of {stage.path}", f"the stage is {stage.state}")
        for stage in records.stages
        if stage.num_rows is None
    ]
