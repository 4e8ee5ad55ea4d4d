"""What goes with the gap that a merge recovers: figures from the shipped bank, with the papers' claims and what was
measured.
"""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from merging.experiments.correlations import GAP, forecast_error, read_bank, statement
from merging.recipes.spec import MergeSpec
from merging.shipped import POOLS
from merging.tasks.task import task_title
from viz.figures.validation import TITLES, correlation_forest, diagnostic_against_gap
from viz.panels.diagnose.do_views import DoViews
from viz.panels.kit.plot import payload
from viz.panels.osrm.views import nothing

COMMAND = "mergescope experiment bank"
AGAIN = "mergescope correlations"
MISSING = (
    f"“{COMMAND}” merges and evaluates a few hundred random combinations, “{AGAIN}” makes the table of what "
    "goes with what"
)
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
    """The bank and its correlations in a folder of tables, either of which may be missing or hold only part of its
    merges.
    """

    def __init__(self, tables: Path) -> None:
        self.path, self.table = tables / "bank_merges.csv", tables / "correlations.csv"
        self.do_merging = DoViews(tables)

    @property
    def available(self) -> bool:
        """True if there is something to show."""
        return self.path.exists() and self.table.exists()

    @cached_property
    def bank(self) -> pd.DataFrame:
        """The merges that have a gap to recover, with `group` (the pool) and `merge` (what it is) for the figures."""
        bank = read_bank(self.path)
        bank = bank[bank[GAP].notna()]
        titles = {name: pool.title for name, pool in POOLS.items()}
        group = pd.Categorical(bank["pool"].map(titles), categories=list(titles.values()))
        return bank.assign(group=group, merge=[_merge(row) for row in bank.itertuples()])

    @cached_property
    def correlations(self) -> pd.DataFrame:
        """The correlations with the gap recovered, as `merging.experiments.correlations` wrote them."""
        table = pd.read_csv(self.table)
        return table[table["outcome"] == GAP].reset_index(drop=True)

    @property
    def diagnostics(self) -> list[tuple[str, str]]:
        """(title, name) of every diagnostic, the strongest correlation first; none without a bank."""
        return [(NAMES[name], name) for name in self.correlations["diagnostic"]] if self.available else []

    @cached_property
    def sentence(self) -> str:
        """Say which diagnostics go with the gap recovered and how far off a forecast would be, or which command
        measures it.
        """
        if not self.available:
            return f"Not measured yet: {MISSING}; the figures then appear here."
        found = statement(self.correlations, forecast_error(self.bank), NAMES)
        return f"{found} Repeat the numbers with “{AGAIN}”."

    def forest(self) -> str:
        """All correlations with their intervals."""
        if not self.available:
            return _missing("correlations")
        row = self.correlations.iloc[0]
        caption = (
            "Rank correlation with the gap that a merge recovers (0: the base, 1: the adapters alone), n = "
            f"{row['merges']} merges of {row['subsets']} task subsets; bars: 95 % intervals over task subsets; in "
            "colour: 0 is excluded. Filled: over all merges, where λ, the method and the number of tasks decide much. "
            "Open: compared only with merges by the same method at the same λ, the number of tasks taken out: what "
            "the diagnostic knows beyond the settings."
        )
        return payload(
            correlation_forest(self.correlations),
            caption,
            self.correlations.drop(columns="outcome"),
            "mergescope_bank_correlations",
        )

    def scatter(self, diagnostic: str) -> str:
        """One diagnostic against the gap recovered, with the paper's claim about it where there is one."""
        if not self.available:
            return _missing(diagnostic)
        row = self.correlations.set_index("diagnostic").loc[diagnostic]
        measured = f"Measured: ρ = {_with_interval(row, 'rho', '')} over all merges"
        if pd.notna(row["within"]):
            measured += f", {_with_interval(row, 'within', 'within_')} at the same method and λ"
        count = f"n = {len(self.bank)} merges of {self.bank['tasks_merged'].nunique()} task subsets"
        caption = (
            f"{TITLES[diagnostic].meaning} A point per merge, {count}; 0: the base, 1: the adapters alone. {measured}."
        )
        if diagnostic in EXPECTED:
            caption += f" {EXPECTED[diagnostic]} {_verdict(row)}"
        table = self.bank[["number", "pool", "tasks_merged", "method", "scaling", diagnostic, GAP]]
        table = table.loc[:, ~table.columns.duplicated()]
        return payload(diagnostic_against_gap(self.bank, diagnostic), caption, table, f"mergescope_bank_{diagnostic}")


def _merge(row: Any) -> str:
    """Name a merge for the hover: method, λ, plug-ins, tasks."""
    names = ["orthogonalize", "decouple", "granularity", "max_up", "renormalise", "mu"]
    names += [] if MergeSpec.of(row.method).scaling is None else ["scaling"]
    spec = MergeSpec.from_dict(
        {"method": row.method} | {name: getattr(row, name) for name in names if pd.notna(getattr(row, name))}
    )
    settings = spec.words()
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
    return nothing(f"Not measured yet: {MISSING}.", f"mergescope_bank_{figure}")
