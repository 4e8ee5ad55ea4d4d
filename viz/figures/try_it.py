"""What is said to one text: probabilities of the labels, who pulls at them, where, and over λ."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from viz.figures.theme import ACCENT, FONT_SIZE, INK, MUTED, OKABE_ITO, Figure, axis, layout

MOST_LINES = 8  # labels that get a line: the most probable ones
PROBABILITY = {"range": [-0.02, 1.02], "tickformat": ".1f", "dtick": 0.2}


def label_probabilities(frame: pd.DataFrame, titles: Mapping[str, str], colour: str) -> Figure:
    """Draw one task's labels, a bar for each who answers.

    Parameters
    ----------
    frame : DataFrame
        `source`, `label`, `probability` of one text and one task.
    titles : mapping
        Source -> title, in the order of the legend: "base", "own", "merge", "pinned", as far as they are in `frame`.
    colour : str
        Of the task.
    """
    looks = {
        "base": {"color": MUTED},
        "own": {"color": "rgba(0,0,0,0)", "line": {"color": INK, "width": 1.5}},
        "merge": {"color": colour},
        "pinned": {"color": colour, "pattern": {"shape": "/", "size": 5, "solidity": 0.35, "fgcolor": INK}},
    }
    labels = list(dict.fromkeys(frame["label"]))
    present = [source for source in titles if (frame["source"] == source).any()]
    traces = []
    for source in present:
        rows = frame[frame["source"] == source]
        traces.append(
            {
                "type": "bar",
                "orientation": "h",
                "x": rows["probability"].tolist(),
                "y": rows["label"].tolist(),
                "name": titles[source],
                "marker": looks[source],
                "hovertemplate": f"%{{y}}<br>{titles[source]}: %{{x:.3f}}<extra></extra>",
            }
        )
    order = {"categoryorder": "array", "categoryarray": labels, "autorange": "reversed"}
    y = axis("", **order, gridcolor="rgba(0,0,0,0)", dtick=1)
    height = 60 + len(labels) * (12 + 10 * len(present))
    x = axis("probability", **PROBABILITY)
    return {"data": traces, "layout": layout(height, x, y, barmode="group", bargap=0.3, showlegend=True)}


def pulls(frame: pd.DataFrame, colours: Mapping[str, str]) -> Figure:
    """Draw what each adapter does to the logit of one label: towards it at the right, away from it at the left.

    Parameters
    ----------
    frame : DataFrame
        `left_out` (the adapter's title), `effect`, `share`, `without`, `probability_without`, one row per adapter.
    colours : mapping
        Title -> colour.
    """
    order = frame.sort_values("effect")
    trace = {
        "type": "bar",
        "orientation": "h",
        "x": order["effect"].tolist(),
        "y": order["left_out"].tolist(),
        "text": [f"{share:+.0%}".replace("-", "−") for share in order["share"]],
        "textposition": "auto",
        "marker": {"color": [colours[name] for name in order["left_out"]]},
        "customdata": order[["without", "probability_without"]].to_numpy().tolist(),
        "hovertemplate": "%{y} moves the logit by %{x:+.2f}<br>without it: %{customdata[0]:.2f}, probability "
        "%{customdata[1]:.3f}<extra></extra>",
    }
    zero = {"type": "line", "x0": 0, "x1": 0, "yref": "paper", "y0": 0, "y1": 1, "line": {"color": INK, "width": 1}}
    x = axis("away from it ← change of the logit → towards it")
    return {"data": [trace], "layout": layout(84 + 30 * len(order), x, axis("", dtick=1), shapes=[zero])}


def loudness_per_layer(frame: pd.DataFrame, colours: Mapping[str, str], own: str) -> Figure:
    """Draw how loud each update is on one text, layer by layer, against the task's own update.

    Parameters
    ----------
    frame : DataFrame
        `adapter` (its title), `layer`, `ratio` per module; a layer is drawn at the root mean square of its modules.
    colours : mapping
        Title -> colour, in the order of the legend.
    own : str
        Title of the task's own adapter, which is 1 everywhere.
    """
    layers = list(dict.fromkeys(frame["layer"]))
    square = frame.assign(square=frame["ratio"] ** 2).groupby(["adapter", "layer"], sort=False)["square"].mean()
    mean = np.sqrt(square).unstack("layer")[layers]
    traces = [
        {
            "type": "scatter",
            "x": layers,
            "y": mean.loc[name].tolist(),
            "name": name,
            "mode": "lines+markers",
            "line": {
                "color": colours[name],
                "width": 3 if name == own else 1.5,
                "dash": "dot" if name == own else None,
            },
            "marker": {"color": colours[name], "size": 6},
            "hovertemplate": f"{name}<br>layer %{{x}}: %{{y:.2f}} times as loud<extra></extra>",
        }
        for name in colours
        if name in mean.index
    ]
    y = axis("‖ΔW h‖ ÷ ‖ΔW own h‖", rangemode="tozero")
    return {"data": traces, "layout": layout(300, axis("layer", type="category"), y, showlegend=True)}


def probability_lines(frame: pd.DataFrame, along: str, title: str, labels: Sequence[str]) -> Figure:
    """Draw the probability of each label along λ (`along` = "scaling") or layers ("layer").

    Parameters
    ----------
    labels : sequence of str
        In the task's order, which decides the colours.
    """
    best = frame.groupby("label")["probability"].max().sort_values(ascending=False)
    shown = [label for label in labels if label in set(best.index[:MOST_LINES])]
    traces = []
    for label in shown:
        rows = frame[frame["label"] == label]
        colour = OKABE_ITO[list(labels).index(label) % len(OKABE_ITO)]
        traces.append(
            {
                "type": "scatter",
                "x": rows[along].tolist(),
                "y": rows["probability"].tolist(),
                "name": label,
                "mode": "lines" if along == "scaling" else "lines+markers",
                "line": {"color": colour, "width": 2.5},
                "marker": {"color": colour, "size": 6},
                "hovertemplate": f"{label}: %{{y:.3f}}<br>{title} %{{x}}<extra></extra>",
            }
        )
    x = axis(title, type="category") if along == "layer" else axis(title, range=[0, float(frame[along].max())])
    return {"data": traces, "layout": layout(300, x, axis("probability", **PROBABILITY), showlegend=True)}


def story(frame: pd.DataFrame, labels: Sequence[str], present: float, flips: pd.DataFrame) -> Figure:
    """Draw the probabilities over λ, with the present λ (dashed) and the λ at which the answer flips (dotted).

    Parameters
    ----------
    frame, labels : see `probability_lines`
    present : float
        The merge's own λ.
    flips : DataFrame
        `scaling`, `before`, `after`.

    Returns
    -------
    dict
        The figure; `layout.shapes[0].x0` is the present λ.
    """
    figure = probability_lines(frame, "scaling", "λ", labels)
    figure["layout"]["shapes"] = [
        _vertical(present, ACCENT, "dash"),
        *(_vertical(scaling, INK, "dot") for scaling in flips["scaling"]),
    ]
    figure["layout"]["annotations"] = [
        {
            "x": scaling,
            "y": 1.0 - 0.09 * (place % 3),
            "text": f"flips at {scaling:.2f}",
            "xanchor": "left" if scaling < 1 else "right",
            "showarrow": False,
            "font": {"size": FONT_SIZE, "color": INK},
        }
        for place, scaling in enumerate(flips["scaling"])
    ]
    return figure


def _vertical(x: float, colour: str, dash: str) -> dict[str, object]:
    line = {"color": colour, "width": 1.5, "dash": dash}
    return {"type": "line", "x0": x, "x1": x, "yref": "paper", "y0": 0, "y1": 1, "line": line}
