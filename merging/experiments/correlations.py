"""mergescope correlations: which diagnostics of a merge go with what it recovers, from a bank's table alone.

Intervals and folds go over whole task subsets, since merges of one subset are alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ..errors import MergeError
from ..evaluation.intervals import Values
from .bank import KEYS, ON_DATA, OUTCOMES, WEIGHTS_ONLY

SAMPLES = 2000
GAP, KEPT = OUTCOMES


def read_bank(path: Path) -> pd.DataFrame:
    """Return a bank from its table, which may hold only part of its draws.

    ``gap_recovered`` is NaN for a merge of tasks of which none has a gap.

    Raises
    ------
    MergeError
        If there is none, or the file is something else.
    """
    if not path.is_file():
        raise MergeError(f"There is no {path}: “mergescope experiment bank” makes it.")
    try:
        bank = pd.read_csv(path)
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as error:
        raise MergeError(
            f"{path} is no table of comma-separated values: give one that “mergescope experiment bank” made."
        ) from error
    whole = [name for name in (*KEYS, *WEIGHTS_ONLY, *ON_DATA, KEPT) if name not in bank or bank[name].isna().any()]
    lacking = whole + [GAP] * (GAP not in bank)
    if lacking:
        raise MergeError(
            f"{path} lacks values for {', '.join(lacking)}: give a table that “mergescope experiment bank” made."
        )
    return bank


def with_outcome(bank: pd.DataFrame, outcome: str = GAP) -> pd.DataFrame:
    """Return the merges that have an outcome.

    Raises
    ------
    MergeError
        If they are of fewer than two task subsets.
    """
    bank = bank[bank[outcome].notna()].reset_index(drop=True)
    if bank.tasks_merged.nunique() < 2:
        raise MergeError(
            "A bank of one task subset tells nothing about others: “mergescope experiment bank” adds more."
        )
    return bank


def correlations(bank: pd.DataFrame, outcome: str = GAP, samples: int | None = None, seed: int = 0) -> pd.DataFrame:
    """Return how each diagnostic goes with what a merge recovers or keeps, strongest first.

    Parameters
    ----------
    bank : from `read_bank`
    outcome : "gap_recovered" or "accuracy_kept"
    samples : of the bootstrap, which draws whole task subsets, and ranks each sample anew; None = 2,000

    Returns
    -------
    DataFrame
        outcome, merges, subsets (how many there are); diagnostic, needs_data; ``rho``: Spearman's rank correlation with
        the outcome over all merges; low, high: its 95 % interval; ``predicts``: the interval excludes 0. Then the same
        ``within``: the partial rank correlation once the mean rank of every pair of method and scaling, and the effect
        of every number of tasks, is taken out of both ranks. It compares merges by the same method at the same scaling
        only, so it tells what a diagnostic knows beyond the settings; NaN where nothing is left to vary.
    """
    bank = with_outcome(bank, outcome)
    names = [*WEIGHTS_ONLY, *ON_DATA]
    subset, labels = bank.tasks_merged.factorize(sort=True)
    count = len(labels)
    drawn = np.random.default_rng(seed).multinomial(count, [1 / count] * count, samples or SAMPLES)[:, subset]
    found = _spearman(bank, names, outcome)
    # a loop over samples takes a minute, and can be read; it runs once, when the table is made
    sampled = np.array([_spearman(bank.iloc[np.repeat(bank.index, times)], names, outcome) for times in drawn])
    table = pd.DataFrame({"outcome": outcome, "merges": len(bank), "subsets": count, "diagnostic": names})
    table["needs_data"] = table.diagnostic.isin(ON_DATA)
    for place, (value, prefix) in enumerate((("rho", ""), ("within", "within_"))):
        bounds = [_bounds(sampled[:, place, i]) for i in range(len(names))]
        table[value] = found[place]
        table[[f"{prefix}low", f"{prefix}high"]] = bounds
        table["predicts_within" if place else "predicts"] = [low > 0 or high < 0 for low, high in bounds]
    return table.sort_values("rho", key=abs, ascending=False, ignore_index=True)


def _spearman(sample: pd.DataFrame, names: Sequence[str], outcome: str) -> list[list[float]]:
    """Return [rho, within] of every diagnostic."""
    ranks = sample[[*names, outcome]].rank()
    cells = sample.method + " " + sample.scaling.astype(str)
    inside = ranks - ranks.groupby(cells).transform("mean")
    tasks = pd.get_dummies(sample.tasks, dtype=float)
    D = (tasks - tasks.groupby(cells).transform("mean")).to_numpy()
    inside -= D @ np.linalg.lstsq(D, inside.to_numpy(), rcond=1e-9)[0]
    return [_cosines(part - part.mean(), outcome) for part in (ranks, inside)]


def _cosines(centred: pd.DataFrame, outcome: str) -> list[float]:
    lengths = (centred**2).sum()
    # what is left of a constant is rounding
    lengths = lengths.where(lengths > 1e-6)
    products = centred.mul(centred[outcome], axis=0).sum()
    cosines: list[float] = (products / np.sqrt(lengths * lengths[outcome])).drop(outcome).tolist()
    return cosines


def _bounds(values: Values) -> tuple[float, float]:
    values = values[np.isfinite(values)]
    if not len(values):
        return math.nan, math.nan
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def forecast_error(bank: pd.DataFrame, outcome: str = GAP) -> tuple[float, float]:
    """Return the mean error, on task subsets not learned from, of ridge regression on `WEIGHTS_ONLY`, and of always
    saying the mean.
    """
    from sklearn.dummy import DummyRegressor  # noqa: PLC0415 - takes a second
    from sklearn.linear_model import RidgeCV  # noqa: PLC0415
    from sklearn.model_selection import GroupKFold, cross_val_predict  # noqa: PLC0415
    from sklearn.pipeline import make_pipeline  # noqa: PLC0415
    from sklearn.preprocessing import StandardScaler  # noqa: PLC0415

    bank = with_outcome(bank, outcome)
    X, y, folds = bank[list(WEIGHTS_ONLY)], bank[outcome], GroupKFold(min(5, bank.tasks_merged.nunique()))
    models = (make_pipeline(StandardScaler(), RidgeCV(np.logspace(-2, 4, 13))), DummyRegressor())
    ridge, mean = (cross_val_predict(model, X, y, groups=bank.tasks_merged, cv=folds) for model in models)
    return float(np.abs(ridge - y).mean()), float(np.abs(mean - y).mean())


def statement(table: pd.DataFrame, errors: tuple[float, float], titles: Mapping[str, str] | None = None) -> str:
    """Return in plain words which diagnostics go with the gap recovered, and how far off a forecast would be.

    Parameters
    ----------
    table : from `correlations`
    errors : from `forecast_error`
    titles : names for people; the columns' own where there is none
    """
    overall, within = (
        _those(table, "predicts", "rho", titles or {}),
        _those(table, "predicts_within", "within", titles or {}),
    )
    ridge, mean = errors
    so = (
        "at most half, so a forecast would be worth having"
        if ridge <= mean / 2
        else "more than half, so there is no forecast here"
    )
    return (
        f"{table.merges.iloc[0]} merges of {table.subsets.iloc[0]} task subsets. Over all of them {len(overall)} of "
        f"{len(table)} diagnostics go with the gap recovered{_listed(overall)}. Among merges by the same method at the "
        f"same λ, with the number of tasks taken out, {len(within)} of {table.within.notna().sum()} "
        f"do{_listed(within)}. (95 % intervals that exclude 0: up to one in ten does so by chance.) Ridge regression "
        f"on the weights-only diagnostics is off by {ridge:.3f} on average on task subsets that it has not seen, "
        f"always saying the mean by {mean:.3f}: {so}."
    )


def _those(table: pd.DataFrame, said: str, value: str, titles: Mapping[str, str]) -> list[str]:
    rows = table[table[said]].sort_values(value, key=abs, ascending=False)
    return [f"{titles.get(name, name)} ({rho:+.2f})" for name, rho in zip(rows.diagnostic, rows[value], strict=True)]


def _listed(names: Sequence[str]) -> str:
    return f": {', '.join(names)}" if names else ""


def write_correlations(bank: Path, samples: int | None = None) -> pd.DataFrame:
    """Write ``correlations.csv`` beside a bank's table, for every outcome, and return it.

    Raises
    ------
    MergeError
        As `read_bank` and `with_outcome`.
    """
    read = read_bank(bank)
    table = pd.concat([correlations(read, outcome, samples) for outcome in OUTCOMES], ignore_index=True).round(6)
    table.to_csv(bank.with_name("correlations.csv"), index=False)
    return table


def markdown_bank(folder: Path) -> str:
    """Return `markdown` of the tables in a folder; a sentence where they have not been made."""
    bank, table = folder / "bank_merges.csv", folder / "correlations.csv"
    if not bank.is_file() or not table.is_file():
        return "Not measured yet: “mergescope experiment bank” makes the merges, “mergescope correlations” this table."
    return markdown(pd.read_csv(table), read_bank(bank))


def markdown(table: pd.DataFrame, bank: pd.DataFrame) -> str:
    """Return the correlations with the gap recovered, beside those with the accuracy kept, and what they say, as
    Markdown.

    Parameters
    ----------
    table : as ``correlations.csv`` holds it
    bank : from `read_bank`, for the errors of a forecast
    """
    gap, kept = table[table.outcome == GAP], table[table.outcome == KEPT].set_index("diagnostic")
    lines = [
        "| diagnostic | needs texts | ρ with the gap recovered, all merges (95 %) | the same at one method and λ (95 "
        "%) | ρ with the accuracy kept, all merges (95 %) |",
        "|---|---|---|---|---|",
    ]
    for row in gap.itertuples():
        mine = kept.loc[row.diagnostic]
        cells = (
            _with_interval(row.rho, row.low, row.high, row.predicts),
            _with_interval(row.within, row.within_low, row.within_high, row.predicts_within),
            _with_interval(mine.rho, mine.low, mine.high, mine.predicts),
        )
        lines.append(f"| {row.diagnostic} | {'yes' if row.needs_data else ''} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", "Bold: 0 is excluded.", "", statement(gap, forecast_error(bank))])


def _with_interval(value: float, low: float, high: float, sure: bool) -> str:
    bold = "**" if sure else ""
    return "" if math.isnan(value) else f"{bold}{value:+.2f}{bold} ({low:+.2f} to {high:+.2f})"
