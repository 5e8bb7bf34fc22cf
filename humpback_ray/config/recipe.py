"""Recipes: a YAML file, its parents and overrides become settings and placement."""

from __future__ import annotations

import difflib
import glob
import os
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
from pydantic.fields import FieldInfo

from humpback_ray.config.dataset_address import dataset_problem
from humpback_ray.config.fields import Frozen, locations, marks
from humpback_ray.config.patterns import has_magic, literal_folder
from humpback_ray.config.placement import Placement
from humpback_ray.config.settings import Settings
from humpback_ray.config.urls import location_problem
from humpback_ray.errors import UserError


class Recipe(Frozen):
    """A named pair of settings and placement."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")]
    description: str = ""
    settings: Settings
    placement: Placement = Placement()

    @model_validator(mode="after")
    def _locations_can_be_opened(self) -> Recipe:
        for key, mark, location in locations(self.settings):
            problem = dataset_problem(location, takes_datasets=mark.takes_datasets)
            if problem := problem or location_problem(location):
                raise ValueError(f"settings.{key}: {problem} (it is {location!r})")
        return self


# --- loading ------------------------------------------------------------------------------------

SHIPPED = Path(str(resources.files("humpback_ray") / "recipes"))


def recipe_names() -> list[str]:
    """Names of the recipes shipped with the package."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def load_recipe(name_or_path: str, overrides: list[str] | None = None) -> Recipe:
    """Load a shipped recipe by name or a YAML file by path, with `a.b=c` overrides applied.

    A recipe may extend another: `extends: NAME`, or a path beside its own file. Its mappings then
    merge into the parent's key by key, and any other value replaces the parent's. A mapping with
    another `kind` replaces the parent's too.

    A location in a recipe file that is no URL is searched beside that file, then from the working
    folder, so that a recipe and its data can move together and mean the same from everywhere. One
    in an override is searched from the working folder, then beside the recipe.

    Raises:
        UserError: unknown recipe, unknown key (with the nearest valid one), wrong type or value.
    """
    path = _find_recipe(name_or_path)
    content = _read_with_parents(path, [])
    for override in overrides or []:
        _apply_override(content, override)
    content = _with_locations(content, [Recipe], [Path(), path.parent])
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        raise UserError(f"recipe {name_or_path}: {_explain(error)}") from error


def _find_recipe(name_or_path: str, folder: Path | None = None) -> Path:
    """The file of a shipped recipe, or a path, which may be relative to a folder."""
    if name_or_path in recipe_names():
        return SHIPPED / f"{name_or_path}.yaml"
    path = (folder or Path()) / name_or_path
    if path.is_file():
        return path
    hint = _nearest(name_or_path, recipe_names())
    raise UserError(
        f"no recipe {name_or_path!r}: it is neither a YAML file nor one of "
        f"{', '.join(recipe_names())}{hint}"
    )


# --- files --------------------------------------------------------------------------------------


