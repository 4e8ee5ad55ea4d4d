"""What 4 and 8 bits leave of a merge: each module's error against the size of its update."""

from collections.abc import Mapping

import pandas as pd

from viz.figures.theme import INK, OKABE_ITO, Figure, axis, layout

NAMES: Mapping[str, str] = {"nf4": "4 bits (NF4, blocks of 64)", "int8": "8 bits (a scale per row)"}
LOOKS = {"nf4": (OKABE_ITO[1], "circle"), "int8": (OKABE_ITO[0], "diamond")}
SMALLEST = 1e-4  # errors and sizes below are drawn there, for a logarithm


def surviving_update(rows: pd.DataFrame) -> Figure:
    """Draw a point per module and format; above the dashed line the rounding is larger than the update.

    Parameters
    ----------
    rows : DataFrame
        `module`, `size` (||ΔW|| / ||W₀||), and `nf4_error`, `nf4_unchanged`, `int8_error`, `int8_unchanged`, as
        merging.diagnostics.quantisation gives them.
    """
    size = rows["size"].clip(lower=SMALLEST)
    traces = [
        {
            "type": "scatter",
            "mode": "markers",
            "name": name,
            "x": size.tolist(),
            "y": rows[f"{kind}_error"].clip(lower=SMALLEST).tolist(),
            "customdata": rows[["module", f"{kind}_unchanged"]].to_numpy().tolist(),
            "marker": {"color": LOOKS[kind][0], "size": 8, "opacity": 0.8, "symbol": LOOKS[kind][1]},
            "hovertemplate": "%{customdata[0]}<br>update %{x:.2%} of the weights<br>error %{y:.0%}<br>"
            "%{customdata[1]:.0%} of the weights keep their code<extra>" + name + "</extra>",
        }
        for kind, name in NAMES.items()
    ]
    line = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": 1, "y1": 1}
    return {
        "data": traces,
        "layout": layout(
            340,
            axis("size of the update, ‖ΔW‖ / ‖W₀‖", type="log", tickformat=".1%"),
            axis("error once quantised", type="log", tickformat=".0%"),
            shapes=[line | {"line": {"color": INK, "width": 1.5, "dash": "dash"}}],
            showlegend=True,
            hovermode="closest",
        ),
    }
