"""Accuracy per task: where the merge lands between the base model and the task's own adapter."""

import math
from typing import Any

import numpy as np
import pandas as pd

from viz.figures.theme import CARD, FONT_SIZE, INK, LINE, MUTED, Figure, axis, faint, interval, layout, task_colours

COLUMNS = ["task", "base", "single", "accuracy", "low", "high", "rows"]


def accuracy_per_task(
    table: pd.DataFrame, previous: pd.Series | None = None, pins: pd.DataFrame | None = None
) -> Figure:
    """Draw one dumbbell per task: base, merge with its interval, own adapter.

    Parameters
    ----------
    table : DataFrame
        One row per task with `task` (its title), `base`, `single`, and of the merge so far `accuracy`, `low`, `high`
        (the bounds of the 95 % interval) and `rows` (texts seen). NaN where the merge has not been evaluated yet.
    previous : Series, optional
        Accuracy of the settings before, by task title; drawn faintly until the task has a new estimate.
    pins : DataFrame, optional
        `name` (a letter), `run`, `colour`, `task`, `accuracy` of the pinned runs.

    Returns
    -------
    dict
        The figure; its last trace is the merge.
    """
    tasks = list(table["task"])
    colours = task_colours(tasks)
    done = table[table["accuracy"].notna()]
    traces = [_bridge(table), _dots(table, "base", "base with the task's head", size=9, color=MUTED)]
    if pins is not None and len(pins):
        traces += _pins(pins)
    if previous is not None:
        stale = previous[~previous.index.isin(done["task"])]
        fill = [faint(colours[task], 0.35) for task in stale.index]
        traces.append(
            {
                "type": "scatter",
                "x": stale.tolist(),
                "y": list(stale.index),
                "mode": "markers",
                "name": "settings before",
                "marker": {"size": 12, "color": fill},
                "hovertemplate": "%{y}<br>settings before: %{x:.3f}<extra></extra>",
            }
        )
    ring = {"size": 14, "symbol": "circle-open", "color": INK, "line": {"width": 2}}
    traces.append(_dots(table, "single", "the task's own adapter", **ring))
    traces.append(_merge(done, [colours[task] for task in done["task"]]))
    traces = [{"showlegend": False} | trace for trace in traces]  # the caption says all but which pin is which
    return {
        "data": traces,
        "layout": layout(
            64 + 40 * len(tasks),
            axis("accuracy on the test split", range=_limits(table, pins), tickformat=".1f", dtick=0.1),
            axis(
                "",
                categoryorder="array",
                categoryarray=tasks[::-1],
                range=[-0.6, len(tasks) - 0.4],
                gridcolor="rgba(0,0,0,0)",
            ),
            hovermode="closest",
            showlegend=pins is not None and len(pins) > 0,
        ),
    }


def _limits(table: pd.DataFrame, pins: pd.DataFrame | None) -> list[float]:
    """Round the lower end down to a tenth, so that the axis stands still while estimates come in and their bars
    shrink."""
    known = table[["base", "single", "accuracy"]].to_numpy(dtype=float).ravel()
    if pins is not None:
        known = np.append(known, pins["accuracy"].to_numpy(dtype=float))
    lowest = np.nanmin(known) if np.isfinite(known).any() else 0.0
    return [max(math.floor(10 * (lowest - 0.06)) / 10, -0.015), 1.015]


def _bridge(table: pd.DataFrame) -> dict[str, Any]:
    ends = table[["base", "single"]].to_numpy(dtype=float)
    return {
        "type": "scatter",
        "x": [value for low, high in ends for value in (float(low), float(high), None)],
        "y": [value for task in table["task"] for value in (task, task, None)],
        "mode": "lines",
        "line": {"color": LINE, "width": 7},
        "hoverinfo": "skip",
    }


def _dots(table: pd.DataFrame, column: str, name: str, **marker: object) -> dict[str, Any]:
    return {
        "type": "scatter",
        "x": table[column].tolist(),
        "y": table["task"].tolist(),
        "mode": "markers",
        "name": name,
        "marker": marker,
        "hovertemplate": f"%{{y}}<br>{name}: %{{x:.3f}}<extra></extra>",
    }


def _pins(pins: pd.DataFrame) -> list[dict[str, Any]]:
    """Draw every pinned run as diamonds with its letter."""
    return [
        {
            "type": "scatter",
            "x": rows["accuracy"].tolist(),
            "y": rows["task"].tolist(),
            "text": [name] * len(rows),
            "textfont": {"size": FONT_SIZE, "color": INK},
            "mode": "markers+text",
            "showlegend": True,
            "name": f"{name}: {run}" if name else run,
            "marker": {"size": 19, "symbol": "diamond-open", "color": colour, "line": {"width": 2}},
            "hovertemplate": f"%{{y}}<br>{run}: %{{x:.3f}}<extra></extra>",
        }
        for (name, run, colour), rows in pins.groupby(["name", "run", "colour"], sort=False)
    ]


def _merge(done: pd.DataFrame, colours: list[str]) -> dict[str, Any]:
    return {
        "type": "scatter",
        "x": done["accuracy"].tolist(),
        "y": done["task"].tolist(),
        "mode": "markers",
        "name": "the merge",
        "marker": {"size": 13, "color": colours, "line": {"color": CARD, "width": 1.5}},
        "error_x": interval(done["accuracy"], done["low"], done["high"], INK, cap=5),
        "customdata": done[["low", "high", "rows"]].to_numpy().tolist(),
        "hovertemplate": "%{y}<br>merge: %{x:.3f}, 95 % interval %{customdata[0]:.3f} to %{customdata[1]:.3f}"
        "<br>%{customdata[2]} texts so far<extra></extra>",
    }
