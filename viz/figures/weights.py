"""What the weights alone tell: norms per module, cosines of updates, energy against rank, signs that cancel."""

from collections.abc import Sequence

import pandas as pd

from viz.figures.theme import (
    ACCENT,
    CELL_SIZE,
    DIVERGING,
    FONT_SIZE,
    MUTED,
    ON_SCALE,
    SEQUENTIAL,
    Figure,
    axis,
    layout,
    task_colours,
)

NUMBERED = 8  # up to so many adapters a cell has room for its number


def norms_per_module(norms: pd.DataFrame) -> Figure:
    """Draw the norm of every adapter's update at every module as a heat map.

    Parameters
    ----------
    norms : DataFrame
        A row per module, a column per adapter, Frobenius norms; 0 where an adapter lacks the module.
    """
    trace = {
        "type": "heatmap",
        "z": norms.T.round(5).to_numpy().tolist(),
        "x": list(norms.index),
        "y": list(norms.columns),
        "colorscale": SEQUENTIAL,
        "zmin": 0,
        "xgap": 1,
        "ygap": 1,
        "colorbar": {"thickness": 8, "outlinewidth": 0, "tickfont": {"size": FONT_SIZE}},
        "hovertemplate": "%{y}<br>%{x}<br>norm %{z:.3f}<extra></extra>",
    }
    x = axis("", showticklabels=False, showgrid=False)
    y = axis("", autorange="reversed", showgrid=False, dtick=1)
    return {"data": [trace], "layout": layout(80 + 28 * len(norms.columns), x, y)}


def cosine_of_updates(matrix: pd.DataFrame) -> Figure:
    """Draw a symmetric table of cosines (without its diagonal) on a scale around 0 that fits the largest."""
    values = [[None if pd.isna(value) else round(float(value), 4) for value in row] for row in matrix.to_numpy()]
    largest = max((abs(value) for row in values for value in row if value is not None), default=1.0) or 1.0
    trace = {
        "type": "heatmap",
        "z": values,
        "x": list(matrix.index),
        "y": list(matrix.index),
        "colorscale": DIVERGING,
        "zmin": -largest,
        "zmax": largest,
        "xgap": 2,
        "ygap": 2,
        "hoverongaps": False,
        "text": [["" if value is None else f"{value:+.2f}" for value in row] for row in values],
        "texttemplate": "%{text}" if len(matrix) <= NUMBERED else "",
        "textfont": {"size": CELL_SIZE, "color": ON_SCALE},
        "colorbar": {"thickness": 8, "outlinewidth": 0, "tickfont": {"size": FONT_SIZE}},
        "hovertemplate": "%{y} and %{x}<br>cosine %{z:+.3f}<extra></extra>",
    }
    x = axis("", tickangle=-40, showgrid=False, dtick=1)
    y = axis("", autorange="reversed", showgrid=False, dtick=1)
    return {"data": [trace], "layout": layout(300, x, y)}


def energy_against_rank(energy: pd.DataFrame, adapters: Sequence[str]) -> Figure:
    """Draw how much of each update's energy its first directions hold, averaged over modules.

    Parameters
    ----------
    energy : DataFrame
        `adapter`, `index` (number of directions), `energy` (0 to 1).
    """
    colours = task_colours(adapters)
    traces = []
    for adapter in adapters:
        mine = energy[energy["adapter"] == adapter].sort_values("index")
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": adapter,
                "x": mine["index"].tolist(),
                "y": mine["energy"].round(5).tolist(),
                "line": {"color": colours[adapter], "width": 2},
                "marker": {"size": 5},
                "hovertemplate": f"{adapter}<br>%{{x}} directions hold %{{y:.1%}}<extra></extra>",
            }
        )
    y = axis("share of energy kept", range=[0, 1.02], tickformat=".0%")
    return {"data": traces, "layout": layout(300, axis("rank after truncation"), y, showlegend=True)}


def signs_per_module(signs: pd.DataFrame) -> Figure:
    """Draw the share of entries in conflict, and of magnitude that cancels in the sum, module by module.

    Parameters
    ----------
    signs : DataFrame
        `module`, `conflict`, `lost`, each 0 to 1.
    """
    lines = (("conflict", "entries with opposite signs", MUTED), ("lost", "magnitude lost in the sum", ACCENT))
    traces = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": name,
            "x": signs["module"].tolist(),
            "y": signs[column].round(5).tolist(),
            "line": {"color": colour, "width": 2},
            "marker": {"size": 5},
            "hovertemplate": f"%{{x}}<br>{name}: %{{y:.1%}}<extra></extra>",
        }
        for column, name, colour in lines
    ]
    x = axis("modules, in the order of the layers", showticklabels=False)
    return {"data": traces, "layout": layout(300, x, axis("share", range=[0, 1.02], tickformat=".0%"), showlegend=True)}
