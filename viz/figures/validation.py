"""Which diagnostics go with what merges recover: each against the gap recovered, and their correlations."""

from typing import Any, NamedTuple

import pandas as pd

from viz.figures.theme import ACCENT, INK, MUTED, OKABE_ITO, Figure, axis, interval, layout

RECOVERED = "gap recovered"
SYMBOLS = ("circle", "square-open", "diamond", "triangle-up-open")
ROW = 46  # pixels per diagnostic: a line of text, two intervals


class Title(NamedTuple):
    """A diagnostic for people: what it is called, its unit or range, and what it means in one line."""

    name: str
    unit: str
    meaning: str

    @property
    def axis(self) -> str:
        """The name with its unit, as an axis is titled."""
        return f"{self.name} ({self.unit})"


TITLES = {
    "scaling": Title("scaling λ", "λ", "The factor on the merge; 1 for a method that has none."),
    "tasks": Title("number of tasks", "adapters", "How many adapters are merged."),
    "magnitude_variance": Title(
        "magnitude variance",
        "0: equal",
        "Variance of the column norms across adapters over their squared mean: how unequal the adapters' sizes are.",
    ),
    "norm_ratio": Title(
        "norm ratio", "largest ÷ median, from 1", "How much larger the largest update is than the median one."
    ),
    "cosine": Title("cosine of updates", "−1 to 1", "Mean cosine of two adapters' updates: 0 is orthogonal."),
    "sign_conflict": Title(
        "sign conflict", "share, 0 to 1", "Share of entries in which the adapters' signs do not all agree."
    ),
    "sign_lost": Title(
        "cancelled magnitude", "share, 0 to 1", "Share of all magnitude that cancels when the updates are added."
    ),
    "effective_rank": Title(
        "effective rank",
        "directions",
        "How many directions an update spreads over: the exponential of its spectrum's entropy.",
    ),
    "overlap_A": Title(
        "overlap of inputs (A)",
        "share, 0 to 1",
        "Mean squared cosine between the input subspaces that two adapters read.",
    ),
    "overlap_B": Title(
        "overlap of outputs (B)",
        "share, 0 to 1",
        "Mean squared cosine between the output subspaces that two adapters write.",
    ),
    "merged_norm": Title(
        "size of the merge", "÷ own update", "Norm of the merge over that of each adapter's update, on average."
    ),
    "distance": Title(
        "distance to the adapters",
        "÷ own update",
        "‖M − Wᵢ‖ / ‖Wᵢ‖, on average: how far the merge M is from each update Wᵢ.",
    ),
    "alignment": Title("alignment", "cosine, −1 to 1", "Mean cosine of the merge with each adapter's update."),
    "weakest_alignment": Title(
        "weakest alignment", "cosine, −1 to 1", "Cosine of the merge with the update that it follows least."
    ),
    "interference": Title(
        "interference",
        "foreign ÷ own update",
        "How loud other tasks' updates are on a task's own texts: 1 is as loud as its own.",
    ),
    "output_error": Title(
        "output error", "÷ own update", "Distance of the merge to each update, measured on the task's own texts."
    ),
    "worst_output_error": Title("worst output error", "÷ own update", "The same for the task that is hit most."),
}
"""Every diagnostic of the bank."""


def diagnostic_against_gap(bank: pd.DataFrame, diagnostic: str, *, logarithmic: bool | None = None) -> Figure:
    """Draw a diagnostic against what each merge recovers, a point per merge.

    Parameters
    ----------
    bank : DataFrame
        `gap_recovered` (0 = the base, 1 = the adapters alone), the column of the diagnostic, `group` (a title, gives
        colour and symbol) and `merge` (what it is, for the hover).
    diagnostic : str
        A key of `TITLES`.
    logarithmic : bool, optional
        Whether the horizontal axis is; None = where the values are 20 to 10,000 times apart: zeros and rounding need a
        linear one.
    """
    title, values = TITLES[diagnostic], bank[diagnostic]
    if logarithmic is None:
        logarithmic = bool(20 * values.min() < values.max() < 1e4 * values.min())
    traces = [_points(group, diagnostic, name, place, title.name) for place, (name, group) in _groups(bank)]
    x = axis(title.axis, **({"type": "log", "dtick": 1} if logarithmic else {}))
    return {"data": traces, "layout": layout(330, x, axis(RECOVERED), showlegend=True, hovermode="closest")}


