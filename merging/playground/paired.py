"""Two merges on the same rows: the paired difference per task and on average, with intervals and McNemar's p."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pandas as pd

from ..diagnostics.leave_out import paired_interval
from ..evaluation.accuracy import Z95
from .rows import mcnemar

COLUMNS = ["task", "rows", "first", "second", "difference", "low", "high", "only_first", "only_second", "p"]
AVERAGE = "average"


def paired_table(first: Mapping[str, str], second: Mapping[str, str]) -> pd.DataFrame:
    """Return a row per task that both have, and one for the average: `COLUMNS`, accuracies and differences in points.

    ``difference`` is first - second on the rows that both have answered. A task's interval is
    `merging.diagnostics.leave_out.paired_interval`; the average's adds the variances of the tasks' differences, whose
    rows are independent; its p is of all tasks' rows together.

    Parameters
    ----------
    first, second : {task: marks}, see `merging.evaluation.accuracy.Estimate`
    """
    rows: list[tuple[object, ...]] = []
    variances: list[float] = []
    for task in first:
        seen = [pair for pair in zip(first[task], second.get(task, ""), strict=False) if "." not in pair]
        if not seen:
            continue
        n, only = len(seen), (seen.count(("1", "0")), seen.count(("0", "1")))
        right = [100 * sum(pair[side] == "1" for pair in seen) / n for side in (0, 1)]
        low, high = paired_interval(*only, n)
        rows.append((task, n, *right, right[0] - right[1], 100 * low, 100 * high, *only, mcnemar(*only)))
        variances.append((sum(only) - (only[0] - only[1]) ** 2 / n) / n**2)
    frame = pd.DataFrame(rows, columns=COLUMNS)
    if len(frame) < 2:
        return frame
    mean = frame[["first", "second", "difference"]].mean()
    half = 100 * Z95 * math.sqrt(sum(variances)) / len(frame)
    totals = frame[["rows", "only_first", "only_second"]].sum()
    p = mcnemar(int(totals["only_first"]), int(totals["only_second"]))
    d = mean["difference"]
    average = (AVERAGE, totals["rows"], mean["first"], mean["second"], d, d - half, d + half, *totals[1:], p)
    return pd.concat([frame, pd.DataFrame([average], columns=COLUMNS)], ignore_index=True)
