"""A run's folder with models whose files are there, for what publishes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support.run_folder import write_run

MODELS = {"backward/model": "M_yx", "forward-0/model": "M_0", "iter-1/model": "M_1",
          "iter-2/model": "M_2"}  # fmt: skip
README = """---
library_name: transformers
pipeline_tag: text-generation
license: apache-2.0
---

# demo: {path}

This model answers requests.
"""
FILES = {"config.json": b"{}", "tokenizer.json": b"[]", "model.safetensors": b"\x00" * 1000}


def write_published_run(folder: Path, **more: Any) -> Path:
    """Write the run; its models have small files in place of their own. Returns its folder.

    Args:
        folder: of the run.
        more: arguments of `write_run`.
    """
    write_run(str(folder), **more)
    for path in MODELS:
        model = folder / path
        if model.exists():
            (model / "README.md").write_text(README.format(path=path))
            (model / "tensorboard").mkdir()
            (model / "tensorboard" / "events.out.tfevents.1.host").write_bytes(b"host")
            for name, content in FILES.items():
                (model / name).write_bytes(content)
    return folder
