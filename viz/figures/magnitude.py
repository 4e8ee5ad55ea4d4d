"""Magnitude distribution: how large the columns of each adapter's update are, task beside task."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from viz.figures.theme import MUTED, Figure, axis, faint, layout, task_colours

GRID = np.round(np.linspace(0, 1, 101), 2)


def magnitude_quantiles(columns: pd.DataFrame, tasks: Sequence[str]) -> pd.DataFrame:
    """Reduce tens of thousands of column norms to percentiles: enough to draw the distribution, small enough to send.

    Parameters
    ----------
    columns : DataFrame
        `task` and `log10_norm`, one row per column of an update; a column that is zero (-inf) is left out.
    tasks : sequence of str
        The tasks, in the order of the pool.

    Returns
    -------
    DataFrame
        `quantile` (0, 0.01, .. 1), then one column per task.
    """
    finite = columns[np.isfinite(columns["log10_norm"])]
    values = dict(iter(finite.groupby("task", observed=True, sort=False)["log10_norm"]))
    present = [task for task in tasks if task in values]
    return pd.DataFrame({"quantile": GRID} | {task: np.quantile(values[task], GRID) for task in present})


def magnitude_distribution(merged: pd.DataFrame, trained: pd.DataFrame, tasks: Sequence[str]) -> Figure:
    """Draw one split violin per task: below what enters the merge, above (grey) the adapter as it was trained.

    Parameters
    ----------
    merged, trained : DataFrame
        From :func:`magnitude_quantiles`: after plug-ins and weights, and before. A task may be missing from either.
    tasks : sequence of str
        The tasks, for order and colour.
    """
    colours = task_colours(tasks)
    below = [
        _half(merged, task, "negative", colours[task], faint(colours[task], 0.45)) for task in tasks if task in merged
    ]
    above = [_half(trained, task, "positive", MUTED, faint("#8a94a0", 0.25)) for task in tasks if task in trained]
    y = axis("", categoryorder="array", categoryarray=list(tasks)[::-1], gridcolor="rgba(0,0,0,0)")
    return {"data": below + above, "layout": layout(356, axis("log₁₀ column norm of B·A", hoverformat=".2f"), y)}


def _half(quantiles: pd.DataFrame, task: str, side: str, line: str, fill: str) -> dict[str, Any]:
    return {
        "type": "violin",
        "orientation": "h",
        "side": side,
        "x": quantiles[task].round(4).tolist(),
        "y0": task,
        "name": f"{task}, {'merged' if side == 'negative' else 'as trained'}",
        "line": {"color": line, "width": 1.5},
        "fillcolor": fill,
        "points": False,
        "meanline": {"visible": True},
        "spanmode": "hard",
        "scalemode": "width",
        "width": 0.9,
        "hoveron": "violins",
        "hoverinfo": "x+name",
    }
