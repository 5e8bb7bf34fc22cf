"""A vLLM plugin that ends an engine's process when the actor that started it has died.

vLLM loads plugins in each of its processes (https://docs.vllm.ai/en/latest/design/plugin_system/).
Without this one, an engine whose actor and raylet are killed waits for requests for ever, with its
weights and cache in memory, so the resumed run finds the GPU full.
"""

from __future__ import annotations

import multiprocessing
import os
import threading

ENABLED = "HUMPBACK_ENGINE"  # set in the engines' environment, so no other vLLM process ends


def end_with_parent() -> None:
    """Watch the parent from a thread, in processes that multiprocessing started."""
    parent = multiprocessing.parent_process()
    if parent is None or os.environ.get(ENABLED) != "1":
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()
