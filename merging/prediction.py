"""Prediction: which diagnostics of a merge go with its accuracy, and a predictor from those that need no text.

Everything here is computed from a bank's table (`merging.bank`) alone; intervals and folds go over whole task subsets, since merges of one
subset are alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .adapter import Adapter
from .bank import KEYS, ON_DATA, WEIGHTS_ONLY
from .engine import Merged
from .errors import MergeError
from .intervals import Values
from .plugins import Orthogonalize
from .pool import problems_of

Indices = np.ndarray[Any, np.dtype[np.intp]]


def read_bank(path: Path) -> pd.DataFrame:
    """Return a bank from its table.

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
    lacking = [name for name in (*KEYS, *WEIGHTS_ONLY, *ON_DATA, "normalised") if name not in bank or bank[name].isna().any()]
    if lacking:
        raise MergeError(f"{path} lacks values for {', '.join(lacking)}: give a table that “mergescope experiment bank” made.")
    return bank


def correlations(bank: pd.DataFrame, samples: int = 2000, seed: int = 0) -> pd.DataFrame:
    """Return how each diagnostic goes with what a merge keeps, strongest first.

    Parameters
    ----------
    bank : from `read_bank`; no NaN
    samples : of the bootstrap, which draws whole task subsets, since merges of one subset are alike, and ranks each sample anew

    Returns
    -------
    DataFrame
        diagnostic, needs_data; ``rho``: Spearman's rank correlation with ``normalised`` over all merges; low, high: its 95 % interval;
        ``predicts``: the interval excludes 0. Then the same ``within``: the partial rank correlation once the mean rank of every pair of
        method and scaling, and the effect of every number of tasks, is taken out of both ranks. It compares merges by the same
        method at the same scaling only, so it tells what a diagnostic knows beyond the settings; NaN where nothing is left to vary.
    """
    names = [*WEIGHTS_ONLY, *ON_DATA]
    found = _spearman(bank, names, np.ones((1, len(bank))))[0]
    drawn = _spearman(bank, names, _resampled(bank, samples, seed))
    table = pd.DataFrame({"diagnostic": names, "needs_data": [name in ON_DATA for name in names]})
    for place, (value, prefix) in enumerate((("rho", ""), ("within", "within_"))):
        bounds = [_bounds(drawn[:, i, place]) for i in range(len(names))]
        table[value] = found[:, place]
        table[[f"{prefix}low", f"{prefix}high"]] = bounds
        table["predicts_within" if place else "predicts"] = [low > 0 or high < 0 for low, high in bounds]
    return table.sort_values("rho", key=abs, ascending=False, ignore_index=True)


def _resampled(bank: pd.DataFrame, samples: int, seed: int) -> Values:
    """Return how often each row is in each bootstrap sample of whole task subsets, (samples, rows)."""
    subsets = _Groups(bank.tasks_merged)
    count = len(subsets.starts)
    if count < 2:
        raise MergeError("A bank of one task subset tells nothing about others: it takes two or more.")
    return np.random.default_rng(seed).multinomial(count, [1 / count] * count, samples)[:, subsets.of].astype(float)


def _bounds(values: Values) -> tuple[float, float]:
    values = values[np.isfinite(values)]
    if not len(values):
        return math.nan, math.nan
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


class _Groups:
    """Rows with the same label: ``of`` (rows,) numbers them, in the labels' order."""

    def __init__(self, labels: pd.Series) -> None:
        self.of = labels.factorize(sort=True)[0]
        self.order = np.argsort(self.of, kind="stable")
        self.starts = np.searchsorted(self.of[self.order], np.arange(self.of.max() + 1))

    def sums(self, values: Values) -> Values:
        """Return (samples, groups) from (samples, rows)."""
        return np.add.reduceat(values[:, self.order], self.starts, axis=1)

    def centred(self, values: Values, counts: Values) -> Values:
        """Return the values less the mean of their group in their sample."""
        means: Values = self.sums(values * counts) / np.maximum(self.sums(counts), 1)
        return values - means[:, self.of]


