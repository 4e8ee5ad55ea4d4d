"""A search for the best merge: what was tried, in the order in which it was, and average against worst task."""

from typing import Any

import pandas as pd

from viz.figures.theme import ACCENT, INK, MUTED, Figure, axis, layout

STATES = {"measured": ("circle", ACCENT), "stopped": ("x-thin-open", MUTED)}


def candidates_tried(table: pd.DataFrame) -> Figure:
    """Draw the value of every candidate against its number, and the best so far as a step line.

    Parameters
    ----------
    table : DataFrame
        `trial`, `merge`, `state` ("measured", "stopped"), `value`.
    """
    rows = table.sort_values("trial")
    whole = rows[rows.state == "measured"]
    best = {
        "type": "scatter",
        "mode": "lines",
        "x": whole.trial.tolist(),
        "y": whole.value.cummax().tolist(),
        "line": {"shape": "hv", "color": INK, "width": 1.5},
        "name": "best so far",
        "hoverinfo": "skip",
    }
    traces = [best]
    for state, (symbol, colour) in STATES.items():
        mark = {"symbol": symbol, "color": colour, "size": 8, "line": {"width": 1.5, "color": colour}}
        traces.append(_dots(rows[rows.state == state], "trial", "value", state, "%{y:.3f}", marker=mark))
    return {
        "data": traces,
        "layout": layout(
            280,
            axis("candidate", rangemode="tozero", tickformat="d", minallowed=0),
            axis("value on validation"),
            showlegend=True,
        ),
    }


def average_against_worst(table: pd.DataFrame) -> Figure:
    """Draw every candidate that was measured on all rows, the front of those that none beats in both as a line.

    Parameters
    ----------
    table : DataFrame
        `merge`, `state`, `average`, `worst`, `pareto`.
    """
    whole = table[table.state == "measured"]
    front = whole[whole.pareto.astype(bool)].sort_values("average")
    said = "average %{x:.3f}, worst task %{y:.3f}"
    dots = _dots(whole, "average", "worst", "measured", said, marker={"color": MUTED, "size": 7})
    style = {"line": {"color": ACCENT, "width": 1.5}, "marker": {"color": ACCENT, "size": 9}}
    best = _dots(front, "average", "worst", "beaten by none in both", said, mode="lines+markers", **style)
    figure = layout(280, axis("average accuracy, validation"), axis("worst task's accuracy"), showlegend=True)
    return {"data": [dots, best], "layout": figure}


def _dots(rows: pd.DataFrame, x: str, y: str, name: str, said: str, **style: Any) -> dict[str, Any]:
    """Describe candidates as points at two of their columns, each with its merge on hover."""
    return {
        "type": "scatter",
        "mode": "markers",
        "x": rows[x].tolist(),
        "y": rows[y].tolist(),
        "text": rows["merge"].tolist(),
        "name": name,
        "hovertemplate": f"%{{text}}<br>{said}<extra></extra>",
    } | style