class _UniqueKeys(yaml.SafeLoader):
    """Refuses a key that one mapping has twice, because YAML would drop the first value."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if isinstance(key, yaml.ScalarNode) and key.value in lines:
                raise UserError(
                    f"key {key.value!r} is given twice in one mapping, at lines "
                    f"{lines[key.value]} and {line}: keep one"
                )
            if isinstance(key, yaml.ScalarNode):
                lines[key.value] = line
        return node


def _read_with_parents(path: Path, children: list[Path]) -> dict[str, Any]:
    """A recipe's content merged into the content of the recipes that it extends."""
    if path.resolve() in [child.resolve() for child in children]:
        chain = " -> ".join(str(each) for each in [*children, path])
        raise UserError(f"recipes extend each other in a cycle: {chain}; drop one `extends`")
    content = _with_locations(_read(path), [Recipe], [path.parent, Path()])
    if "extends" not in content:
        return content
    parent = content.pop("extends")
    if not isinstance(parent, str):
        raise UserError(
            f"recipe {path}: extends is {parent!r}, and must be the name of a shipped recipe or "
            "the path of a YAML file"
        )
    if "name" not in content:
        raise UserError(f"recipe {path} extends {parent} and has no name: add `name: ...`")
    try:
        parent_path = _find_recipe(parent, path.parent)
    except UserError as error:
        raise UserError(f"recipe {path} extends {parent}: {error}") from error
    return _merged(_read_with_parents(parent_path, [*children, path]), content)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeys)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"recipe {path} is not YAML: {_one_line(error)}") from error
    except UserError as error:
        raise UserError(f"recipe {path}: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"recipe {path} must be a mapping with name, settings and placement")
    return content


def _merged(parent: dict[str, Any], child: dict[str, Any]) -> dict[str, Any]:
    """A new mapping: the parent's values, and the child's in their place."""
    if "kind" in child and child["kind"] != parent.get("kind"):
        return child
    merged = dict(parent)
    for key, value in child.items():
        below = merged.get(key)
        if isinstance(below, dict) and isinstance(value, dict):
            value = _merged(below, value)
        merged[key] = value
    return merged


def _with_locations(content: Any, models: list[type[BaseModel]], folders: list[Path]) -> Any:
    """The content of a section, with absolute paths for locations that lie in one of the folders.

    Args:
        content: as YAML gives it; nothing in it is checked yet.
        models: the classes that the section may have.
        folders: to search, in this order.
    """
    if not isinstance(content, dict):
        return content
    fields = {name: field for model in models for name, field in model.model_fields.items()}
    return {key: _with_location(value, fields.get(key), folders) for key, value in content.items()}


def _with_location(value: Any, field: FieldInfo | None, folders: list[Path]) -> Any:
    if field is None:
        return value
    if isinstance(value, list):
        return [_with_location(each, field, folders) for each in value]
    if not marks(field) or not isinstance(value, str):
        return _with_locations(value, _models_in(field.annotation), folders)
    if "://" in value or value.startswith("~"):
        return value
    folder = next((folder for folder in folders if _is_in(folder, value)), Path())
    # What lies in the working folder stays relative: `humpback submit` takes such a file along.
    return value if folder.absolute() == Path.cwd() else str((folder / value).absolute())


def _is_in(folder: Path, name: str) -> bool:
    """True if a folder has that file, folder or link, or a match of the pattern."""
    if os.path.lexists(folder / name):
        return True
    if not has_magic(name):
        return False
    literal = literal_folder(name, folder)
    pattern = name.removeprefix(literal)
    return any(glob.iglob(pattern, root_dir=folder / literal, recursive=True))


# --- overrides and mistakes ---------------------------------------------------------------------


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
        # A YAML anchor makes two sections share one mapping, and only the named one may change.
        node[key] = node = dict(child)
    try:
        node[last] = yaml.load(value, Loader=_UniqueKeys)
    except (yaml.YAMLError, UserError) as error:
        raise UserError(f"--set {override}: {_one_line(error)}") from error


def _explain(error: ValidationError) -> str:
    """One line: every wrong key with its rule, and the nearest valid key for a misspelt one."""
    problems = []
    for problem in error.errors():
        where = ".".join(
            str(p) for p in problem["loc"] if p not in ("pretrained", "scratch", "gguf")
        )
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
        if part.isdecimal():  # the place of a section in a list
            continue
        models = [m for model in models if part in model.model_fields
                  for m in _models_in(model.model_fields[part].annotation)]  # fmt: skip
    keys = [key for model in models for key in model.model_fields]
    return keys if section else ["extends", *keys]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for part in getattr(annotation, "__args__", ()) for m in _models_in(part)]


def _nearest(word: str, valid: list[str]) -> str:
    close = difflib.get_close_matches(word, valid, n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else f" (valid: {', '.join(valid)})"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
