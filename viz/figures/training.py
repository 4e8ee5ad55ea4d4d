"""A fine-tuning while it runs: loss, validation accuracy, and how far A moves away from where it started."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from viz.figures.theme import Figure, axis, layout


def loss_curve(steps: pd.DataFrame, colours: Mapping[str, str], last: int) -> Figure:
    """Draw the training loss against the step, a line per task.

    Parameters
    ----------
    steps : DataFrame
        `task` (its title), `step`, `loss`.
    colours : mapping
        Task -> colour, for every task of the plan.
    last : int
        The step at which a task's training ends.
    """
    traces = [_line(steps, task, "loss", task, colour, "lines", fmt=".3f") for task, colour in colours.items()]
    return _figure(traces, "cross-entropy (nats)", last, [0, 1.1 * max(steps["loss"], default=1.0)])


def validation_curve(epochs: pd.DataFrame, colours: Mapping[str, str], last: int) -> Figure:
    """Draw the validation accuracy after each epoch, a line per task; `epochs` has `task`, `step`, `validation`."""
    traces = [_line(epochs, task, "validation", task, colour) for task, colour in colours.items()]
    return _figure(traces, "validation accuracy", last, [min(epochs["validation"], default=0.5) - 0.05, 1.02])


def drift_curve(epochs: pd.DataFrame, colours: Mapping[str, str], last: int) -> Figure:
    """Draw the relative drift of A after each epoch: as it is (solid), and up to a rotation of its rows (dashed).

    Parameters
    ----------
    epochs : DataFrame
        `task` (its title), `step`, `frobenius`, `procrustes`.
    colours : mapping
        Task -> colour, for every task of the plan.
    last : int
        The step at which a task's training ends.
    """
    traces = []
    for task, colour in colours.items():
        traces.append(_line(epochs, task, "frobenius", task, colour))
        rotated = _line(epochs, task, "procrustes", f"{task}, rotation taken out", colour, dash="dash", symbol="square")
        traces.append(rotated | {"showlegend": False})
    return _figure(traces, "relative drift of A", last, [0, 1.1 * (max(epochs["frobenius"], default=0.0) or 0.1)])


def _line(
    rows: pd.DataFrame,
    task: str,
    column: str,
    name: str,
    colour: str,
    mode: str = "lines+markers",
    dash: str = "solid",
    symbol: str = "circle",
    fmt: str = ".4f",
) -> dict[str, Any]:
    mine = rows[rows["task"] == task]
    return {
        "type": "scatter",
        "x": mine["step"].tolist(),
        "y": mine[column].tolist(),
        "mode": mode,
        "name": name,
        "line": {"color": colour, "width": 2, "dash": dash},
        "marker": {"size": 7, "symbol": symbol, "color": colour},
        "hovertemplate": f"{name}<br>step %{{x}}: %{{y:{fmt}}}<extra></extra>",
    }


def _figure(traces: list[dict[str, Any]], title: str, last: int, limits: list[float]) -> Figure:
    x, y = axis("training step", range=[0, 1.03 * last]), axis(title, range=limits)
    return {"data": traces, "layout": layout(250, x, y, showlegend=True, hovermode="closest")}
