"""One model's benchmarks, by lm-evaluation-harness; its files stay in the stage's folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from humpback_ray import storage, tables
from humpback_ray.cluster import capacity
from humpback_ray.config.benchmarks import TASK_FILE_SUFFIXES, BenchmarkSettings
from humpback_ray.config.placement import EnginePlacement, Placement
from humpback_ray.corpus.files import content_identity, list_files
from humpback_ray.errors import UserError
from humpback_ray.evaluation import harness, harness_results
from humpback_ray.evaluation.harness import HarnessRun
from humpback_ray.execution.stage import NOT_HASHED, Context, Part, Result, Source, Stage
from humpback_ray.rows import BenchmarkScore

TASK_FILES_KEY = f"{harness.KEY}.task_files"
SCORES = "scores"  # folder in the stage's


@dataclass(frozen=True, kw_only=True)
class Benchmark(Stage):
    """The figures of one model on benchmarks, and its score on each of their questions.

    One process answers all tasks, so a killed one begins again.
    """

    kind: ClassVar[str] = "benchmark"
    version: ClassVar[int] = 1
    part: ClassVar[Part] = "evaluate"
    is_replaceable: ClassVar[bool] = True

    name: str  # of the model: base, M_0, M_1, ...
    model: Stage | Source
    task_files: Source | None
    settings: BenchmarkSettings
    context_length: int  # tokens of a question and an answer
    dtype: str
    trust_remote_code: bool = field(default=False, metadata=NOT_HASHED)

    @property
    def uses_engines(self) -> bool:
        """True: the harness takes the devices of one engine."""
        return True

    @property
    def _task_folder(self) -> str | None:
        return self.task_files.location if self.task_files else None

    def check(self, placement: Placement) -> None:
        """Refuse a missing harness and tasks that neither it nor the task files have."""
        harness.check_tasks(self.settings, self._task_folder, placement.benchmarks.python)

    def run(self, context: Context) -> Result:
        """Write the harness's files, a `BenchmarkScore` for each question, and the figures."""
        run = self.harness_run(context)
        num_tasks = len(self.settings.tasks)
        context.progress.say(f"lm-eval asks {self.name} {num_tasks} tasks on its {run.backend}")
        version = ask_on_a_node(run)
        return self.result(context, version)

    def harness_run(self, context: Context) -> HarnessRun:
        """All that the node with the devices needs to know."""
        return HarnessRun(
            name=self.name,
            model=context.of(self.model),
            revision=self.model.revision if isinstance(self.model, Source) else None,
            settings=self.settings,
            task_files=self._task_folder,
            context_length=self.context_length,
            dtype=self.dtype,
            trust_remote_code=self.trust_remote_code,
            placement=context.placement,
            output=context.folder,
        )

    def result(self, context: Context, version: str) -> Result:
        """The figures of the harness's files in the stage's folder.

        Args:
            version: of the harness.
        """
        found = harness_results.read_results(context.folder)
        storage.delete(context.path(SCORES))
        scores = list(harness_results.read_scores(context.folder))
        tables.write_rows(context.path(SCORES), scores, BenchmarkScore)
        tables.assert_unique(context.path(SCORES), "score_id")
        left_out = found.num_questions - found.num_answered
        outcomes = {"answered": found.num_answered, "beyond_limit": left_out}
        figures = {
            "backend": found.backend,
            "lm_eval_version": version,
            "num_fewshot": 0,
            "tasks": [asdict(task) for task in found.tasks],
        }
        answered = {name: number for name, number in outcomes.items() if number}
        return Result(found.num_questions, answered, figures)


def ask_on_a_node(run: HarnessRun) -> str:
    """Run the harness as a Ray task on the devices of one engine; returns its version.

    Raises:
        UserError: no node has the devices, or as `harness.ask_benchmarks`.
    """
    import ray

    engine = run.placement.engine
    if not run.placement.cluster.autoscaling:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        check_room(engine, run.num_devices, nodes)
    task = ray.remote(harness.ask_benchmarks).options(**resources_of(engine, run.num_devices))
    answer = task.remote(run)
    try:
        return ray.get(answer)
    except KeyboardInterrupt:
        ray.cancel(answer, force=True)
        raise


def resources_of(engine: EnginePlacement, num_devices: int) -> dict[str, Any]:
    """Ray options of the harness's task: the devices that one engine would take."""
    bundle = capacity.engine_bundles(engine)[0]
    options: dict[str, Any] = {"num_cpus": num_devices * bundle["CPU"]}
    if "GPU" in bundle:
        options["num_gpus"] = num_devices
    others = {name: value for name, value in bundle.items() if name not in ("CPU", "GPU")}
    return options | ({"resources": others} if others else {})


def check_room(engine: EnginePlacement, num_devices: int, nodes: list[Mapping[str, float]]) -> None:
    """Refuse devices that no single node has; the task would wait for them for ever.

    Raises:
        UserError: the needed and the present devices, and the ways out.
    """
    bundle = capacity.engine_bundles(engine)[0]
    if not any(capacity.num_bundles(bundle, node) >= num_devices for node in nodes):
        needed = capacity.describe([bundle] * num_devices, across=False)
        raise UserError(
            f"no node has the devices of the benchmarks, {needed} (placement.engine): the cluster "
            f"has {capacity.describe_nodes(nodes)}; lm-eval needs them on one node, so lower "
            f"placement.engine.tensor_parallel_size, or set {harness.KEY}=null"
        )


def benchmarks(
    settings: BenchmarkSettings,
    models: Mapping[str, Stage | Source],
    serving: Mapping[str, Any],
) -> Iterator[Stage]:
    """A stage for each model.

    Args:
        models: by name, in the order of training.
        serving: fields of every stage with engines.
    """
    files = task_files_source(settings.task_files)
    asking = {name: value for name, value in serving.items() if name != "random_seed"}
    for name, model in models.items():
        yield Benchmark(
            path=f"benchmarks/{name}", name=name, model=model, task_files=files,
            settings=settings, **asking,
        )  # fmt: skip


def task_files_source(path: str | None) -> Source | None:
    """A folder of task files by its content; with a problem if it holds none."""
    if path is None:
        return None
    location = storage.absolute(path)
    try:
        files = list_files(location, TASK_FILE_SUFFIXES, TASK_FILES_KEY)
        if not any(file.name.endswith(".yaml") and file.path != location for file in files):
            raise UserError(
                f"{path} is no folder with task files, which end in .yaml ({TASK_FILES_KEY}): "
                "docs/evaluation.md has the layout"
            )
        return Source(location, content_identity(files, TASK_FILES_KEY))
    except UserError as error:
        return Source(location, None, problem=str(error))
