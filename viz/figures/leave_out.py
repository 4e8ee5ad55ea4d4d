"""What leaving one adapter, or one layer, out of a merge changes in every task's accuracy."""

from collections.abc import Sequence

import pandas as pd

from viz.figures.theme import ACCENT, CELL_SIZE, DIVERGING, FONT_SIZE, ON_SCALE, Figure, axis, layout

BETTER_WITHOUT = [[1 - place, colour] for place, colour in reversed(DIVERGING)]


def change_per_task(changes: pd.DataFrame, left_out: Sequence[str], tasks: Sequence[str]) -> Figure:
    """Draw the change of every task's accuracy as a heat map; cells whose interval excludes 0 are outlined.

    Parameters
    ----------
    changes : DataFrame
        `left_out`, `task`, `difference`, `low`, `high` in points; may be incomplete.
    left_out, tasks : sequence of str
        Rows and columns, in order.
    """
    table = changes.pivot(index="left_out", columns="task", values="difference") if len(changes) else pd.DataFrame()
    table = table.reindex(index=list(left_out), columns=list(tasks))
    values = [[None if pd.isna(value) else round(float(value), 2) for value in row] for row in table.to_numpy()]
    largest = max((abs(value) for row in values for value in row if value is not None), default=1.0) or 1.0
    trace = {
        "type": "heatmap",
        "z": values,
        "x": list(tasks),
        "y": list(left_out),
        "colorscale": BETTER_WITHOUT,
        "zmin": -largest,
        "zmax": largest,
        "xgap": 2,
        "ygap": 2,
        "hoverongaps": False,
        "text": [["" if value is None else f"{value:+.1f}" for value in row] for row in values],
        "texttemplate": "%{text}",
        "textfont": {"size": CELL_SIZE, "color": ON_SCALE},
        "colorbar": {"thickness": 8, "outlinewidth": 0, "tickfont": {"size": FONT_SIZE}},
        "hovertemplate": "without %{y}<br>%{x}: %{z:+.2f} points<extra></extra>",
    }
    rows, columns = ({name: place for place, name in enumerate(names)} for names in (left_out, tasks))
    certain = changes[(changes["low"] > 0) | (changes["high"] < 0)] if len(changes) else changes
    shapes = [
        {
            "type": "rect",
            "x0": columns[row.task] - 0.48,
            "x1": columns[row.task] + 0.48,
            "y0": rows[row.left_out] - 0.46,
            "y1": rows[row.left_out] + 0.46,
            "line": {"color": ACCENT, "width": 2},
        }
        for row in certain.itertuples()
    ]
    x = axis("change of", tickangle=-40, showgrid=False, dtick=1)
    y = axis("without", autorange="reversed", showgrid=False, dtick=1)
    return {"data": [trace], "layout": layout(130 + 34 * max(len(left_out), 3), x, y, shapes=shapes)}
