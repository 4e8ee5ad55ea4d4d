"""The linked figures of the Diagnose panel without their numbers: assets/js/diagnose.js fills them in, at every move of
a slider.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from viz.figures.magnitude import magnitude_distribution
from viz.figures.theme import (
    ACCENT,
    CELL_SIZE,
    DIVERGING,
    FONT_SIZE,
    INK,
    MUTED,
    ON_SCALE,
    SEQUENTIAL,
    Figure,
    axis,
    layout,
    task_colours,
)

NUMBERED = 8
BAR = {"thickness": 8, "outlinewidth": 0, "tickfont": {"size": FONT_SIZE}}
SCALES = {"sequential": SEQUENTIAL, "diverging": DIVERGING}
GREEN = "#009E73"


def skeletons(
    tasks: Sequence[str], layers: Sequence[str], kinds: Sequence[str], modules: Sequence[str]
) -> dict[str, Figure]:
    """Return every linked figure, styled and labelled, with empty data.

    Parameters
    ----------
    tasks, layers, kinds, modules : what the axes list, escaped
    """
    return {
        "pairs": _pairs(tasks),
        "map": _map(layers, kinds),
        "error": _error(tasks),
        "magnitude": _magnitude(tasks),
        "variance": _variance(modules),
        "spectra": _spectra(tasks),
        "signs": _signs(modules),
    }


def _heatmap(x: Sequence[str], y: Sequence[str], numbered: bool) -> dict[str, Any]:
    return {
        "type": "heatmap",
        "z": [],
        "x": list(x),
        "y": list(y),
        "colorscale": SEQUENTIAL,
        "xgap": 2,
        "ygap": 2,
        "hoverongaps": False,
        "text": [],
        "texttemplate": "%{text}" if numbered else "",
        "textfont": {"size": CELL_SIZE, "color": ON_SCALE},
        "colorbar": BAR,
    }


def _pairs(tasks: Sequence[str]) -> Figure:
    trace = _heatmap(tasks, tasks, len(tasks) <= NUMBERED)
    x = axis("update of", tickangle=-40, showgrid=False, dtick=1)
    y = axis("", autorange="reversed", showgrid=False, dtick=1)
    return {"data": [trace], "layout": layout(350, x, y)}


def _map(layers: Sequence[str], kinds: Sequence[str]) -> Figure:
    # along the longer axis lie the layers: a wide figure for a deep model
    trace = _heatmap([f"layer {layer}" for layer in layers], kinds, len(layers) <= 12)
    x = axis("", showgrid=False, tickangle=-40)
    return {
        "data": [trace],
        "layout": layout(max(200, 110 + 44 * len(kinds)), x, axis("", autorange="reversed", showgrid=False, dtick=1)),
    }


def _error(tasks: Sequence[str]) -> Figure:
    colours = task_colours(tasks)
    now = {
        "type": "bar",
        "name": "this merge",
        "orientation": "h",
        "y": list(tasks),
        "x": [],
        "marker": {"color": list(colours.values()), "line": {"width": 0}},
        "hovertemplate": "%{y}<br>error %{x:.2f}<extra></extra>",
        "showlegend": False,
    }
    pinned = {
        "type": "scatter",
        "name": "pinned merge A",
        "mode": "markers",
        "y": list(tasks),
        "x": [],
        "marker": {"symbol": "diamond-open", "size": 11, "color": INK, "line": {"width": 2}},
        "hovertemplate": "%{y}, pinned<br>error %{x:.2f}<extra></extra>",
        "visible": False,
    }
    x = axis("error on the task's own texts, relative", rangemode="tozero")
    y = axis("", autorange="reversed", showgrid=False, dtick=1)
    none = {
        "type": "line",
        "x0": 1,
        "x1": 1,
        "yref": "paper",
        "y0": 0,
        "y1": 1,
        "line": {"color": MUTED, "dash": "dot", "width": 1.5},
    }
    return {"data": [now, pinned], "layout": layout(320, x, y, shapes=[none], bargap=0.35, showlegend=True)}


def _magnitude(tasks: Sequence[str]) -> Figure:
    empty = pd.DataFrame({task: np.zeros(0) for task in tasks})
    return magnitude_distribution(empty, empty, tasks)


def _line(name: str, x: Sequence[str], colour: str, dash: str = "solid") -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": name,
        "x": list(x),
        "y": [],
        "line": {"color": colour, "width": 2, "dash": dash},
        "marker": {"size": 5, "color": colour},
        "hovertemplate": f"%{{x}}<br>{name}: %{{y:.3f}}<extra></extra>",
    }


def _variance(modules: Sequence[str]) -> Figure:
    traces = [
        _line("as trained", modules, MUTED),
        _line("as it enters the merge", modules, ACCENT),
        _line("full fine-tunes", modules, GREEN, "dash"),
    ]
    x = axis("modules, in the order of the layers", showticklabels=False, showgrid=False)
    return {"data": traces, "layout": layout(320, x, axis("variance ÷ mean²", rangemode="tozero"), showlegend=True)}


def _spectra(tasks: Sequence[str]) -> Figure:
    colours = task_colours(tasks)
    traces = [_line(task, [], colours[task]) for task in tasks] + [_line("the merge", [], INK, "dash")]
    for trace in traces:
        trace["hovertemplate"] = f"{trace['name']}<br>%{{x}} directions hold %{{y:.1%}}<extra></extra>"
    y = axis("share of energy kept", range=[0, 1.02], tickformat=".0%")
    return {"data": traces, "layout": layout(320, axis("rank after truncation"), y, showlegend=True)}


def _signs(modules: Sequence[str]) -> Figure:
    traces = [_line("entries with opposite signs", modules, MUTED), _line("magnitude lost in the sum", modules, ACCENT)]
    x = axis("modules, in the order of the layers", showticklabels=False, showgrid=False)
    y = axis("share", range=[0, 1.02], tickformat=".0%")
    return {"data": traces, "layout": layout(320, x, y, showlegend=True)}
