"""A search for the best merge: what was tried, in the order in which it was, average against worst task, what the
candidates chose, and which choices mattered.
"""

from typing import Any

import pandas as pd

from viz.figures.theme import ACCENT, CARD, INK, LINE, MUTED, Figure, axis, layout

STATES = {"measured": ("circle", ACCENT), "stopped": ("x-thin-open", MUTED)}
MOST_AXES = 5
SHADES = (0.15, 0.25, 0.4, 0.55, 1.0)
"""Of a fifth of the candidates each, the worst first."""
NONE = -0.12
"""Where a line is that has no such choice."""


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


def choices_made(table: pd.DataFrame, importance: pd.DataFrame) -> Figure:
    """Draw every candidate as a line over an axis per choice, the most important ones, and its value at the right.

    Parameters
    ----------
    table : DataFrame
        `merge`, `value`, then a column per choice; NaN where a candidate had no such choice, which is drawn at "none".
    importance : DataFrame
        `choice`, the most important first.
    """
    names = [*importance.choice[:MOST_AXES], "value"]
    heights, ticks = {}, []
    for place, name in enumerate(names):
        heights[name], marks = _axis(table, name)
        ticks += [(place, height, text) for height, text in marks]
    ranks = (table.value.rank(method="first") - 1) * len(SHADES) // len(table)
    traces = []
    for shade, opacity in enumerate(SHADES):
        lines = table[ranks == shade]
        # one trace per shade, with a gap after every line
        path = [[*(float(heights[name][i]) for name in names), None] for i in lines.index]
        best = shade == len(SHADES) - 1
        traces.append(
            {
                "type": "scatter",
                "mode": "lines",
                "x": [*range(len(names)), None] * len(lines),
                "y": [height for line in path for height in line],
                "text": [f"{row.merge}<br>{row.value:.3f}" for row in lines.itertuples() for _ in (*names, None)],
                "line": {"color": ACCENT if best else MUTED, "width": 2 if best else 1.2},
                "opacity": opacity,
                "name": "the best fifth" if best else "the others",
                "showlegend": shade >= len(SHADES) - 2,
                "hovertemplate": "%{text}<extra></extra>",
            }
        )
    figure = layout(
        420,
        axis("", tickvals=[*range(len(names))], ticktext=names, range=[-0.1, len(names) - 0.55], fixedrange=True),
        axis("", visible=False, range=[-0.2, 1.06], fixedrange=True),
        showlegend=True,
        annotations=[
            {"x": x, "y": y, "text": text, "showarrow": False, "xanchor": "left", "xshift": 5, "font": {"size": 12}}
            | {"bgcolor": CARD, "opacity": 0.85, "borderpad": 1}
            for x, y, text in ticks
        ],
        shapes=[
            {"type": "line", "x0": x, "x1": x, "y0": 0, "y1": 1, "line": {"color": LINE, "width": 2}}
            for x in range(len(names))
        ],
    )
    return {"data": traces, "layout": figure}


def choices_that_mattered(importance: pd.DataFrame) -> Figure:
    """Draw the share of the differences in value that follows each choice.

    Parameters
    ----------
    importance : DataFrame
        `choice`, `importance`, `spread`, the greatest first.
    """
    rows = importance.iloc[::-1]
    bars = {
        "type": "bar",
        "orientation": "h",
        "x": rows.importance.tolist(),
        "y": rows.choice.tolist(),
        "error_x": {"type": "data", "array": rows.spread.tolist(), "color": INK, "thickness": 1.5, "width": 4},
        "marker": {"color": ACCENT},
        "hovertemplate": "%{y}: %{x:.0%}<extra></extra>",
    }
    return {
        "data": [bars],
        "layout": layout(
            90 + 34 * len(rows),
            axis("share of the differences", tickformat=".0%", rangemode="tozero"),
            axis("", ticksuffix=" "),
        ),
    }


def _axis(table: pd.DataFrame, name: str) -> tuple[pd.Series, list[tuple[float, str]]]:
    """Return the height of every candidate on the axis of a choice, 0 to 1, and what its marks say."""
    values = table[name]
    if pd.api.types.is_numeric_dtype(values):
        low, high = float(values.min()), float(values.max())
        heights, marks = (values - low) / ((high - low) or 1), [(0.0, f"{low:.3g}"), (1.0, f"{high:.3g}")]
    else:
        # the better one higher up
        order = table.groupby(name).value.mean().sort_values().index
        step = max(1, len(order) - 1)
        heights = values.map({word: place / step for place, word in enumerate(order)})
        marks = [(place / step, str(word)) for place, word in enumerate(order)]
    if values.isna().any():
        marks.append((NONE, "none"))
    return heights.fillna(NONE), marks