def _ranks(column: pd.Series, counts: Values) -> Values:
    """Return the ranks, ties averaged, in samples that hold row i ``counts[s, i]`` times: (samples, rows)."""
    levels = _Groups(column)
    sizes = levels.sums(counts)
    return (sizes.cumsum(1) - (sizes - 1) / 2)[:, levels.of]


def _spearman(bank: pd.DataFrame, names: Sequence[str], counts: Values) -> Values:
    """Return rho and within of every diagnostic in every sample, (samples, diagnostics, 2)."""
    everything = _Groups(pd.Series(0, index=bank.index))
    cells = _Groups(bank.method + " " + bank.scaling.astype(str))
    tasks = pd.get_dummies(bank.tasks).to_numpy(float).T
    D = np.stack([cells.centred(np.broadcast_to(column, counts.shape), counts) for column in tasks], axis=2)
    weighted = (D * counts[:, :, None]).swapaxes(1, 2)
    inverse = np.linalg.pinv(weighted @ D, rcond=1e-9, hermitian=True)

    def both(column: str) -> tuple[Values, Values]:
        ranks = _ranks(bank[column], counts)
        inside = cells.centred(ranks, counts)
        return everything.centred(ranks, counts), inside - (D @ (inverse @ (weighted @ inside[:, :, None])))[:, :, 0]

    kept = both("normalised")
    pairs = [[_cosine(x, y, counts) for x, y in zip(both(name), kept, strict=True)] for name in names]
    return np.array(pairs).transpose(2, 0, 1)


def _cosine(x: Values, y: Values, counts: Values) -> Values:
    lengths = [(counts * z * z).sum(1) for z in (x, y)]
    varies = np.minimum(*lengths) > 1e-6  # squared ranks: what is left of a constant is rounding
    cosine: Values = (counts * x * y).sum(1) / np.sqrt(np.where(varies, lengths[0] * lengths[1], 1.0))
    return np.where(varies, cosine, math.nan)


@dataclass(frozen=True)
class Prediction:
    """How well a model predicts ``normalised`` on task subsets that it has not seen, against always saying the mean.

    Attributes
    ----------
    error, mean_error : mean absolute error of the predictor, and of the mean of the subsets learned from
    low, high : 95 % interval of ``gain``, bootstrapped over whole task subsets
    predicted : by row of the bank, each from a fit that left its task subset out
    errors : |predicted - measured|
    """

    error: float
    mean_error: float
    low: float
    high: float
    predicted: pd.Series
    errors: pd.Series

    @property
    def gain(self) -> float:
        """By how much the predictor is closer than the mean."""
        return self.mean_error - self.error

    @property
    def useful(self) -> bool:
        """True if the predictor beats the mean on left-out subsets, beyond chance."""
        return self.low > 0


def cross_validated(bank: pd.DataFrame, folds: int = 5, samples: int = 2000, seed: int = 0) -> Prediction:
    """Return how well the predictor does from `WEIGHTS_ONLY`, whole task subsets left out."""
    predicted = pd.Series(index=bank.index, dtype=float)
    mean = predicted.copy()
    counts = _resampled(bank, samples, seed)
    for train, test in subset_folds(bank, folds):
        model = predictor().fit(bank.iloc[train][list(WEIGHTS_ONLY)], bank.iloc[train].normalised)
        predicted.iloc[test] = model.predict(bank.iloc[test][list(WEIGHTS_ONLY)])
        mean.iloc[test] = bank.iloc[train].normalised.mean()
    errors, mean_errors = (predicted - bank.normalised).abs(), (mean - bank.normalised).abs()
    low, high = _bounds(counts @ (mean_errors - errors).to_numpy() / counts.sum(1))
    return Prediction(float(errors.mean()), float(mean_errors.mean()), low, high, predicted, errors)


def subset_folds(bank: pd.DataFrame, folds: int = 5) -> list[tuple[Indices, Indices]]:
    """Return (rows to learn from, rows to predict) of each fold: no task subset is in both."""
    from sklearn.model_selection import GroupKFold  # noqa: PLC0415 - takes a second

    return list(GroupKFold(min(folds, bank.tasks_merged.nunique())).split(bank, groups=bank.tasks_merged))


