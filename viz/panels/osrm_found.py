"""What the shipped experiment found: figures from the tables ``osrm_*.csv``, each with the paper's claim and the number of repetitions."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import pandas as pd

from viz.figures.experiment import accuracy_per_variant, forest, spread_per_variant
from viz.figures.theme import axis
from viz.panels.component import payload
from viz.panels.osrm_services import VARIANTS
from viz.panels.osrm_views import nothing

COMMAND = "mergescope experiment osrm"
TITLES = {name: variant.title for name, variant in VARIANTS.items()}
FOUND = ("found_scaling", "found_tasks", "found_effects", "found_drift", "found_interference")
SINGLE = "single-task"


class Found:
    """The tables of the experiment in a folder; any of them may be missing or unfinished."""

    def __init__(self, tables: Path, methods: Mapping[str, str]) -> None:
        self.tables = tables
        self.titles = {SINGLE: "adapters alone", **methods}

    def table(self, name: str) -> pd.DataFrame:
        """Return ``osrm_<name>.csv``, of the six initialisations at the common learning rate; empty if it is not there."""
        path = self.tables / f"osrm_{name}.csv"
        if not path.exists():
            return pd.DataFrame()
        table = pd.read_csv(path, dtype={"hits": str})
        return table[table["variant"].isin(list(TITLES))]

    @cached_property
    def methods(self) -> list[tuple[str, str]]:
        """(title, name) of the methods that were swept."""
        sweep = self.table("sweep")
        return [] if sweep.empty else [(self.titles.get(name, name), name) for name in sweep["method"].unique()]

    @property
    def sentence(self) -> str:
        """Say what was run, or which command runs it."""
        runs = self.table("runs")
        if runs.empty:
            return f"There are no results yet: run “{COMMAND}” to train and merge every initialisation; the figures then appear here."
        return (
            f"{runs['task'].nunique()} tasks, {runs['variant'].nunique()} initialisations, {_n(runs)}, otherwise equal runs. "
            f"Repeat them with “{COMMAND}”."
        )

    def views(self, method: str | None) -> dict[str, str]:
        """Draw all figures; those on accuracy for one merging method."""
        return {
            "found_scaling": self.scaling(method),
            "found_tasks": self.counts(method),
            "found_effects": self.effects(),
            "found_drift": self.drift(),
            "found_interference": self.interference(),
        }

    def scaling(self, method: str | None) -> str:
        """Average accuracy against λ, as the paper's figure 4."""
        curve = _averages(self.table("sweep"), method, "scaling")
        if curve.empty:
            return _missing("scaling")
        caption = (
            f"{self.titles.get(str(method), method)} on validation, {_n(curve)}. The paper's figure 4 shows Task Arithmetic and TIES: OSRM is "
            "said to be more robust to λ. Dashed: one seed for all tasks, the usual baseline."
        )
        if curve["scaling"].nunique() == 1:
            caption = (
                f"{self.titles.get(str(method), method)} has no λ: one point per initialisation, on validation, {_n(curve)}."
            )
        figure = accuracy_per_variant(curve, "scaling", TITLES, "scaling λ")
        return payload(figure, caption, curve, f"mergescope_osrm_scaling_{method}")

    def counts(self, method: str | None) -> str:
        """Average accuracy against the number of tasks merged, as the paper's figure 5."""
        curve = _averages(self.table("tasks"), method, "count")
        if curve.empty:
            return _missing("tasks")
        caption = (
            f"{self.titles.get(str(method), method)}, the first 2, 3 .. tasks, at the λ that is best for all, on validation, {_n(curve)}. "
            "The tasks change from point to point: compare lines, not points. The paper's figure 5 does this for RegMean and EMR."
        )
        figure = accuracy_per_variant(curve, "count", TITLES, "number of tasks")
        return payload(figure, caption, curve, f"mergescope_osrm_tasks_{method}")

    def effects(self) -> str:
        """Paired differences of the test average, with intervals."""
        effects = self.table("effects")
        if effects.empty:
            return _missing("effects")
        caption = (
            f"Test average, 95 % intervals over test texts, {_n(effects)}; right of the line the change helps. The paper compares OSRM with "
            "the usual baseline only, which mixes two changes: the subspace, and an own A for every task. Here each line "
            "changes one thing, but for the two against the usual baseline."
        )
        return payload(forest(effects, self.titles), caption, effects, "mergescope_osrm_effects")

    def drift(self) -> str:
        """How far A moved in training, as the paper's figure 3."""
        runs = self.table("runs")
        if runs.empty:
            return _missing("drift")
        runs = runs.assign(run=[f"{row.task}, repetition {row.repetition + 1}" for row in runs.itertuples()])
        caption = (
            f"‖A − A₀‖ / ‖A₀‖ of each adapter, {_n(runs)}; squares: up to a rotation of A's rows; bars: means. The paper's figure 3 shows the "
            "drift of OSRM's A. PEFT's rows have length 0.58, orthonormal ones 1, so the same step is a smaller part of them."
        )
        columns = {"drift_frobenius": "as it is", "drift_procrustes": "rotation taken out"}
        figure = spread_per_variant(runs, columns, TITLES, axis("relative drift of A", rangemode="tozero"))
        return payload(figure, caption, runs[["variant", "repetition", "task", *columns]], "mergescope_osrm_drift")

    def interference(self) -> str:
        """How loud other tasks' updates are on a task's texts."""
        table = self.table("interference")
        if table.empty:
            return _missing("interference")
        pairs = table[table["source"] != table["target"]]
        pairs = pairs.assign(run=[f"{row.source} on {row.target}" for row in pairs.itertuples()])
        caption = (
            f"‖ΔWⱼ h‖ / ‖ΔWᵢ h‖ on texts of task i, root mean square, mean over modules; a point per pair, {_n(pairs)}; bars: means. 1: a "
            "foreign update is as loud as the own one. This is what OSRM sets out to lower."
        )
        figure = spread_per_variant(pairs, {"ratio": "ratio"}, TITLES, axis("foreign ÷ own update", rangemode="tozero"))
        shown = pairs[["variant", "repetition", "source", "target", "ratio"]]
        return payload(figure, caption, shown, "mergescope_osrm_interference")


def _averages(table: pd.DataFrame, method: str | None, x: str) -> pd.DataFrame:
    """Average correct / total over tasks, then over repetitions: `variant`, x, `average`, `n`; unfinished averages are left out."""
    if table.empty:
        return table
    mine = table[table["method"] == method]
    mine = mine.assign(accuracy=mine["correct"] / mine["total"])
    keys = ["variant", "repetition", x]
    per = mine.groupby(keys, sort=False).agg(accuracy=("accuracy", "mean"), tasks=("task", "nunique")).reset_index()
    wanted = per["count"] if x == "count" else per["tasks"].max()
    grouped = per[per["tasks"] == wanted].groupby(["variant", x], sort=False)
    return grouped.agg(average=("accuracy", "mean"), n=("repetition", "nunique")).reset_index()


def _n(table: pd.DataFrame) -> str:
    """Say how many repetitions there are; for a range, the fewest and the most."""
    if "n" in table.columns:
        least, most = int(table["n"].min()), int(table["n"].max())
    else:
        least = most = int(table["repetition"].nunique())
    return f"n = {most} repetition{'s' if most > 1 else ''}" if least == most else f"n = {least} to {most} repetitions"


def _missing(figure: str) -> str:
    return nothing(f"Not computed yet: “{COMMAND}” makes the table.", f"mergescope_osrm_{figure}")
