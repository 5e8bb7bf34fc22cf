"""A vLLM plugin: an engine process of ours ends when the actor that started it is gone.

vLLM loads plugins in each of its processes (https://docs.vllm.ai/en/latest/design/plugin_system/).
Without this one, an engine whose actor and raylet are killed waits for requests for ever, with its
weights and cache in memory, and the resumed run finds the GPU full.
"""

from __future__ import annotations

import multiprocessing
import os
import threading

ENABLED = "HUMPBACK_ENGINE"  # set in the engines' environment: nobody else's vLLM is touched


def end_with_parent() -> None:
    """Watch the parent from a thread, in processes that multiprocessing has started."""
    parent = multiprocessing.parent_process()
    if parent is None or os.environ.get(ENABLED) != "1":
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()
