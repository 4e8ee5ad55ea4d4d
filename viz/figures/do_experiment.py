"""DO-Merging's figures as measured here: a function per figure, from the frames of
`merging.experiments.do_pieces.results`.
"""

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from viz.figures.theme import INK, MUTED, OKABE_ITO, Figure, axis, interval, layout, note

DASHES = {"0.3": "dot", "1": "solid", "best": "dash"}
"""How a column of λ is drawn, in every figure."""
SYMBOLS = {"0.3": "circle-open", "1": "circle", "best": "diamond"}
ROW = 20  # pixels of a mark in a chart of rows
LABEL = 22  # pixels of the line of text above its rows
ALONE = "alone"
BARE = "base with the tasks' heads"
ACCURACY, GAP = "average accuracy (test)", "gap recovered (100 %: as good as alone)"

Titled = Callable[[str], str]


def with_lambda(scores: pd.DataFrame) -> pd.DataFrame:
    """Repeat each measurement under every column of λ that it stands for: `λ` = "0.3", "1", "best"."""
    parts = [
        scores[(scores["scaling"] - 0.3).abs() < 1e-6].assign(λ="0.3"),
        scores[(scores["scaling"] - 1.0).abs() < 1e-6].assign(λ="1"),
        scores[scores["best"].astype(bool)].assign(λ="best"),
    ]
    return pd.concat(parts, ignore_index=True)


def methods(scores: pd.DataFrame, sides: Mapping[str, str], titled: Titled) -> Figure:
    """Draw figure 1a: the gap that each method recovers, on each set, at three λ.

    Parameters
    ----------
    scores : DataFrame
        `set`, `method`, `scaling`, `best`, `average`, `gap`, `gap_low`, `gap_high`.
    sides : mapping
        Set -> title; it gives the colour.
    titled : callable
        Gives a method's title.
    """
    rows = with_lambda(scores[scores["set"].isin(list(sides))]).dropna(subset="gap")
    rows = rows.assign(row=rows["method"].map(titled), series=rows["set"].map(sides), symbol=rows["λ"].map(SYMBOLS))
    rows = rows.assign(
        text=[f"{r.series}, λ {r.λ} ({r.scaling:g})<br>accuracy {r.average:.3f}" for r in rows.itertuples()]
    )
    return _rows(rows.rename(columns={"gap": "x", "gap_low": "left", "gap_high": "right"}), axis(GAP, tickformat=".0%"))


def imbalance(scores: pd.DataFrame, titled: Titled) -> Figure:
    """Draw figure 1c: merged accuracy against magnitude variance, a point per set; open at λ 0.3, filled at λ 1.

    Parameters
    ----------
    scores : DataFrame
        `pool`, `scaled`, `factor`, `variant`, `scaling`, `average`, `variance`, `own` (accuracy of the scaled adapter
        alone).
    titled : callable
        Gives a variant's title.
    """
    traces = []
    for place, (variant, mine) in enumerate(scores.groupby("variant", sort=False)):
        for scaling, symbol in ((0.3, "circle-open"), (1.0, "circle")):
            here = mine[(mine["scaling"] - scaling).abs() < 1e-6].sort_values("variance")
            own = ["" if pd.isna(r.own) else f"<br>the scaled one alone {r.own:.3f}" for r in here.itertuples()]
            what = [
                f"{r.pool} as it is" if r.scaled == "none" else f"{r.scaled} × {r.factor:g}{more}"
                for r, more in zip(here.itertuples(), own, strict=True)
            ]
            traces.append(
                {
                    "type": "scatter",
                    "x": here["variance"].tolist(),
                    "y": here["average"].tolist(),
                    "text": what,
                    "mode": "markers",
                    "name": titled(str(variant)),
                    "legendgroup": str(variant),
                    "showlegend": scaling == 1.0,
                    "marker": {
                        "size": 9,
                        "symbol": symbol,
                        "color": OKABE_ITO[place],
                        "line": {"width": 1.5, "color": OKABE_ITO[place]},
                    },
                    "hovertemplate": f"%{{text}}<br>variance %{{x:.3f}}, λ {scaling:g}: "
                    f"%{{y:.3f}}<extra>{titled(str(variant))}</extra>",
                }
            )
    x = axis("magnitude variance (over squared mean)")
    return {"data": traces, "layout": layout(330, x, axis(ACCURACY), showlegend=True, hovermode="closest")}


