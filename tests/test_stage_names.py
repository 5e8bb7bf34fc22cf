"""Kinds and paths of stages stand in the stages and in the pipeline, nowhere else as strings."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from humpback_ray import pipeline
from humpback_ray.config.recipe import load_recipe

PACKAGE = Path(__file__).parents[1] / "humpback_ray"
MODULES = sorted(
    [
        *PACKAGE.glob("planning/*.py"),
        *PACKAGE.glob("cluster/doctor*.py"),
        *(PACKAGE / "report" / f"{name}.py" for name in ("run_summary", "run_status")),
        *(PACKAGE / "terminal").glob("*.py"),
        PACKAGE / "cli.py",
    ]
)


@pytest.fixture(scope="module")
def stages():
    # The demo has every kind of stage; stages are declared without a corpus too, and sooner.
    return pipeline.stages_of(load_recipe("tiny", ["settings.corpus.path=/none"]))


def stage_names(source: str, stages) -> list[str]:
    """Strings of a module that are a stage's kind or path, or that begin or hold a path."""
    whole = {name for stage in stages for name in (stage.kind, stage.path)}
    folders = {stage.path.partition("/")[0] for stage in stages if "/" in stage.path}
    below = [f"{folder}/" for folder in folders]
    numbered = tuple({match[0] for folder in folders if (match := re.match(r"\w+-(?=\d)", folder))})
    tree = ast.parse(source)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and isinstance(node.body[0], ast.Expr)
    }
    texts = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and id(node) not in docstrings
    ]
    return sorted(
        text
        for text in texts
        if text in whole or text.startswith(numbered) or any(part in text for part in below)
    )


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_module_names_no_stage_by_a_string(module, stages):
    assert stage_names(module.read_text(encoding="utf-8"), stages) == []


def test_search_for_stage_names_finds_every_form(stages):
    source = """
def f(kind, path, t):
    '''The stage iter-1/rated is prose.'''
    if kind == "rate" or path in ("candidates", "base/model") or path.startswith("iter-"):
        return f"evaluation/{t}", f"{path}/forward-0/model", f"iter-{t}"
    return "the candidates are rated"
"""
    assert stage_names(source, stages) == [
        "/forward-0/model", "base/model", "candidates", "evaluation/", "iter-", "iter-", "rate",
    ]  # fmt: skip
