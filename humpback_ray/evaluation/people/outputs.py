"""The models of a study: names of a run's models, and files of outputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from humpback_ray import storage
from humpback_ray.errors import UserError
from humpback_ray.evaluation.model_outputs import ModelOutputs, read_outputs

EVALUATION = "evaluation"  # folder of a run with one folder per model
OUTPUTS = "outputs.json"
OPTION = "--models"
FILES = f"{OPTION} FILE or NAME=FILE"  # NAME stands for all generators of a file


def read_all(run_folder: str, models: Sequence[str]) -> list[ModelOutputs]:
    """The answers of several models.

    Args:
        models: each the name of a model of the run, a file, or NAME=FILE.

    Raises:
        UserError: fewer than two models, two of the same name, or one without readable answers.
    """
    if len(models) < 2:
        raise UserError(
            f"{OPTION} {','.join(models)}: a comparison needs two models or more; give names of "
            f"models in {storage.join(run_folder, EVALUATION)}, or files of outputs"
        )
    outputs = [_read(run_folder, model) for model in models]
    counts = Counter(output.model for output in outputs)
    name, number = counts.most_common(1)[0]
    if number > 1:
        raise UserError(
            f"{OPTION}: {number} models have the name {name}; give one another name, as "
            "OTHER_NAME=FILE.json"
        )
    return outputs


def _read(run_folder: str, model: str) -> ModelOutputs:
    name, separator, path = model.partition("=")
    if separator:
        return read_outputs(storage.absolute(path), FILES, name)
    if model.endswith(".json") or "/" in model:
        return read_outputs(storage.absolute(model), FILES)
    folder = storage.join(run_folder, EVALUATION)
    file = storage.join(folder, model, OUTPUTS)
    if not storage.exists(file):
        known = sorted(n for n in storage.names(folder) if not n.startswith((".", "_")))
        raise UserError(
            f"no answers of {model} at {file}: name one of {', '.join(known) or '(none)'}, or a "
            "file of outputs that ends in .json"
        )
    return read_outputs(file, FILES, model)
