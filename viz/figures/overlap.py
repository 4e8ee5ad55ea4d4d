"""Subspace overlap: how far two adapters use the same directions."""

from collections.abc import Sequence

import pandas as pd

from viz.figures.theme import CELL_SIZE, FONT_SIZE, ON_SCALE, SEQUENTIAL, Figure, axis, layout

NUMBERED = 8  # up to so many adapters a cell has room for its number; beyond, a colour bar explains the colours


def overlap_matrix(pairs: pd.DataFrame, tasks: Sequence[str]) -> pd.DataFrame:
    """Spread `adapter_a`, `adapter_b`, `overlap` (pairs in any order) into a symmetric table without its diagonal."""
    matrix = pd.DataFrame(float("nan"), index=list(tasks), columns=list(tasks))
    for a, b, value in pairs[["adapter_a", "adapter_b", "overlap"]].itertuples(index=False):
        if a != b:
            matrix.loc[a, b] = matrix.loc[b, a] = value
    return matrix


def subspace_overlap(matrix: pd.DataFrame) -> Figure:
    """Draw the overlaps of :func:`overlap_matrix` as a heat map on the fixed scale 0 to 1, with its numbers."""
    tasks = list(matrix.index)
    values = [[None if pd.isna(value) else round(float(value), 4) for value in row] for row in matrix.to_numpy()]
    trace = {
        "type": "heatmap",
        "z": values,
        "x": tasks,
        "y": tasks,
        "colorscale": SEQUENTIAL,
        "zmin": 0,
        "zmax": 1,
        "xgap": 2,
        "ygap": 2,
        "hoverongaps": False,
        "text": [["" if value is None else f"{value:.2f}".lstrip("0") for value in row] for row in values],
        "texttemplate": "%{text}" if len(tasks) <= NUMBERED else "",
        "textfont": {"size": CELL_SIZE, "color": ON_SCALE},
        "showscale": len(tasks) > NUMBERED,
        "colorbar": {"thickness": 8, "outlinewidth": 0, "tickfont": {"size": FONT_SIZE}, "tickvals": [0, 0.5, 1]},
        "hovertemplate": "%{y} and %{x}<br>overlap %{z:.3f}<extra></extra>",
    }
    x = axis("", tickangle=-40, showgrid=False, dtick=1)
    y = axis("", autorange="reversed", showgrid=False, dtick=1)
    return {"data": [trace], "layout": layout(300, x, y)}
