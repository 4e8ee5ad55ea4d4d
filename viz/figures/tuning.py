"""A search for the best merge: what was tried, in the order in which it was, and average against worst task."""

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
        mine = rows[rows.state == state]
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": mine.trial.tolist(),
                "y": mine.value.tolist(),
                "text": mine["merge"].tolist(),
                "name": state,
                "marker": {"symbol": symbol, "color": colour, "size": 8, "line": {"width": 1.5, "color": colour}},
                "hovertemplate": "%{text}<br>%{y:.3f}<extra></extra>",
            }
        )
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
    shared = {"type": "scatter", "hovertemplate": "%{text}<br>average %{x:.3f}, worst task %{y:.3f}<extra></extra>"}
    dots = shared | {
        "mode": "markers",
        "x": whole.average.tolist(),
        "y": whole.worst.tolist(),
        "text": whole["merge"].tolist(),
        "name": "measured",
        "marker": {"color": MUTED, "size": 7},
    }
    best = shared | {
        "mode": "lines+markers",
        "x": front.average.tolist(),
        "y": front.worst.tolist(),
        "text": front["merge"].tolist(),
        "name": "beaten by none in both",
        "line": {"color": ACCENT, "width": 1.5},
        "marker": {"color": ACCENT, "size": 9},
    }
    figure = layout(280, axis("average accuracy, validation"), axis("worst task's accuracy"), showlegend=True)
    return {"data": [dots, best], "layout": figure}
