"""Average accuracy against the scaling λ: the sweep on validation, the current λ, the merge and the pins on test."""

from collections.abc import Mapping
from math import isnan
from typing import Any, NamedTuple

import pandas as pd

from viz.figures.theme import ACCENT, CARD, INK, MUTED, Figure, axis, band, interval, layout

REACH = 2.0  # where the slider ends; a sweep that goes on is drawn beyond only if it is the current method's
DASHES = ("dot", "dash", "dashdot", "longdash", "longdashdot")


class Row(NamedTuple):
    """A point of a sweep; `scaling` is NaN for a method without λ."""

    method: str
    scaling: float
    average: float
    low: float
    high: float


def average_against_scaling(
    sweep: pd.DataFrame,
    method: str,
    titles: Mapping[str, str],
    *,
    scaling: float | None = None,
    current: tuple[float, float, float] | None = None,
    pins: pd.DataFrame | None = None,
    levels: Mapping[str, float] | None = None,
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
        `run`, `colour`, `scaling`, `average`, `low`, `high` of the pinned runs, on test; a trace each.
    levels : mapping, optional
        Name -> average on validation of what has no λ and is no merge: the base, the adapters alone.

    Returns
    -------
    dict
        The figure; `layout.shapes[0].x0` is λ.
    """
    # many times a second while an evaluation streams: plain rows, since pandas takes ten times as long for so few
    rows = [Row(*values) for values in zip(*(sweep[name].tolist() for name in Row._fields), strict=True)]
    curves = {name: [row for row in rows if row.method == name] for name in dict.fromkeys(row.method for row in rows)}
    mine = curves.pop(method, [])
    grid = sorted({row.scaling for row in rows if not isnan(row.scaling)})
    traces = []
    many = len(curves) > len(DASHES)  # too many for a dash and a line in the legend each
    for place, (name, points) in enumerate(curves.items()):
        line = {"color": MUTED, "width": 1} if many else {"color": MUTED, "width": 1.5, "dash": DASHES[place]}
        curve = _curve(points, grid, titles.get(name, name), line)
        quiet = {"name": "other methods", "showlegend": place == 0, "opacity": 0.5}
        traces.append(curve | quiet if many else curve)
    if mine:
        traces.append(_band(mine, grid))
        traces.append(_curve(mine, grid, titles.get(method, method), {"color": ACCENT, "width": 3}))
    for (run, colour), rows in pins.groupby(["run", "colour"], sort=False) if pins is not None else ():
        marker = {"symbol": "diamond-open", "size": 11, "color": colour, "line": {"width": 2}}
        traces.append(_points(rows, run, marker))
    if scaling is not None and current is not None:
        here = pd.DataFrame([["this merge", scaling, *current]], columns=["run", "scaling", "average", "low", "high"])
        traces.append(
            _points(here, "this merge, test", {"size": 12, "color": ACCENT, "line": {"color": CARD, "width": 1.5}})
        )
    for (name, value), dash in zip((levels or {}).items(), ("dot", "dashdot"), strict=False):
        traces.append(_level_line(name, value, dash, [0.0, max(REACH, *grid)] if grid else [0.0, REACH]))
    shapes = [] if scaling is None else [_marker(scaling)]
    reach = max(
        [
            REACH,
            *(row.scaling for row in _level(mine, grid) if not isnan(row.scaling)),
            *([] if scaling is None else [scaling]),
            *([] if pins is None else pins["scaling"]),
        ]
    )
    # without a curve Plotly would invent an axis around the one line
    clipped = {"range": [-0.03 * reach, 1.03 * reach]} if not grid or grid[-1] > reach else {}
    return {
        "data": traces,
        "layout": layout(
            272,
            axis("scaling λ", **clipped),
            axis("average accuracy"),
            showlegend=True,
            shapes=shapes,
            hovermode="closest",
        ),
    }


def _level(rows: list[Row], grid: list[float]) -> list[Row]:
    """Repeat the one row of a method without λ over all λ of the others, so that its line can be hovered anywhere."""
    if grid and all(isnan(row.scaling) for row in rows):
        return [row._replace(scaling=x) for x in grid for row in rows]
    return sorted(rows, key=lambda row: row.scaling)


def _curve(rows: list[Row], grid: list[float], name: str, line: dict[str, Any]) -> dict[str, Any]:
    flat = all(isnan(row.scaling) for row in rows) and bool(grid)
    at = "no λ" if flat else "λ %{x:.2f}"
    points = _level(rows, grid)
    return {
        "type": "scatter",
        "x": [row.scaling for row in points],
        "y": [row.average for row in points],
        "mode": "lines" if flat else "lines+markers",
        "name": name,
        "line": line,
        "marker": {"size": 6 if line["color"] == ACCENT else 4},
        "hovertemplate": f"{name}<br>{at}: %{{y:.3f}} on validation<extra></extra>",
    }


def _band(rows: list[Row], grid: list[float]) -> dict[str, Any]:
    points = _level(rows, grid)
    return band(*([getattr(row, column) for row in points] for column in ("scaling", "low", "high")))


def _level_line(name: str, value: float, dash: str, ends: list[float]) -> dict[str, Any]:
    return {
        "type": "scatter",
        "x": ends,
        "y": [value, value],
        "mode": "lines",
        "name": name,
        "line": {"color": INK, "width": 1.5, "dash": dash},
        "hovertemplate": f"{name}: %{{y:.3f}} on validation<extra></extra>",
    }


def _points(rows: pd.DataFrame, name: str, marker: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "scatter",
        "x": rows["scaling"].tolist(),
        "y": rows["average"].tolist(),
        "text": rows["run"].tolist(),
        "mode": "markers",
        "name": name,
        "marker": marker,
        "error_y": interval(rows["average"], rows["low"], rows["high"], INK),
        "hovertemplate": "%{text}<br>λ %{x:.2f}: %{y:.3f} on test<extra></extra>",
    }


def _marker(scaling: float) -> dict[str, Any]:
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