def descent(scores: pd.DataFrame, titles: Mapping[str, str]) -> Figure:
    """Draw figure 3a: accuracy of the adapters alone during the orthogonal descent; dashed at the larger penalty.

    Parameters
    ----------
    scores : DataFrame
        `pool`, `penalty`, `steps`, `method` (only "alone" is drawn), `average`, `low`, `high`, `cosine`, `moved`.
    titles : mapping
        Pool -> title.
    """
    rows = scores[scores["method"] == ALONE]
    steps = sorted(rows["steps"].unique())
    penalties = sorted(rows["penalty"].unique())
    rows = rows.assign(
        x=[steps.index(step) for step in rows["steps"]],
        y=rows["average"],
        series=rows["pool"].map(titles),
        name=[f"{titles.get(r.pool, r.pool)}, penalty {r.penalty:g}" for r in rows.itertuples()],
        dash=["solid" if r.penalty == penalties[0] else "dash" for r in rows.itertuples()],
        text=[f"{r.steps} steps, mean |cosine| {r.cosine:.4f}, moved {r.moved:.2f}" for r in rows.itertuples()],
    )
    x = axis("steps of the descent at most", tickvals=list(range(len(steps))), ticktext=[str(step) for step in steps])
    return _lines(rows, x, axis("accuracy of each alone (average)"))


def orthogonality(scores: pd.DataFrame, titles: Mapping[str, str]) -> Figure:
    """Draw figure 3b: merged accuracy against how orthogonal the updates are when the descent is stopped.

    Parameters
    ----------
    scores : DataFrame
        As in :func:`descent`; the merges by Task Arithmetic are drawn, with `scaling` and `cosine`.
    titles : mapping
        Pool -> title.
    """
    rows = with_lambda(scores[scores["method"] == "task_arithmetic"].assign(best=False)).sort_values("steps")
    rows = rows.assign(
        x=rows["cosine"],
        y=rows["average"],
        series=rows["pool"].map(titles),
        name=[f"{titles.get(r.pool, r.pool)}, penalty {r.penalty:g}, λ {r.λ}" for r in rows.itertuples()],
        dash=rows["λ"].map(DASHES),
        text=[f"{r.steps} steps, penalty {r.penalty:g}" for r in rows.itertuples()],
    )
    return _lines(rows, axis("mean |cosine| of two updates (0: orthogonal)"), axis(ACCURACY))


def components(gains: pd.DataFrame, titled: Titled, pools: Mapping[str, str], column: str = "best") -> Figure:
    """Draw figure 4a: what each component adds in front of each method, in points, with 95 % intervals.

    Parameters
    ----------
    gains : DataFrame
        `pool`, `method`, `component`, `λ`, `gain`, `low`, `high`, `accuracy`, `gap`.
    titled : callable
        Gives a method's title.
    pools : mapping
        Pool -> title.
    column : str
        The λ that is drawn: "0.3", "1" or "best" (of each, on validation).
    """
    rows = gains[(gains["component"] != "none") & (gains["λ"] == column)]
    rows = rows.assign(
        x=100 * rows["gain"],
        left=100 * rows["low"],
        right=100 * rows["high"],
        series=rows["component"],
        symbol="circle",
        row=[f"{titled(r.method)}, {pools.get(r.pool, r.pool)}" for r in rows.itertuples()],
        text=[f"{r.component}<br>accuracy {r.accuracy:.3f}" for r in rows.itertuples()],
    )
    figure = _rows(rows, axis("gain over the method as it is (points)"))
    zero = {
        "type": "line",
        "x0": 0,
        "x1": 0,
        "yref": "paper",
        "y0": 0,
        "y1": 1,
        "line": {"color": INK, "width": 1.5},
        "layer": "below",
    }
    figure["layout"]["shapes"] = [zero]
    return figure


def directions(scores: pd.DataFrame, titles: Mapping[str, str]) -> Figure:
    """Draw figure 4b: accuracy against how far directions are turned to each other; grey: the adapters alone.

    Parameters
    ----------
    scores : DataFrame
        `pool`, `side`, `strength`, `method`, `scaling`, `average`, `low`, `high`, `cosine`; Task Arithmetic and "alone"
        are drawn.
    titles : mapping
        Pool -> title.
    """
    merged = with_lambda(scores[scores["method"] == "task_arithmetic"].assign(best=False))
    alone = scores[scores["method"] == ALONE].assign(λ=ALONE)
    rows = pd.concat([merged, alone], ignore_index=True)
    rows = rows.assign(
        x=rows["strength"],
        y=rows["average"],
        series=[f"{titles.get(r.pool, r.pool)}, {r.side}" for r in rows.itertuples()],
        name=[
            f"{titles.get(r.pool, r.pool)}, {r.side}, {'each alone' if r.λ == ALONE else f'λ {r.λ}'}"
            for r in rows.itertuples()
        ],
        dash=["longdash" if r.λ == ALONE else DASHES[r.λ] for r in rows.itertuples()],
        text=[f"mean |cosine| {r.cosine:.4f}" for r in rows.itertuples()],
    )
    return _lines(rows, axis("strength s (1: one subspace for all)"), axis(ACCURACY))


