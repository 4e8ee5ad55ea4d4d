"""The shipped OSRM experiment: accuracy, drift and interference per initialisation, and what each change brings."""

from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import Any

import pandas as pd

from viz.figures.theme import INK, MUTED, OKABE_ITO, Axis, Figure, axis, interval, layout, note

SYMBOLS = ("circle", "square", "diamond", "circle-open", "square-open", "diamond-open", "circle", "square")
ROW = 20  # pixels per point in a forest plot
LABEL = 24  # pixels for the line of text above its rows
DASHES = ("solid", "dash", "dot")
WIDEST = 46  # letters that fit over a forest plot on a phone


def accuracy_per_variant(
    curve: pd.DataFrame, x: str, titles: Mapping[str, str], label: str, quantity: str = "average accuracy (validation)"
) -> Figure:
    """Draw the average accuracy against λ, the number of tasks or another quantity, a line per initialisation and
    series.

    Without series one seed for all tasks is dashed, own seeds are solid; with them the first is solid, and only it is
    in the legend.

    Parameters
    ----------
    curve : DataFrame
        `variant`, `average`, the column that `x` names, and perhaps `series` (in the order in which they are to be told
        apart).
    titles : mapping
        Variant -> title, in order; it gives the colour.
    label, quantity : str
        Titles of the axes.
    """
    colours = variant_colours(titles)
    series = list(dict.fromkeys(curve["series"])) if "series" in curve.columns else []
    traces = []
    for variant, title in titles.items():
        for place, one in enumerate(series or [None]):
            mine = curve[(curve["variant"] == variant) & (True if one is None else curve["series"] == one)].sort_values(
                x
            )
            if len(mine):
                dash = DASHES[place % len(DASHES)] if series else "dash" if "shared" in variant else "solid"
                traces.append(
                    {
                        "type": "scatter",
                        "x": mine[x].tolist(),
                        "y": mine["average"].tolist(),
                        "mode": "lines+markers",
                        "name": title,
                        "legendgroup": variant,
                        "showlegend": place == 0,
                        "line": {"color": colours[variant], "width": 2, "dash": dash},
                        "marker": {"size": 6, "color": colours[variant]},
                        "hovertemplate": f"{title}{f', {one}' if one else ''}<br>{label} %{{x}}: "
                        "%{y:.3f}<extra></extra>",
                    }
                )
    values, lines = sorted(set(curve[x])), curve["variant"].nunique()
    whole = {"dtick": 1} if pd.api.types.is_integer_dtype(curve[x]) and values[-1] - values[0] < 10 else {}
    return {
        "data": traces,
        "layout": layout(
            290 + 24 * max(0, lines // 2 - 1),
            axis(label, **whole),
            axis(quantity),
            showlegend=True,
            hovermode="closest",
        ),
    }


def averages_per_variant(values: pd.DataFrame, titles: Mapping[str, str], x: Axis) -> Figure:
    """Draw a value of each initialisation with its 95 % interval, a row per initialisation, a symbol per series.

    Parameters
    ----------
    values : DataFrame
        `variant`, `series`, `value`, `low`, `high`, `n`.
    titles : mapping
        Variant -> title, in order; it gives the row and the colour.
    """
    titles = {variant: title for variant, title in titles.items() if variant in set(values["variant"])}
    colours, names = variant_colours(titles), [_broken(title, 20) for title in titles.values()]
    series = list(dict.fromkeys(values["series"]))
    traces = []
    for place, one in enumerate(series):
        mine = values[values["series"] == one]
        offset = 0.22 * (place - (len(series) - 1) / 2)
        colour = [colours[variant] for variant in mine["variant"]]
        traces.append(
            {
                "type": "scatter",
                "x": mine["value"].tolist(),
                "y": [list(titles).index(variant) + offset for variant in mine["variant"]],
                "mode": "markers",
                "name": one,
                "marker": {
                    "size": 9,
                    "symbol": SYMBOLS[place % len(SYMBOLS)],
                    "color": colour,
                    "line": {"width": 1.5, "color": colour},
                },
                "error_x": interval(mine["value"], mine["low"], mine["high"], MUTED),
                "customdata": [
                    [titles[row.variant], row.low, row.high, row.n]
                    for row in mine[["variant", "low", "high", "n"]].itertuples()
                ],
                "hovertemplate": f"%{{customdata[0]}}<br>{one}: %{{x:.3f}}, 95 % interval %{{customdata[1]:.3f}} to "
                "%{customdata[2]:.3f}"
                "<br>repetitions: %{customdata[3]}<extra></extra>",
            }
        )
    y = axis(
        "", tickvals=list(range(len(names))), ticktext=names, range=[len(names) - 0.5, -0.5], gridcolor="rgba(0,0,0,0)"
    )
    return {"data": traces, "layout": layout(84 + 50 * len(names), x, y, hovermode="closest", showlegend=True)}


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
                "marker": {
                    "size": 7,
                    "symbol": symbol,
                    "color": colour,
                    "line": {"width": 1.5, "color": colour},
                    "opacity": 0.6,
                },
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
    y = axis(
        "", tickvals=list(range(len(names))), ticktext=names, range=[len(names) - 0.5, -0.5], gridcolor="rgba(0,0,0,0)"
    )
    return {"data": traces, "layout": layout(64 + 50 * len(names), x, y, hovermode="closest")}


def forest(effects: pd.DataFrame, series: Mapping[str, str]) -> Figure:
    """Draw differences of the average accuracy with their 95 % intervals, effect under effect, a point per series.

    Parameters
    ----------
    effects : DataFrame
        `effect`, `series`, `n`, `difference`, `low`, `high`; differences of accuracies, 0 to 1.
    series : mapping
        Series -> title, in order; it gives colour, symbol and place.
    """
    present = {name: title for name, title in series.items() if name in set(effects["series"])}
    labels = {effect: _broken(effect, WIDEST) for effect in dict.fromkeys(effects["effect"])}
    starts, height = {}, 0.0
    for effect, text in labels.items():
        height += LABEL + 14 * text.count("<br>")
        starts[effect] = height
        height += ROW * len(present) + 6
    notes = [note(labels[effect], starts[effect] - 6) for effect in labels]
    places = {name: place for place, name in enumerate(present)}
    traces = [
        _effects(effects[effects["series"] == name], title, places[name], starts) for name, title in present.items()
    ]
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


def _effects(rows: pd.DataFrame, title: str, place: int, starts: Mapping[str, float]) -> dict[str, Any]:
    colour = MUTED if place >= len(OKABE_ITO) else OKABE_ITO[place]
    points = 100 * rows[["difference", "low", "high"]]
    return {
        "type": "scatter",
        "x": points["difference"].tolist(),
        "y": [starts[effect] + ROW * (place + 0.5) for effect in rows["effect"]],
        "mode": "markers",
        "name": title,
        "marker": {
            "size": 9,
            "color": colour,
            "symbol": SYMBOLS[place % len(SYMBOLS)],
            "line": {"width": 1.5, "color": colour},
        },
        "error_x": interval(points["difference"], points["low"], points["high"], colour),
        "customdata": [
            [effect, *bounds] for effect, *bounds in zip(rows["effect"], points["low"], points["high"], strict=True)
        ],
        "hovertemplate": f"%{{customdata[0]}}<br>{title}: %{{x:+.1f}} points, 95 % interval %{{customdata[1]:+.1f}} to "
        "%{customdata[2]:+.1f}<extra></extra>",
    }


def variant_colours(titles: Sequence[str] | Mapping[str, str]) -> dict[str, str]:
    """Give every initialisation its colour by its place."""
    return {variant: OKABE_ITO[place % len(OKABE_ITO)] for place, variant in enumerate(titles)}


def _broken(text: str, width: int) -> str:
    return "<br>".join(wrap(text, width))