def correlation_forest(correlations: pd.DataFrame) -> Figure:
    """Draw the correlations with their 95 % intervals, a row per diagnostic, the strongest on top.

    In colour where the interval excludes 0. Filled: over all merges. Open: among merges by the same method at the same
    λ.

    Parameters
    ----------
    correlations : DataFrame
        `diagnostic`, `needs_data`, `rho`, `low`, `high`, `predicts`, `within`, `within_low`, `within_high`,
        `predicts_within`; NaN in `within` where there is none.
    """
    pairs = zip(correlations["diagnostic"], correlations["needs_data"], strict=True)
    titles = [TITLES[name].name + (", needs texts" if data else "") for name, data in pairs]
    rows = correlations.assign(title=titles, place=ROW * (pd.RangeIndex(len(correlations)) + 0.5))
    within = rows.drop(columns=["rho", "low", "high", "predicts"]).rename(
        columns={"within": "rho", "within_low": "low", "within_high": "high", "predicts_within": "predicts"}
    )
    traces = [
        *_correlations(rows, "all merges", "circle", 2),
        *_correlations(within.dropna(subset="rho"), "same method and λ", "diamond-open", 14),
    ]
    notes = [
        {
            "text": title,
            "showarrow": False,
            "align": "left",
            "xref": "paper",
            "x": 0,
            "xanchor": "left",
            "y": place,
            "yanchor": "bottom",
            "yshift": 4,
        }
        for title, place in zip(rows["title"], rows["place"], strict=True)
    ]
    height = ROW * len(rows)
    zero = {"type": "line", "x0": 0, "x1": 0, "yref": "paper", "y0": 0, "y1": 1, "line": {"color": INK, "width": 1.5}}
    x = axis("Spearman's ρ with the gap recovered", range=[-1.02, 1.02], dtick=0.5)
    y = axis("", range=[height + 4, 0], showticklabels=False, showgrid=False)
    options = {"shapes": [zero | {"layer": "below"}], "annotations": notes, "showlegend": True, "hovermode": "closest"}
    return {"data": traces, "layout": layout(height + 50, x, y, **options)}


def _groups(bank: pd.DataFrame) -> enumerate[Any]:
    return enumerate(bank.groupby("group", observed=True))


def _points(rows: pd.DataFrame, x: str, name: str, place: int, quantity: str) -> dict[str, Any]:
    colour = OKABE_ITO[place % len(OKABE_ITO)]
    return {
        "type": "scatter",
        "x": rows[x].tolist(),
        "y": rows["gap_recovered"].tolist(),
        "text": rows["merge"].tolist(),
        "mode": "markers",
        "name": name,
        "marker": {
            "size": 7,
            "color": colour,
            "symbol": SYMBOLS[place % len(SYMBOLS)],
            "opacity": 0.7,
            "line": {"width": 1.5, "color": colour},
        },
        "hovertemplate": f"%{{text}}<br>{quantity} %{{x:.3f}}, recovers %{{y:.2f}}<extra>{name}</extra>",
    }


def _correlations(rows: pd.DataFrame, name: str, symbol: str, below: int) -> list[dict[str, Any]]:
    """Two traces of one name, so that the legend hides both: intervals that exclude 0 in colour, the others grey."""
    parts = [(colour, rows[rows["predicts"] == said]) for said, colour in ((True, ACCENT), (False, MUTED))]
    traces = [_interval_trace(part, name, symbol, colour, below) for colour, part in parts if len(part)]
    return [trace | {"showlegend": place == 0} for place, trace in enumerate(traces)]


def _interval_trace(rows: pd.DataFrame, name: str, symbol: str, colour: str, below: int) -> dict[str, Any]:
    return {
        "type": "scatter",
        "x": rows["rho"].tolist(),
        "y": (rows["place"] + below).tolist(),
        "mode": "markers",
        "name": name,
        "marker": {"size": 9, "color": colour, "symbol": symbol, "line": {"width": 1.5, "color": colour}},
        "error_x": interval(rows["rho"], rows["low"], rows["high"], colour),
        "customdata": rows[["title", "low", "high"]].to_numpy().tolist(),
        "hovertemplate": f"%{{customdata[0]}}<br>{name}: ρ %{{x:+.2f}}, 95 % interval %{{customdata[1]:+.2f}} to "
        "%{customdata[2]:+.2f}<extra></extra>",
    }