def against(
    scores: pd.DataFrame, key: str, title: str, titled: Titled, ticks: Mapping[float, str] | None = None
) -> Figure:
    """Draw figures 4c, 5 and the epochs: accuracy of each method at three λ, and of the adapters alone.

    Parameters
    ----------
    scores : DataFrame
        `key`, `method`, `scaling`, `best`, `average`, `low`, `high`, `gap`; `alone` and `base` where they belong to the
        set, or rows of the method "alone".
    key : str
        The column of the horizontal axis; its values are set side by side, whatever their distance.
    ticks : mapping, optional
        Value -> label, in order; None = the sorted values.
    """
    labels = ticks or {value: f"{value:g}" for value in sorted(scores[key].unique())}
    places = {value: place for place, value in enumerate(labels)}
    rows = with_lambda(scores[scores["method"] != ALONE])
    rows = rows.assign(
        name=[f"{titled(r.method)}, {'best λ' if r.λ == 'best' else f'λ {r.λ}'}" for r in rows.itertuples()],
        series=rows["method"].map(titled),
        dash=rows["λ"].map(DASHES),
        text=[
            f"λ {r.scaling:g}" + ("" if pd.isna(r.gap) else f", gap recovered {r.gap:.0%}") for r in rows.itertuples()
        ],
    )
    ends = [scores[scores["method"] == ALONE].assign(name="each alone", series="each alone", dash="solid", text="")]
    for column, name in (("alone", "each alone"), ("base", BARE)):
        if column in scores:
            one = scores.drop_duplicates(key)
            ends.append(
                one.assign(
                    average=one[column],
                    low=one[column],
                    high=one[column],
                    name=name,
                    series=name,
                    dash="solid",
                    text="",
                )
            )
    whole = pd.concat([part for part in (rows, *ends) if len(part)], ignore_index=True)
    whole = whole.assign(x=[places[value] for value in whole[key]], y=whole["average"])
    x = axis(title, tickvals=list(places.values()), ticktext=list(labels.values()))
    return _lines(whole, x, axis(ACCURACY))


def _lines(rows: pd.DataFrame, x: dict[str, Any], y: dict[str, Any]) -> Figure:
    """Draw a line per `name`; `series` gives the colour (grey for what is no merge, open marks for the base), `dash`
    the λ. The legend names each series once.
    """
    plain = [name for name in dict.fromkeys(rows["series"]) if not str(name).startswith(("each alone", "base"))]
    colours = {name: OKABE_ITO[place % len(OKABE_ITO)] for place, name in enumerate(plain)}
    traces, seen = [], set()
    for name, mine in rows.groupby("name", sort=False):
        part = mine.sort_values("x") if "cosine" not in mine or mine["x"].is_monotonic_increasing else mine
        series = str(part["series"].iloc[0])
        colour = colours.get(series, MUTED)
        traces.append(
            {
                "type": "scatter",
                "x": part["x"].tolist(),
                "y": part["y"].tolist(),
                "text": part["text"].tolist(),
                "mode": "lines+markers",
                "name": series,
                "legendgroup": series,
                "showlegend": series not in seen,
                "line": {"color": colour, "width": 2, "dash": part["dash"].iloc[0]},
                "marker": {"size": 6, "color": colour, "symbol": "circle-open" if series == BARE else "circle"},
                "error_y": interval(part["y"], part["low"], part["high"], colour, 2) | {"thickness": 0.7},
                "hovertemplate": f"{name}<br>%{{text}}: %{{y:.3f}}<extra></extra>",
            }
        )
        seen.add(series)
    return {"data": traces, "layout": layout(340, x, y, showlegend=True, hovermode="closest")}


def _rows(rows: pd.DataFrame, x: dict[str, Any]) -> Figure:
    """Draw points with intervals, grouped under the names in `row`; `series` gives the colour."""
    names = list(dict.fromkeys(rows["row"]))
    kinds = list(dict.fromkeys(zip(rows["series"], rows["symbol"], strict=True)))
    series = list(dict.fromkeys(rows["series"]))
    block = LABEL + ROW * len(kinds)
    traces, seen = [], set()
    for place, (one, symbol) in enumerate(kinds):
        mine = rows[(rows["series"] == one) & (rows["symbol"] == symbol)]
        colour = OKABE_ITO[series.index(one) % len(OKABE_ITO)]
        traces.append(
            {
                "type": "scatter",
                "x": mine["x"].tolist(),
                "y": [block * names.index(row) + LABEL + ROW * (place + 0.5) for row in mine["row"]],
                "text": [f"{row}<br>{text}" for row, text in zip(mine["row"], mine["text"], strict=True)],
                "mode": "markers",
                "name": str(one),
                "legendgroup": str(one),
                "showlegend": one not in seen,
                "marker": {"size": 9, "color": colour, "symbol": symbol, "line": {"width": 1.5, "color": colour}},
                "error_x": interval(mine["x"], mine["left"], mine["right"], colour),
                "hovertemplate": "%{text}<extra></extra>",
            }
        )
        seen.add(one)
    notes = [note(name, block * place + LABEL, 0) for place, name in enumerate(names)]
    height = block * len(names)
    y = axis("", range=[height + 6, 0], showticklabels=False, showgrid=False)
    return {
        "data": traces,
        "layout": layout(height + 80, x, y, annotations=notes, showlegend=True, hovermode="closest"),
    }
