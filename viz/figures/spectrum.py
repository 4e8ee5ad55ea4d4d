"""What a subspace for A sees: the spectrum of the other tasks' inputs, and how much of each task's inputs reaches A."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from viz.figures.theme import ACCENT, INK, MUTED, Figure, axis, layout

TICKS = [1, 3, 10, 30, 100, 300, 1000, 3000]
FLOOR = 1e-12  # of the largest eigenvalue: what is smaller is round-off, and a log axis has no zero


def spectrum(eigenvalues: pd.DataFrame, null_dimension: int, others: str) -> Figure:
    """Draw the eigenvalues of the others' second moment on a log axis, with the directions that A starts from marked.

    Parameters
    ----------
    eigenvalues : DataFrame
        `index` (1 = least energy), `eigenvalue`, `chosen`.
    null_dimension : int
        Number of eigenvalues that are zero up to round-off; drawn as a dotted line behind the last of them.
    others : str
        Whose inputs these are.
    """
    lowest = FLOOR * float(eigenvalues["eigenvalue"].max())
    shown = eigenvalues.assign(eigenvalue=eigenvalues["eigenvalue"].clip(lower=lowest))
    chosen = shown[shown["chosen"]]
    traces = [
        _points(shown, others, "lines", line={"color": MUTED, "width": 2}),
        _points(chosen, "rows of A", "markers", marker={"color": ACCENT, "size": 8}),
    ]
    end = {"type": "line", "x0": null_dimension + 0.5, "x1": null_dimension + 0.5, "yref": "paper", "y0": 0, "y1": 1}
    line = {"color": INK, "width": 1.5, "dash": "dot"}
    return {
        "data": traces if len(chosen) else traces[:1],
        "layout": layout(
            276,
            axis("direction, least energy first (log)", type="log", tickvals=TICKS),
            axis("eigenvalue (log)", type="log", exponentformat="power", dtick=2),
            shapes=[end | {"line": line, "layer": "below"}] if null_dimension else [],
            showlegend=True,
            hovermode="closest",
        ),
    }


def _points(rows: pd.DataFrame, name: str, mode: str, **style: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "scatter",
        "x": rows["index"].tolist(),
        "y": rows["eigenvalue"].tolist(),
        "mode": mode,
        "name": name,
        "hovertemplate": f"{name}<br>direction %{{x}}: %{{y:.2e}}<extra></extra>",
        **style,
    }


def seen_by_A(seen: pd.DataFrame, colours: Mapping[str, str]) -> Figure:
    """Draw ||A H^T|| / ||H|| for each task's inputs H as bars, with the level of a random A as a dashed line.

    Parameters
    ----------
    seen : DataFrame
        `task` (its title), `own`, `share`, `random`.
    colours : mapping
        Task -> colour.
    """
    names = [f"{row.task} (own)" if row.own else row.task for row in seen.itertuples()]
    level = float(seen["random"].iloc[0])
    bars = {
        "type": "bar",
        "orientation": "h",
        "x": seen["share"].tolist(),
        "y": names,
        "marker": {
            "color": [colours[task] for task in seen["task"]],
            "line": {"color": INK, "width": [2 if own else 0 for own in seen["own"]]},
        },
        "hovertemplate": "%{y}<br>A sees %{x:.4f} of its inputs<extra></extra>",
    }
    dashed = {"type": "line", "x0": level, "x1": level, "yref": "paper", "y0": 0, "y1": 1}
    return {
        "data": [bars],
        "layout": layout(
            max(260, 76 + 34 * len(names)),
            axis("‖A Hᵀ‖ / ‖H‖", range=[0, 1.12 * max(level, *seen["share"])]),
            axis("", categoryorder="array", categoryarray=names[::-1], gridcolor="rgba(0,0,0,0)"),
            shapes=[dashed | {"line": {"color": INK, "width": 1.5, "dash": "dash"}}],
            bargap=0.35,
        ),
    }