def predictor() -> Any:
    """Return the unfitted predictor: small boosted trees, seeded."""
    from sklearn.ensemble import GradientBoostingRegressor  # noqa: PLC0415

    return GradientBoostingRegressor(n_estimators=200, max_depth=3, learning_rate=0.05, subsample=0.7, random_state=0)


@dataclass(frozen=True, eq=False)
class Predictor:
    """The predictor, fitted on a whole bank: what a merge will keep, from its weights alone.

    Attributes
    ----------
    bank : what it learned from
    adapters : one or more of those that the bank's merges were made of: their base, modules and ranks are all that it knows
    validation : how it did on left-out task subsets; where that is not `Prediction.useful`, its predictions should not be shown
    """

    bank: pd.DataFrame
    adapters: Sequence[Adapter]
    validation: Prediction
    model: Any

    @classmethod
    def fit(cls, bank: pd.DataFrame, adapters: Sequence[Adapter], validation: Prediction | None = None) -> Predictor:
        """Fit on every row; ``validation`` saves the cross-validation where it has been done."""
        model = predictor().fit(bank[list(WEIGHTS_ONLY)], bank.normalised)
        return cls(bank, adapters, validation or cross_validated(bank), model)

    @property
    def diagnostics(self) -> tuple[str, ...]:
        """What it predicts from, see `weights_only`."""
        return WEIGHTS_ONLY

    @property
    def error(self) -> float:
        """80 % quantile of the errors on left-out task subsets: four of five of these merges were predicted closer."""
        return float(self.validation.errors.quantile(0.8))

    def predict(self, diagnostics: Mapping[str, float]) -> tuple[float, float]:
        """Return what the merge keeps, as ``normalised`` in the bank (1 = the adapters' own accuracy), and `error`.

        Raises
        ------
        MergeError
            If a diagnostic is missing, or beyond all that the bank holds: trees do not extrapolate.
        """
        absent = [name for name in WEIGHTS_ONLY if name not in diagnostics]
        if absent:
            raise MergeError(f"The predictor needs {', '.join(absent)} too: give what weights_only(merged) returns.")
        for name in WEIGHTS_ONLY:
            low, high = self.bank[name].min(), self.bank[name].max()
            slack = 0.01 * (high - low) + 1e-5
            if not low - slack <= diagnostics[name] <= high + slack:
                raise MergeError(
                    f"This merge is not like those that the predictor learned from: {name} is {diagnostics[name]:.3g}, there {low:.3g} to {high:.3g}."
                )
        row = pd.DataFrame([{name: float(diagnostics[name]) for name in WEIGHTS_ONLY}])
        return float(self.model.predict(row)[0]), self.error

    def unseen(self, merged: Merged) -> list[str]:
        """Return in which settings a merge differs from all in the bank, a sentence each; empty = the predictor may be asked.

        Methods, their parameters, weights, plug-ins, tasks, base, modules and ranks; `predict` itself looks at the diagnostics' ranges.
        """
        said = _unseen_settings(merged, self.bank)
        tasks = set("+".join(self.bank.tasks_merged.unique()).split("+"))
        known = [_anatomy(adapter) for adapter in self.adapters]
        for adapter in merged.adapters:
            if problems_of([self.adapters[0], adapter]):
                said.append(f"{adapter.name} is made for another base model.")
            elif _anatomy(adapter) not in known:
                said.append(f"{adapter.name} has other modules or another rank than the bank's adapters.")
            if adapter.task not in tasks:
                said.append(f"The bank holds no merge with the task {adapter.task}.")
        return said


def _anatomy(adapter: Adapter) -> dict[str, tuple[tuple[int, int], int]]:
    return {module: (update.shape, update.rank) for module, update in adapter.deltas.items()}


