"""Rank of a task's features against the number of texts k: how many directions a layer's input really uses."""

from typing import Any

import pandas as pd

from viz.figures.theme import MUTED, Figure, axis, layout


def rank_against_k(curve: pd.DataFrame, task: str, colour: str) -> Figure:
    """Draw `rank` (numerical) and `energy_rank` (99 % of the trace) against `k`, with the line y = x.

    Parameters
    ----------
    curve : DataFrame
        `k`, `rank`, `energy_rank`.
    task : str
        Title of the task whose texts these are.
    colour : str
        The task's colour.
    """
    k = curve["k"].tolist()
    top = max(k, default=1)

    def line(column: str, name: str, dash: str, symbol: str) -> dict[str, Any]:
        return {
            "type": "scatter",
            "x": k,
            "y": curve[column].tolist(),
            "mode": "lines+markers",
            "name": name,
            "line": {"color": colour, "width": 2.5, "dash": dash},
            "marker": {"size": 7, "symbol": symbol},
            "hovertemplate": f"{task}<br>%{{x}} texts: {name} %{{y}}<extra></extra>",
        }

    diagonal = {
        "type": "scatter",
        "x": [0, top],
        "y": [0, top],
        "mode": "lines",
        "name": "y = x",
        "line": {"color": MUTED, "width": 1.5, "dash": "dot"},
        "hoverinfo": "skip",
    }
    traces = [
        diagonal,
        line("rank", "numerical", "solid", "circle"),
        line("energy_rank", "99 % energy", "dash", "square"),
    ]
    return {
        "data": traces,
        "layout": layout(
            276,
            axis("texts k", range=[0, 1.04 * top]),
            axis("rank of the features", range=[0, 1.04 * top]),
            showlegend=True,
            hovermode="closest",
        ),
    }
