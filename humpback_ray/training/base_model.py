"""The base model of a training: checked, and its tokenizer loaded."""

from __future__ import annotations

from typing import Any

from humpback_ray.models import problems as base_problems
from humpback_ray.models.files import Unusable, file_problems, model_files
from humpback_ray.training.task import BaseModel


def load_tokenizer(base: BaseModel) -> Any:
    """The base model's tokenizer, after checking that the model can be finetuned.

    A run has checked its base before the first stage. Here the model may also be one that the run
    has made, or one that was on no disk then.

    Raises:
        UserError: no such model, no tokenizer, no end token, or weights that cannot be trained.
    """
    files = model_files(base.location, base.revision)
    problems = file_problems(files)
    if not problems:
        config = base_problems.load_config(files, base.load_options)
        tokenizer = base_problems.load_tokenizer(files, base.load_options)
        problems = base_problems.model_problems(files, config, tokenizer)
    if problems:
        raise Unusable(problems[0])
    return tokenizer
