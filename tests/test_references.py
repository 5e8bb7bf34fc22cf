"""Files that documents, docstrings and comments name exist in the repository."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / name for name in ("README.md", "benchmarks/LOG.md", "cluster/README.md")]
DOCUMENTS += sorted(ROOT.glob("docs/*.md"))
MODULES = sorted(
    path for folder in ("humpback_ray", "jobs", "benchmarks", "tests")
    for path in (ROOT / folder).rglob("*.py")
)  # fmt: skip
RECIPES = sorted([*ROOT.glob("humpback_ray/recipes/*.yaml"), *ROOT.glob("jobs/*.yaml")])
NAME = r"[\w-]+\.(?:py|md|yaml|sbatch|toml)\b"
# A path with a folder, or a single name in backticks. A URL, a placeholder or a glob is neither.
REFERENCE = re.compile(rf"(?<![\w/.:*<>$~-])((?:[\w-]+/)+{NAME})(?!/)|`({NAME})`")
# Files of other projects or commits, which the text around them names.
OUTSIDE = {
    "gpu_model_runner.py",  # vLLM
    "ray/llm/_internal/batch/stages/http_request_stage.py",  # Ray
    "scripts/train/benchmarking/README.md",  # LLM Foundry
    "NAME.yaml",  # a placeholder
    "benchmarks/one_stream.py",  # deleted; LOG.md names the last commit that has it
}


def files() -> set[str]:
    """Every file of the repository, without those that a run or a tool leaves there."""
    folders = ("humpback_ray", "jobs", "benchmarks", "tests", "cluster", "docs", "requirements")
    below = [path for folder in folders for path in (ROOT / folder).rglob("*.*")]
    return {str(path.relative_to(ROOT)) for path in [*ROOT.glob("*.*"), *below] if path.is_file()}


def prose(path: Path) -> Iterator[str]:
    """The text of a document or recipe; the docstrings and comments of a module."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        yield text
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.string


def dangling(texts: Iterator[str], known: set[str]) -> list[str]:
    """References that no known file ends with; `serving/pool.py` is one to the package's file."""
    references = [match[1] or match[2] for text in texts for match in REFERENCE.finditer(text)]
    return [
        each for each in references
        if each not in OUTSIDE
        and not any(name == each or name.endswith(f"/{each}") for name in known)
    ]  # fmt: skip


@pytest.mark.parametrize(
    "paths", [DOCUMENTS, RECIPES, MODULES], ids=["documents", "recipes", "modules"]
)
def test_prose_references_name_existing_files(paths):
    known = files()
    assert {str(path.relative_to(ROOT)): dangling(prose(path), known) for path in paths} == {
        str(path.relative_to(ROOT)): [] for path in paths
    }


def test_reference_search_finds_dangling_ones():
    text = "See `gone.md`, gone/a.py and serving/gone.py, not serving/pool.py or `cli.py`."
    assert dangling(iter([text]), files()) == ["gone.md", "gone/a.py", "serving/gone.py"]
    urls = "https://host/a/b.md, RUN/*/c.py, <path>/d.py and s3://bucket/e.yaml are elsewhere."
    assert dangling(iter([urls]), files()) == []
