"""What predicts a merge's accuracy: figures from the shipped ``bank.csv``, with the papers' claims and what was measured."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from merging.methods import METHODS
from merging.pools import POOLS
from merging.prediction import Prediction, correlations, cross_validated, read_bank, statement
from merging.tasks import task_title
from viz.figures.validation import TITLES, correlation_forest, diagnostic_against_accuracy, predicted_against_measured
from viz.panels.component import payload
from viz.panels.do_views import DoViews
from viz.panels.osrm_views import nothing

COMMAND = "mergescope experiment bank"
AGAIN = "mergescope correlations"
NAMES = {name: title.name for name, title in TITLES.items()}

DO_MERGING = "DO-Merging's figure 1c: the larger the magnitude variance, the lower the merged accuracy."
ORTHOGONAL = "DO-Merging (figure 3b): the more orthogonal the adapters' factors, the higher the merged accuracy."
TIES = "TIES: values of opposite signs in the same entry are what costs accuracy."
EXPECTED: Mapping[str, str] = {
    "magnitude_variance": f"{DO_MERGING} (Its formula was not found; this one is ours.)",
    "norm_ratio": f"{DO_MERGING} (This is the same idea for whole updates.)",
    "overlap_A": ORTHOGONAL,
    "overlap_B": ORTHOGONAL,
    "sign_conflict": TIES,
    "sign_lost": TIES,
    "interference": "OSRM: what other adapters do to a task's own texts is what costs accuracy.",
}
"""Diagnostic -> what a paper claims of it; each of them expects that more is worse."""


class BankViews:
    """The bank in a folder of tables, which may be missing; everything is computed once, when it is first asked for."""

    def __init__(self, tables: Path) -> None:
        self.path = tables / "bank.csv"
        self.do_merging = DoViews(tables)

    @property
    def available(self) -> bool:
        """True if there is a bank to show."""
        return self.path.exists()

    @cached_property
    def bank(self) -> pd.DataFrame:
        """The table, with `group` (its pool) and `merge` (what it is) for the figures."""
        bank = read_bank(self.path)
        titles = {name: pool.title for name, pool in POOLS.items()}
        group = pd.Categorical(bank["pool"].map(titles), categories=list(titles.values()))
        return bank.assign(group=group, merge=[_merge(row) for row in bank.itertuples()])

    @cached_property
    def correlations(self) -> pd.DataFrame:
        """See `merging.bank.correlations`."""
        return correlations(self.bank)

    @cached_property
    def validation(self) -> Prediction:
        """See `merging.bank.cross_validated`."""
        return cross_validated(self.bank)

    @property
    def diagnostics(self) -> list[tuple[str, str]]:
        """(title, name) of every diagnostic, the strongest correlation first; none without a bank."""
        return [(NAMES[name], name) for name in self.correlations["diagnostic"]] if self.available else []

    @property
    def sentence(self) -> str:
        """Say which diagnostics predict anything and whether the predictor beats the mean, or which command measures it."""
        if not self.available:
            return f"Not measured yet: “{COMMAND}” merges and evaluates a few hundred random combinations; the figures then appear here."
        found = statement(self.correlations, self.validation, self.bank, NAMES)
        return f"{found} Repeat the numbers with “{AGAIN}”."

    def forest(self) -> str:
        """All correlations with their intervals."""
        if not self.available:
            return _missing("correlations")
        caption = (
            f"Rank correlation with the share of the adapters' own accuracy that a merge keeps, {self._n}; bars: 95 % intervals over task subsets; in "
            "colour: 0 is excluded. Filled: over all merges, where λ, the method and the number of tasks decide much. Open: compared only with merges by "
            "the same method at the same λ, the number of tasks taken out: what the diagnostic knows beyond the settings."
        )
        return payload(correlation_forest(self.correlations), caption, self.correlations, "mergescope_bank_correlations")

    def scatter(self, diagnostic: str) -> str:
        """One diagnostic against the accuracy kept, with the paper's claim about it where there is one."""
        if not self.available:
            return _missing(diagnostic)
        row = self.correlations.set_index("diagnostic").loc[diagnostic]
        measured = f"Measured: ρ = {_with_interval(row, 'rho', '')} over all merges"
        if pd.notna(row["within"]):
            measured += f", {_with_interval(row, 'within', 'within_')} at the same method and λ"
        caption = f"{TITLES[diagnostic].meaning} A point per merge, {self._n}; 1: as accurate as the adapters alone. {measured}."
        if diagnostic in EXPECTED:
            caption += f" {EXPECTED[diagnostic]} {_verdict(row)}"
        table = self.bank[["number", "pool", "tasks_merged", "method", "scaling", diagnostic, "normalised"]]
        table = table.loc[:, ~table.columns.duplicated()]
        return payload(diagnostic_against_accuracy(self.bank, diagnostic), caption, table, f"mergescope_bank_{diagnostic}")

    def predictor(self) -> str:
        """What the predictor said of merges of left-out task subsets, against what they kept."""
        if not self.available:
            return _missing("predictor")
        found = self.validation
        band = float(found.errors.quantile(0.8))
        verdict = (
            "The predictor is better."
            if found.useful
            else "That is no better than the mean: its predictions are not shown in this app."
        )
        caption = (
            f"Boosted trees from {len(TITLES) - int(self.correlations['needs_data'].sum())} weights-only diagnostics; every merge is predicted by a fit "
            f"that has not seen its task subset, {self._n}. Band: ±{band:.3f} holds four of five. On average off by {found.error:.3f}, always saying the "
            f"mean by {found.mean_error:.3f}; difference {found.gain:+.3f} (95 % over task subsets {found.low:+.3f} to {found.high:+.3f}). {verdict}"
        )
        table = self.bank[["number", "tasks_merged", "method", "scaling", "normalised"]].assign(predicted=found.predicted)
        figure = predicted_against_measured(self.bank, found.predicted, band)
        return payload(figure, caption, table, "mergescope_bank_predictor")

    @property
    def _n(self) -> str:
        return f"n = {len(self.bank)} merges of {self.bank['tasks_merged'].nunique()} task subsets"


def _merge(row: Any) -> str:
    """Name a merge for the hover: method, λ, plug-ins, tasks."""
    plugins = [f"orthogonalized ({row.orthogonalize})"] if row.orthogonalize != "off" else []
    plugins += [f"decoupled {row.decouple:g}"] if row.decouple else []
    plugins += [f"soft OSRM μ {row.mu:g}"] if row.mu else []
    settings = ", ".join([METHODS[row.method].title, f"λ {row.scaling:g}", *plugins])
    return f"{settings}<br>{', '.join(task_title(task) for task in row.tasks_merged.split('+'))}"


def _with_interval(row: pd.Series, value: str, prefix: str) -> str:
    return f"{row[value]:+.2f} (95 % {row[prefix + 'low']:+.2f} to {row[prefix + 'high']:+.2f})"


def _verdict(row: pd.Series) -> str:
    """Hold both correlations against the claim that more is worse."""
    said = []
    for value, predicts, where in (
        ("rho", "predicts", "over all merges"),
        ("within", "predicts_within", "at the same method and λ"),
    ):
        if pd.notna(row[value]):
            agrees = "is seen here" if row[value] < 0 else "is reversed here"
            said.append(f"{where} this {agrees if row[predicts] else 'is not seen here'}")
    return f"{'; '.join(said).capitalize()}." if said else ""


def _missing(figure: str) -> str:
    return nothing(f"Not measured yet: “{COMMAND}” makes the table.", f"mergescope_bank_{figure}")
