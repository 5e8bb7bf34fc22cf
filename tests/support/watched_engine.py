"""An engine with a watchdog and a child: `python -m tests.support.watched_engine HOW SECONDS`.

HOW is what it does as long as it lives: `steps`, `hangs` with requests, or is `idle`. It prints the
process ids of its child and its watchdog, then a line whenever it has told the watchdog.
"""

from __future__ import annotations

import subprocess
import sys
import time

from humpback_ray.serving.watchdog import Watchdog


def main(how: str, seconds: float) -> None:
    """Tell a watchdog ten times a second."""
    watchdog = Watchdog(seconds)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    print(child.pid, watchdog._process.pid, flush=True)
    where_the_engine_hangs(watchdog, how)


def where_the_engine_hangs(watchdog: Watchdog, how: str) -> None:
    """The frame that the watchdog's stacks must show."""
    for number in range(10**6):
        watchdog.tell(number if how == "steps" else 7, 0 if how == "idle" else 3)
        print("told", flush=True)
        time.sleep(0.1)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