def _unseen_settings(merged: Merged, bank: pd.DataFrame) -> list[str]:
    method, plugins, said = merged.method, merged.plugins, []
    if method.name not in set(bank.method):
        said.append(f"The bank holds no merge by {method.title}.")
    if not bank.tasks.min() <= len(merged.adapters) <= bank.tasks.max():
        said.append(
            f"The bank's merges have {bank.tasks.min():g} to {bank.tasks.max():g} tasks, this one has {len(merged.adapters)}."
        )
    changed = [p.label for p in method.params if p.name != "scaling" and merged.params[p.name] != p.default]
    if changed:
        said.append(f"The bank's merges by {method.title} leave this at its default: {', '.join(changed)}.")
    if any(weight != 1.0 for weight in merged.weights):
        said.append("The bank's merges have the weight 1 for every adapter.")
    mode = plugins.orthogonalize
    if mode.mode not in set(bank.orthogonalize) or (mode.mode != "off" and mode.g != Orthogonalize(mode.mode).g):
        said.append("The bank holds no merge with this setting of orthogonalize.")
    if plugins.decouple > bank.decouple.max():
        said.append(f"The bank's merges are decoupled by up to {bank.decouple.max():g}.")
    if plugins.soft_osrm is not None and plugins.soft_osrm.mu > bank.mu.max():
        said.append(f"The bank's merges have soft OSRM up to μ {bank.mu.max():g}.")
    return said


def statement(table: pd.DataFrame, found: Prediction, bank: pd.DataFrame, titles: Mapping[str, str] | None = None) -> str:
    """Return in plain words which diagnostics predict anything, and whether the predictor beats the mean.

    Parameters
    ----------
    table : from `correlations`
    found : from `cross_validated`
    titles : names for people; the columns' own where there is none
    """
    overall, within = _those(table, "predicts", "rho", titles or {}), _those(table, "predicts_within", "within", titles or {})
    return (
        f"{len(bank)} merges of {bank.tasks_merged.nunique()} task subsets. Over all of them {len(overall)} of {len(table)} diagnostics go with the "
        f"accuracy kept{_listed(overall)}. Among merges by the same method at the same λ, with the number of tasks taken out, {len(within)} of "
        f"{table.within.notna().sum()} do{_listed(within)}. (95 % intervals that exclude 0: up to one in ten does so by chance.) A predictor from "
        f"weights-only diagnostics is off by {found.error:.3f} on average on task subsets that it has not seen, always saying the mean by "
        f"{found.mean_error:.3f}: it gains {found.gain:+.3f} (95 % {found.low:+.3f} to {found.high:+.3f}), which is "
        f"{'better' if found.useful else 'no better'} than the mean."
    )


def _those(table: pd.DataFrame, said: str, value: str, titles: Mapping[str, str]) -> list[str]:
    rows = table[table[said]].sort_values(value, key=abs, ascending=False)
    return [f"{titles.get(name, name)} ({rho:+.2f})" for name, rho in zip(rows.diagnostic, rows[value], strict=True)]


def _listed(names: Sequence[str]) -> str:
    return f": {', '.join(names)}" if names else ""


def markdown(bank: pd.DataFrame) -> str:
    """Return the correlation table, which diagnostics predict, and the predictor's error, as Markdown."""
    table = correlations(bank)
    lines = [
        "| diagnostic | needs texts | ρ with the accuracy kept, all merges (95 %) | ρ, same method and λ (95 %) | predicts |",
        "|---|---|---|---|---|",
    ]
    says = {
        (True, True): "yes",
        (True, False): "over all only",
        (False, True): "at the same method and λ only",
        (False, False): "no",
    }
    for row in table.itertuples():
        overall = _with_interval(row.rho, row.low, row.high)
        within = _with_interval(row.within, row.within_low, row.within_high)
        verdict = says[bool(row.predicts), bool(row.predicts_within)]
        lines.append(f"| {row.diagnostic} | {'yes' if row.needs_data else ''} | {overall} | {within} | {verdict} |")
    return "\n".join([*lines, "", statement(table, cross_validated(bank), bank)])


def _with_interval(value: float, low: float, high: float) -> str:
    return "" if math.isnan(value) else f"{value:+.2f} ({low:+.2f} to {high:+.2f})"
