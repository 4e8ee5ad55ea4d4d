"""What a move of λ costs at the server, and `mergescope --help`, beside what they cost before: python
tests/benchmarks/moves.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

MOVES = 40
BEFORE = {"λ move": 0.130, "mergescope --help": 3.4}
"""Seconds, of the first round (commit 3c9e762, task_arithmetic; a busy machine)."""


def lambda_move(method: str) -> float:
    """Return the median of so many moves of λ on the opening pool, each with everything that the page is sent."""
    from merging.methods import METHODS
    from merging.services.workbench import Workbench
    from viz.panels.merge.controls import choose
    from viz.panels.merge.handlers import MergeHandlers
    from viz.panels.merge.session import Session

    bench = Workbench()
    pool = next(iter(bench.pools))
    panel, session = MergeHandlers(bench, METHODS, lambda settings, limit: iter(())), Session()
    form: dict[str, Any] = {name: option.get("value") for name, option in choose(bench, METHODS, pool, method).items()}
    form |= {"pool": pool, "method": method, "k": 100, "seed": 0}
    seconds = []
    for move in range(MOVES + 1):
        began = time.perf_counter()
        panel.redraw(session, form | {"slider_0": 0.105 + 0.025 * move}, 200, ("A", "all", "all"))
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:])


def help_time() -> float:
    """Return the shortest of three calls of ``mergescope --help``."""
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "merging.cli", "--help"], check=True, capture_output=True)
        seconds.append(time.perf_counter() - began)
    return min(seconds)


if __name__ == "__main__":
    for method in ("task_arithmetic", "do_merging"):
        print(f"λ move, {method}: {1000 * lambda_move(method):.0f} ms (before {1000 * BEFORE['λ move']:.0f})")
    print(f"mergescope --help: {help_time():.2f} s (before {BEFORE['mergescope --help']:.1f})")
