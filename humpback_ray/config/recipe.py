"""Recipes: a YAML file and its overrides become settings and placement."""

from __future__ import annotations

import difflib
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import (
    BaseModel,
    Field,
    ValidationError,
    model_validator,
)

from humpback_ray.config.fields import Frozen
from humpback_ray.config.placement import Placement
from humpback_ray.config.settings import ScratchBase, Settings
from humpback_ray.errors import UserError


class Recipe(Frozen):
    """A named pair of settings and placement: one YAML file."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
    description: str = ""
    settings: Settings
    placement: Placement = Placement()

    @model_validator(mode="after")
    def _one_stream(self) -> Recipe:
        policy, method = self.settings.long_prompts.policy, self.settings.rating.method
        if self.placement.engine.one_stream and (policy == "route_long" or method == "mean"):
            raise ValueError(
                "placement.engine.one_stream asks about each candidate once, as it comes: it goes "
                "neither with long_prompts.policy=route_long nor with rating.method=mean"
            )
        return self

    @model_validator(mode="after")
    def _batches_divide(self) -> Recipe:
        workers = self.placement.training.num_workers
        trainings = [self.settings.backward_training, self.settings.forward_training]
        if isinstance(self.settings.base, ScratchBase):
            trainings.append(self.settings.base.training)
        for training in trainings:
            # Below 3,000 examples a null batch is 8: that is known, and checked, at run time.
            batch = training.batch_size or 32
            if batch % workers:
                raise ValueError(
                    f"a batch of {batch} examples does not divide among {workers} training "
                    f"workers: set placement.training.num_workers to a divisor of {batch}, "
                    f"or the batch_size of the training to a multiple of {workers}"
                )
        return self


# --- loading ------------------------------------------------------------------------------------


def recipe_names() -> list[str]:
    """Names of the recipes shipped with the package."""
    folder = resources.files("humpback_ray") / "recipes"
    return sorted(
        p.name.removesuffix(".yaml") for p in folder.iterdir() if p.name.endswith(".yaml")
    )


def load_recipe(name_or_path: str, overrides: list[str] | None = None) -> Recipe:
    """Load a shipped recipe by name or a YAML file by path, with `a.b=c` overrides applied.

    File paths inside the recipe that exist neither from the working folder nor as a URL are looked
    up beside the recipe file, so that a recipe and its data can travel together.

    Raises:
        UserError: unknown recipe, unknown key (with the nearest valid one), wrong type or value.
    """
    path = _find_recipe(name_or_path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"recipe {path} is not YAML: {_one_line(error)}") from error
    if not isinstance(content, dict):
        raise UserError(f"recipe {path} must be a mapping with name, settings and placement")
    for override in overrides or []:
        _apply_override(content, override)
    try:
        recipe = Recipe.model_validate(content)
    except ValidationError as error:
        raise UserError(f"recipe {name_or_path}: {_explain(error)}") from error
    return _resolve_shipped_files(recipe, path.parent)


def _find_recipe(name_or_path: str) -> Path:
    if name_or_path in recipe_names():
        return Path(str(resources.files("humpback_ray") / "recipes" / f"{name_or_path}.yaml"))
    path = Path(name_or_path)
    if path.is_file():
        return path
    hint = _nearest(name_or_path, recipe_names())
    raise UserError(
        f"no recipe {name_or_path!r}: it is neither a YAML file nor one of "
        f"{', '.join(recipe_names())}{hint}"
    )


def _apply_override(content: dict[str, Any], override: str) -> None:
    keys, separator, value = override.partition("=")
    if not separator or not all(keys.split(".")):
        raise UserError(f"--set takes a.b=c, not {override!r}")
    *parents, last = keys.split(".")
    node = content
    for key in parents:
        child = node.setdefault(key, {})
        if not isinstance(child, dict):
            raise UserError(f"--set {override}: {key!r} is a value, not a section")
        # A YAML anchor makes one section of two: only the one that is named may change.
        node[key] = node = dict(child)
    try:
        node[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UserError(f"--set {override}: {_one_line(error)}") from error


def _resolve_shipped_files(recipe: Recipe, folder: Path) -> Recipe:
    settings = recipe.settings

    def resolve(value: str) -> str:
        if "://" in value or Path(value).exists() or not (folder / value).exists():
            return value
        return str(folder / value)

    template = settings.prompts.rating_template
    changes: dict[str, Any] = {
        "seed": settings.seed.model_copy(update={"path": resolve(settings.seed.path)}),
        "corpus": settings.corpus.model_copy(update={"path": resolve(settings.corpus.path)}),
        "evaluation": settings.evaluation.model_copy(
            update={"prompts": resolve(settings.evaluation.prompts)}
        ),
        "prompts": settings.prompts.model_copy(
            update={"rating_template": resolve(template) if template else None}
        ),
    }
    return recipe.model_copy(update={"settings": settings.model_copy(update=changes)})


def _explain(error: ValidationError) -> str:
    """One line: every wrong key with its rule, and the nearest valid key for a misspelt one."""
    problems = []
    for problem in error.errors():
        where = ".".join(str(p) for p in problem["loc"] if p not in ("pretrained", "scratch"))
        if problem["type"] == "extra_forbidden":
            parent, _, key = where.rpartition(".")
            problems.append(f"unknown key {where}{_nearest(key, _keys_of(parent))}")
        elif problem["type"] == "missing":
            problems.append(f"{where} is missing")
        else:
            value = f" (it is {problem['input']!r})" if problem["type"] != "value_error" else ""
            rule = problem["msg"].removeprefix("Value error, ")
            problems.append(f"{where}: {rule}{value}".removeprefix(": "))
    return "; ".join(problems)


def _keys_of(section: str) -> list[str]:
    """Valid keys of a dotted section of a recipe."""
    models: list[type[BaseModel]] = [Recipe]
    for part in filter(None, section.split(".")):
        models = [m for model in models if part in model.model_fields
                  for m in _models_in(model.model_fields[part].annotation)]  # fmt: skip
    return [key for model in models for key in model.model_fields]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for part in getattr(annotation, "__args__", ()) for m in _models_in(part)]


def _nearest(word: str, valid: list[str]) -> str:
    close = difflib.get_close_matches(word, valid, n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else f" (valid: {', '.join(valid)})"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
