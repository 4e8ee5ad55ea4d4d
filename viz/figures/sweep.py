"""Average accuracy against the scaling λ: the sweep on validation, the current λ, the merge and the pins on test."""

from collections.abc import Mapping

import pandas as pd

from viz.figures.theme import ACCENT, CARD, INK, MUTED, Figure, axis, layout

DASHES = ("dot", "dash", "dashdot", "longdash", "longdashdot")


def average_against_scaling(
    sweep: pd.DataFrame,
    method: str,
    titles: Mapping[str, str],
    *,
    scaling: float | None = None,
    current: tuple[float, float, float] | None = None,
    pins: pd.DataFrame | None = None,
) -> Figure:
    """Draw every method's sweep, the current one in colour with its interval, the others in grey.

    Parameters
    ----------
    sweep : DataFrame
        `method`, `scaling`, `average`, `low`, `high` on validation; a NaN `scaling` marks a method without λ.
    method : str
        Name of the current method.
    titles : mapping
        Method name -> title.
    scaling : float, optional
        The current λ, drawn as a dashed line; None for a method without λ.
    current : tuple, optional
        Average of the merge on test so far, with the bounds of its interval; needs `scaling`.
    pins : DataFrame, optional
        `run`, `scaling`, `average`, `low`, `high` of the pinned runs, on test.

    Returns
    -------
    dict
        The figure; `layout.shapes[0].x0` is λ.
    """
    others = [name for name in sweep["method"].unique() if name != method]
    span = (sweep["scaling"].min(), sweep["scaling"].max())
    traces = []
    many = len(others) > len(DASHES)  # too many for a dash and a line in the legend each
    for place, name in enumerate(others):
        line = {"color": MUTED, "width": 1 if many else 1.5, "dash": "dot" if many else DASHES[place]}
        curve = _curve(sweep[sweep["method"] == name], titles.get(name, name), line, span)
        traces.append(curve | {"name": "other methods", "showlegend": place == 0} if many else curve)
    mine = sweep[sweep["method"] == method]
    if len(mine):
        if mine["scaling"].notna().all():
            traces.append(_band(mine))
        traces.append(_curve(mine, titles.get(method, method), {"color": ACCENT, "width": 3}, span))
    if pins is not None and len(pins):
        traces.append(_points(pins, "pinned, test", {"symbol": "diamond-open", "size": 10, "color": INK, "line": {"width": 1.5}}))
    if scaling is not None and current is not None:
        here = pd.DataFrame([["this merge", scaling, *current]], columns=["run", "scaling", "average", "low", "high"])
        traces.append(_points(here, "this merge, test", {"size": 12, "color": ACCENT, "line": {"color": CARD, "width": 1.5}}))
    shapes = [] if scaling is None else [_marker(scaling)]
    return {
        "data": traces,
        "layout": layout(272, axis("scaling λ"), axis("average accuracy"), showlegend=True, shapes=shapes, hovermode="closest"),
    }


def _curve(rows: pd.DataFrame, name: str, line: dict, span: tuple[float, float]) -> dict:
    """Draw a sweep, or a level line over the whole span for a method without λ."""
    rows = rows.sort_values("scaling")
    level = rows["scaling"].isna().all()
    x = list(span) if level else rows["scaling"].tolist()
    y = rows["average"].tolist() * (2 if level else 1)
    return {
        "type": "scatter",
        "x": x,
        "y": y,
        "mode": "lines" if level else "lines+markers",
        "name": name,
        "line": line,
        "marker": {"size": 6 if line["color"] == ACCENT else 4},
        "hovertemplate": f"{name}<br>λ %{{x:.2f}}: %{{y:.3f}} on validation<extra></extra>",
    }


def _band(rows: pd.DataFrame) -> dict:
    rows = rows.sort_values("scaling")
    return {
        "type": "scatter",
        "x": rows["scaling"].tolist() + rows["scaling"].tolist()[::-1],
        "y": rows["high"].tolist() + rows["low"].tolist()[::-1],
        "fill": "toself",
        "fillcolor": ACCENT,
        "opacity": 0.14,
        "mode": "none",
        "showlegend": False,
        "hoverinfo": "skip",
    }


def _points(rows: pd.DataFrame, name: str, marker: dict) -> dict:
    return {
        "type": "scatter",
        "x": rows["scaling"].tolist(),
        "y": rows["average"].tolist(),
        "text": rows["run"].tolist(),
        "mode": "markers",
        "name": name,
        "marker": marker,
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": (rows["high"] - rows["average"]).tolist(),
            "arrayminus": (rows["average"] - rows["low"]).tolist(),
            "color": INK,
            "thickness": 1.5,
            "width": 4,
        },
        "hovertemplate": "%{text}<br>λ %{x:.2f}: %{y:.3f} on test<extra></extra>",
    }


def _marker(scaling: float) -> dict:
    line = {"color": ACCENT, "width": 2, "dash": "dash"}
    return {
        "type": "line",
        "x0": scaling,
        "x1": scaling,
        "yref": "paper",
        "y0": 0,
        "y1": 1,
        "line": line,
        "layer": "below",
    }
