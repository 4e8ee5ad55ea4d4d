"""How much the tasks of a set differ in magnitude (DO-Merging's figure 1b)."""

from collections.abc import Mapping, Sequence

import pandas as pd

from viz.figures.theme import INK, OKABE_ITO, Figure, axis, layout, note


def variance(modules: pd.DataFrame, titles: Mapping[str, str]) -> Figure:
    """Draw figure 1b: how much the tasks differ in magnitude, a point per module, the mean as a bar.

    Parameters
    ----------
    modules : DataFrame
        `source`, `module`, `variance`.
    titles : mapping
        Source -> title, from top to bottom.
    """
    present = [source for source in titles if source in set(modules["source"])]
    places = {source: place for place, source in enumerate(present)}
    rows = modules[modules["source"].isin(present)]
    mean = rows.groupby("source", sort=False)["variance"].mean()
    points = {
        "type": "scatter",
        "x": rows["variance"].tolist(),
        "y": [places[source] for source in rows["source"]],
        "text": rows["module"].tolist(),
        "mode": "markers",
        "marker": {"size": 7, "color": [OKABE_ITO[places[source] % 8] for source in rows["source"]], "opacity": 0.6},
        "hovertemplate": "%{text}: %{x:.3f}<extra></extra>",
    }
    bars = {
        "type": "scatter",
        "x": mean.tolist(),
        "y": [places[source] for source in mean.index],
        "text": [titles[source] for source in mean.index],
        "mode": "markers",
        "marker": {"size": 16, "symbol": "line-ns-open", "color": INK, "line": {"width": 2.5, "color": INK}},
        "hovertemplate": "%{text}, mean: %{x:.3f}<extra></extra>",
    }
    y = axis("", range=[len(present) - 0.4, -0.7], showticklabels=False, showgrid=False)
    notes = [note(titles[source], place, 9) for source, place in places.items()]
    x = axis("variance over squared mean of column norms")
    return {
        "data": [points, bars],
        "layout": layout(60 + 42 * len(present), x, y, annotations=notes, hovermode="closest"),
    }


def titles_of(sources: Sequence[str], pools: Mapping[str, str]) -> dict[str, str]:
    """Give what a variance was measured of its title: full fine-tunes, pools, pools after decoupling (in this
    order)."""
    full = [source for source in sources if source == "full" or source.startswith("full,")]
    plain = [source for source in sources if source in pools]
    found = {source: source.replace("full", "full fine-tunes", 1) for source in sorted(full)}
    found |= {source: pools[source] for source in plain}
    return found | {
        f"{source}, decoupled": f"{pools[source]}, decoupled" for source in plain if f"{source}, decoupled" in sources
    }
