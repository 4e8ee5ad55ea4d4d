"""The load test's table, written by ``tests/load/run.py``, as text."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

COLUMNS = (
    *("machine", "sessions", "seconds", "visits", "moves", "evaluations", "refused", "errors", "crosstalk"),
    *("p50", "p95", "before", "peak", "after"),
)
"""Of ``load.csv``: ``p50`` and ``p95`` in seconds; ``before``, ``peak`` and ``after`` in bytes."""


def markdown_load(tables: Path) -> str:
    """Return the measured loads of a folder as a table, or how to measure one."""
    path = tables / "load.csv"
    if not path.exists():
        return "Not measured yet: `python tests/load/run.py --sessions 50 --seconds 300 --record`."
    return load_table(pd.read_csv(path))


def load_table(loads: pd.DataFrame) -> str:
    """Write loads with the columns `COLUMNS` as a table."""
    head = (
        "| machine | visitors, seconds | pages opened | λ moves | p50, p95 of a move | polite refusals | errors, "
        "cross-talk | memory before, at most, after |"
    )
    lines = [
        f"| {row.machine} | {row.sessions}, {row.seconds} | {row.visits} | {row.moves} | {row.p50:.2f} s, "
        f"{row.p95:.2f} s | {row.refused} | {row.errors}, {row.crosstalk} | "
        f"{', '.join(f'{value / 1e9:.2f}' for value in (row.before, row.peak, row.after))} GB |"
        for row in loads.itertuples()
    ]
    return "\n".join([head, f"|{'---|' * head.count(' | ')}---|", *lines])
