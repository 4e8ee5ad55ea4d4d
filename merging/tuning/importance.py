"""Which choices of a search mattered: what every candidate chose as one table, and how much of the value follows each.

Optuna's own importances leave out what not every candidate chose, here all but the method.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from ..methods import METHODS

if TYPE_CHECKING:
    from .search import Candidate

FEWEST = 10
"""Candidates from which an importance is told at all."""
TREES, SHUFFLES = 100, 20


def choices(candidates: Sequence[Candidate], names: Sequence[str] = ()) -> pd.DataFrame:
    """Return what the candidates chose, a row each, and only what at least two of them chose differently.

    Parameters
    ----------
    names : of the adapters, for their weights' columns

    Returns
    -------
    DataFrame
        ``trial``, ``merge``, ``value``, then a column per choice, named as on screen: "method", "λ", "γ", ..; NaN where
        a candidate had no such choice.
    """
    rows = []
    for one in candidates:
        spec = one.spec
        if spec is None:
            continue
        method = METHODS[spec.method]
        row = {"trial": one.number, "merge": spec.words(), "value": one.value, "method": method.title}
        row |= {
            "λ" if p.name == "scaling" else p.label[:1].lower() + p.label[1:]: spec.values[p.name]
            for p in method.params
        }
        if method.plugins:
            row |= {
                "soft OSRM μ": spec.mu,
                "orthogonalize": int(spec.orthogonalize.mode != "off"),
                "Pico": int(spec.pico),
                "norm cap": int(spec.norm_cap is not None),
                "decouple γ": spec.decouple.strength,
            }
        row |= {f"weight of {name}": weight for name, weight in zip(names, spec.weights_for(len(names)), strict=True)}
        rows.append(row)
    table = pd.DataFrame(rows)
    fixed = [name for name in table.columns[3:] if table[name].nunique() < 2]
    return table.drop(columns=fixed)


def importances(table: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Return how much of the differences in value follows each choice.

    A random forest predicts the value from the choices; a choice matters as much as its R^2 falls when the choice is
    shuffled among the candidates (Breiman, "Random Forests", 2001, section 10). It tells what made a difference within
    this search, which looks at promising merges more often, and not what a choice does by itself.

    Parameters
    ----------
    table : see `choices`

    Returns
    -------
    DataFrame
        ``choice``, ``importance`` (shares, sum 1), ``spread`` (standard deviation over shuffles), the greatest first;
        empty with fewer than `FEWEST` candidates, or where no choice tells anything.
    """
    from sklearn.compose import make_column_transformer  # noqa: PLC0415 - takes a second
    from sklearn.ensemble import RandomForestRegressor  # noqa: PLC0415
    from sklearn.inspection import permutation_importance  # noqa: PLC0415
    from sklearn.pipeline import make_pipeline  # noqa: PLC0415
    from sklearn.preprocessing import OneHotEncoder  # noqa: PLC0415

    chosen = table.iloc[:, 3:]
    nothing = pd.DataFrame({"choice": [], "importance": [], "spread": []})
    if len(table) < FEWEST or chosen.empty or table.value.nunique() < 2:
        return nothing
    words = [name for name in chosen if not pd.api.types.is_numeric_dtype(chosen[name])]
    numbers = chosen.drop(columns=words).astype(float)
    # a number that is missing must not tell the method
    chosen = chosen[words].join(numbers.fillna(numbers.median()))
    forest = make_pipeline(
        make_column_transformer((OneHotEncoder(handle_unknown="ignore"), words), remainder="passthrough"),
        RandomForestRegressor(TREES, random_state=seed),
    ).fit(chosen, table.value)
    found = permutation_importance(forest, chosen, table.value, n_repeats=SHUFFLES, random_state=seed)
    shares = found.importances.clip(min=0)
    if not shares.mean(1).sum():
        return nothing
    shares = shares / shares.mean(1).sum()
    frame = pd.DataFrame({"choice": chosen.columns, "importance": shares.mean(1), "spread": shares.std(1)})
    return frame.sort_values("importance", ascending=False, ignore_index=True)
