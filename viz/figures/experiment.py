"""The shipped OSRM experiment: accuracy, drift and interference per initialisation, and what each change brings."""

from collections.abc import Mapping, Sequence
from textwrap import wrap

import pandas as pd

from viz.figures.theme import INK, MUTED, OKABE_ITO, Axis, Figure, axis, interval, layout

SYMBOLS = ("circle", "square", "diamond", "circle-open", "square-open", "diamond-open", "circle", "square")
ROW = 20  # pixels per method in a forest plot
LABEL = 24  # pixels for the line of text above its rows
WIDEST = 46  # letters that fit over a forest plot on a phone


def accuracy_per_variant(curve: pd.DataFrame, x: str, titles: Mapping[str, str], label: str) -> Figure:
    """Draw the average accuracy against λ or the number of tasks, a line per initialisation.

    One seed for all tasks is dashed, own seeds are solid.

    Parameters
    ----------
    curve : DataFrame
        `variant`, `average`, and the column that `x` names.
    titles : mapping
        Variant -> title, in order; it gives the colour.
    label : str
        Title of the horizontal axis.
    """
    colours = variant_colours(titles)
    traces = []
    for variant, title in titles.items():
        mine = curve[curve["variant"] == variant].sort_values(x)
        if len(mine):
            traces.append(
                {
                    "type": "scatter",
                    "x": mine[x].tolist(),
                    "y": mine["average"].tolist(),
                    "mode": "lines+markers",
                    "name": title,
                    "line": {"color": colours[variant], "width": 2, "dash": "dash" if "shared" in variant else "solid"},
                    "marker": {"size": 6, "color": colours[variant]},
                    "hovertemplate": f"{title}<br>{label} %{{x}}: %{{y:.3f}}<extra></extra>",
                }
            )
    whole = {"dtick": 1} if pd.api.types.is_integer_dtype(curve[x]) else {}
    y = axis("average accuracy (validation)")
    return {"data": traces, "layout": layout(290, axis(label, **whole), y, showlegend=True, hovermode="closest")}


def spread_per_variant(values: pd.DataFrame, columns: Mapping[str, str], titles: Mapping[str, str], x: Axis) -> Figure:
    """Draw single measurements of each initialisation as points in a row, and their mean as a bar across it.

    Parameters
    ----------
    values : DataFrame
        `variant`, `run` (what is measured, for the hover) and the columns to draw.
    columns : mapping
        Column -> name in the legend, at most two.
    titles : mapping
        Variant -> title, in order; it gives the row and the colour.
    """
    colours, names = variant_colours(titles), [_broken(title, 20) for title in titles.values()]
    traces = []
    for place, (column, name) in enumerate(columns.items()):
        symbol = ("circle", "square-open")[place]
        mine = values[values["variant"].isin(list(titles))]
        offset = 0.14 if place else -0.14 if len(columns) > 1 else 0.0
        rows = [list(titles).index(variant) + offset for variant in mine["variant"]]
        colour = [colours[variant] for variant in mine["variant"]]
        traces.append(
            {
                "type": "scatter",
                "x": mine[column].tolist(),
                "y": rows,
                "text": mine["run"].tolist(),
                "mode": "markers",
                "name": name,
                "marker": {"size": 7, "symbol": symbol, "color": colour, "line": {"width": 1.5, "color": colour}, "opacity": 0.6},
                "hovertemplate": f"%{{text}}<br>{name}: %{{x:.3f}}<extra></extra>",
                "showlegend": False,
            }
        )
        mean = mine.groupby("variant", sort=False)[column].mean()
        traces.append(
            {
                "type": "scatter",
                "x": mean.tolist(),
                "y": [list(titles).index(variant) + offset for variant in mean.index],
                "text": [titles[variant] for variant in mean.index],
                "mode": "markers",
                "name": f"{name}, mean",
                "marker": {"size": 16, "symbol": "line-ns-open", "color": INK, "line": {"width": 2.5, "color": INK}},
                "hovertemplate": f"%{{text}}<br>{name}, mean: %{{x:.3f}}<extra></extra>",
                "showlegend": False,
            }
        )
    y = axis("", tickvals=list(range(len(names))), ticktext=names, range=[len(names) - 0.5, -0.5], gridcolor="rgba(0,0,0,0)")
    return {"data": traces, "layout": layout(64 + 50 * len(names), x, y, hovermode="closest")}


def forest(effects: pd.DataFrame, methods: Mapping[str, str]) -> Figure:
    """Draw differences of the average accuracy with their 95 % intervals, effect under effect, a point per method.

    Parameters
    ----------
    effects : DataFrame
        `effect`, `method`, `n`, `difference`, `low`, `high`; differences of accuracies, 0 to 1.
    methods : mapping
        Method -> title, in order; it gives colour, symbol and place.
    """
    present = {name: title for name, title in methods.items() if name in set(effects["method"])}
    labels = {effect: _broken(effect, WIDEST) for effect in dict.fromkeys(effects["effect"])}
    starts, height = {}, 0.0
    for effect, text in labels.items():
        height += LABEL + 14 * text.count("<br>")
        starts[effect] = height
        height += ROW * len(present) + 6
    notes = [_note(labels[effect], starts[effect] - 6) for effect in labels]
    places = {method: place for place, method in enumerate(present)}
    traces = [_effects(effects[effects["method"] == method], title, places[method], starts) for method, title in present.items()]
    zero = {"type": "line", "x0": 0, "x1": 0, "yref": "paper", "y0": 0, "y1": 1, "line": {"color": INK, "width": 1.5}}
    return {
        "data": traces,
        "layout": layout(
            int(height) + 60,
            axis("difference of average accuracy (points)"),
            axis("", range=[height, 0], showticklabels=False, showgrid=False),
            shapes=[zero | {"layer": "below"}],
            annotations=notes,
            showlegend=True,
            hovermode="closest",
        ),
    }


def _effects(rows: pd.DataFrame, title: str, place: int, starts: Mapping[str, float]) -> dict:
    colour = MUTED if place >= len(OKABE_ITO) else OKABE_ITO[place]
    points = 100 * rows[["difference", "low", "high"]]
    return {
        "type": "scatter",
        "x": points["difference"].tolist(),
        "y": [starts[effect] + ROW * (place + 0.5) for effect in rows["effect"]],
        "mode": "markers",
        "name": title,
        "marker": {"size": 9, "color": colour, "symbol": SYMBOLS[place % len(SYMBOLS)], "line": {"width": 1.5, "color": colour}},
        "error_x": interval(points["difference"], points["low"], points["high"], colour),
        "customdata": [[effect, *bounds] for effect, *bounds in zip(rows["effect"], points["low"], points["high"], strict=True)],
        "hovertemplate": f"%{{customdata[0]}}<br>{title}: %{{x:+.1f}} points, 95 % interval %{{customdata[1]:+.1f}} to "
        "%{customdata[2]:+.1f}<extra></extra>",
    }


def _note(text: str, y: float) -> dict:
    place = {"xref": "paper", "x": 0, "xanchor": "left", "y": y, "yanchor": "bottom"}
    return {"text": f"<b>{text}</b>", "showarrow": False, "align": "left", **place}


def variant_colours(titles: Sequence[str] | Mapping[str, str]) -> dict[str, str]:
    """Give every initialisation its colour by its place."""
    return {variant: OKABE_ITO[place % len(OKABE_ITO)] for place, variant in enumerate(titles)}


def _broken(text: str, width: int) -> str:
    return "<br>".join(wrap(text, width))
