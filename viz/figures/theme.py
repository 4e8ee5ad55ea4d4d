"""Colours, type and the common layout of every figure.

A figure is a plain dict with Plotly's `data` and `layout`: `plotly.graph_objects.Figure(figure)` accepts it, and
building it costs microseconds where a `go.Figure` costs milliseconds. Colours that depend on the theme are CSS
variables, which the browser fills in.
"""

from collections.abc import Sequence
from typing import Any

import pandas as pd

Figure = dict[str, Any]
Axis = dict[str, Any]

INK, MUTED, LINE, ACCENT, CARD = (f"var(--ms-{name})" for name in ("ink", "muted", "line", "accent", "card"))

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#999999")
PINS = ("#EE3377", "#0077BB", "#CC6600", "#009988", "#AA4499", "#7777DD", "#998833", "#888888")
"""Of pinned runs, by letter: as clear on white as on the dark card."""
SEQUENTIAL: list[list[Any]] = [[0.0, "#FFF4CC"], [0.5, "#F7C45C"], [1.0, "#E8873A"]]
DIVERGING: list[list[Any]] = [[0.0, "#56A6DB"], [0.5, "#F2F2F2"], [1.0, "#F28E4E"]]
ON_SCALE = "#1b1f24"
"""Numbers in cells: on every colour of the scales their contrast is 4.5 : 1 or more, in light and dark."""

FONT_SIZE = 14
CELL_SIZE = 12
"""Of numbers in cells, which are in the table below, too."""


def task_colours(tasks: Sequence[str]) -> dict[str, str]:
    """Give every task its colour by its place in the pool, so that it has the same one in every figure."""
    return {task: OKABE_ITO[place % len(OKABE_ITO)] for place, task in enumerate(tasks)}


def pin_colour(letter: str) -> str:
    """Give a pinned run the colour of its letter, the same in every table and figure."""
    return PINS[(ord(letter) - ord("A")) % len(PINS)]


def faint(colour: str, alpha: float) -> str:
    """Turn `#rrggbb` into an `rgba()` colour of the given opacity."""
    red, green, blue = (int(colour[start : start + 2], 16) for start in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha:g})"


def axis(title: str, **options: Any) -> Axis:
    """Describe an axis: its title with the unit, quiet grid lines, room made for its labels."""
    return {
        "title": {"text": title, "standoff": 8, "font": {"size": FONT_SIZE}} if title else None,
        "gridcolor": LINE,
        "zeroline": False,
        "automargin": True,
        "tickfont": {"size": FONT_SIZE},
        **options,
    }


def interval(values: pd.Series, low: pd.Series, high: pd.Series, colour: str, cap: int = 4) -> dict[str, Any]:
    """Describe the error bars from `low` to `high` around `values`."""
    return {
        "type": "data",
        "symmetric": False,
        "array": (high - values).tolist(),
        "arrayminus": (values - low).tolist(),
        "color": colour,
        "thickness": 1.5,
        "width": cap,
    }


def band(x: Sequence[float], low: Sequence[float], high: Sequence[float]) -> dict[str, Any]:
    """Describe the pale area from `low` to `high` above each `x`."""
    return {
        "type": "scatter",
        "x": [*x, *x[::-1]],
        "y": [*high, *low[::-1]],
        "fill": "toself",
        "fillcolor": ACCENT,
        "opacity": 0.14,
        "mode": "none",
        "showlegend": False,
        "hoverinfo": "skip",
    }


def layout(height: int, x: Axis, y: Axis, **options: Any) -> dict[str, Any]:
    """Describe the layout that all figures share: no paper of its own, ink from the page, legend above the plot."""
    return {
        "height": height,
        "xaxis": x,
        "yaxis": y,
        "margin": {"l": 8, "r": 12, "t": 8, "b": 8},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"color": INK, "size": FONT_SIZE},
        "hoverlabel": {"font": {"size": FONT_SIZE}, "align": "left"},
        "showlegend": False,
        "legend": {
            "orientation": "h",
            "x": 0,
            "xanchor": "left",
            "y": 1.02,
            "yanchor": "bottom",
            "font": {"size": FONT_SIZE},
        },
        "uirevision": "keep",
        **options,
    }


def note(text: str, y: float, shift: float = 0) -> dict[str, Any]:
    """Return a line of bold text at the left edge, at a height of the y axis and so many pixels above it."""
    place = {"xref": "paper", "x": 0, "xanchor": "left", "y": y, "yanchor": "bottom", "yshift": shift}
    return {"text": f"<b>{text}</b>", "showarrow": False, "align": "left", **place}
