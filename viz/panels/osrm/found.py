"""What the shipped experiment found: figures from the tables ``osrm_*.csv``, each with the paper's claim and the number
of repetitions.

Any table may be missing or unfinished, since the experiment fills them for hours: what is there is drawn, and of the
rest it is said that it is not measured yet.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import pandas as pd

from merging.training.variants import VARIANTS
from viz.figures.experiment import accuracy_per_variant, averages_per_variant, forest, spread_per_variant
from viz.figures.theme import axis
from viz.panels.kit.plot import payload
from viz.panels.osrm.views import nothing

COMMAND = "mergescope experiment osrm"
TITLES = {name: variant.title for name, variant in VARIANTS.items()}
AXES = {
    "found_tasks": ("tasks", "number of tasks"),
    "found_k": ("k", "texts per task k"),
    "found_rank": ("rank", "rank"),
    "found_epochs": ("epochs", "epochs of one training"),
    "found_frozen": ("freeze_A", "A trained (0) or frozen (1)"),
}
AXIS_CAPTIONS = {
    "tasks": "The first 2, 3 .. tasks of the first repetition; OSRM's A kept away from all of them. The tasks change "
    "from point to point: compare lines, not points. The paper's figure 5 does this for RegMean and EMR.",
    "k": "Other k are other trainings of the first repetition. The paper finds OSRM robust to k.",
    "rank": "α / rank stays the same; gaussian's rows are √n / rank long, so they get shorter as the rank grows.",
    "epochs": "One training of six epochs, merged as it was on the way. Training on may lift the adapters alone and "
    "lower their merge.",
    "freeze_A": "A frozen where it starts holds OSRM's constraint to the end; left to training, A drifts off.",
}
FOUND = ("found_arms", "found_effects", "found_scaling", "found_drift", "found_interference", *AXES)
SIMPLEST, ALONE, BASE = "task_arithmetic", "alone", "base"
BEST, LARGE = "best λ", "λ 1"
SERIES = {ALONE: "adapters alone", BEST: BEST, LARGE: LARGE, "λ 0.3": "λ 0.3"}
"""Where on test, in the order in which a forest plot shows it."""


class Found:
    """The tables of the experiment in a folder; any of them may be missing or unfinished."""

    def __init__(self, tables: Path, methods: Mapping[str, str]) -> None:
        self.tables = tables
        self.titles = {ALONE: SERIES[ALONE], **methods}

    def table(self, name: str, arms: bool = True) -> pd.DataFrame:
        """Return ``osrm_<name>.csv``, of the arms themselves (which are on no axis) or of everything; empty if it is
        not there.
        """
        path = self.tables / f"osrm_{name}.csv"
        if not path.exists():
            return pd.DataFrame()
        table = pd.read_csv(path, dtype={"hits": str})
        if "variant" in table.columns:
            table = table[table["variant"].isin(list(TITLES))]
        return table[table["axis"] == "arm"] if arms and "axis" in table.columns else table

    @cached_property
    def methods(self) -> list[tuple[str, str]]:
        """(title, name) of the methods that were swept."""
        sweep = self.table("sweep")
        return [] if sweep.empty else [(self.titles.get(name, name), name) for name in sweep["method"].unique()]

    @property
    def sentence(self) -> str:
        """Say what was found and run, or which command runs it."""
        runs = self.table("runs")
        if runs.empty:
            return f"Not measured yet: “{COMMAND}” trains and merges every start of A; the figures then appear here."
        answers = self.table("answers")
        found = answers[answers["method"] == SIMPLEST]["answer"].tolist() if len(answers) else []
        done = (
            f"{runs['task'].nunique()} tasks, {runs['variant'].nunique()} of {len(TITLES)} starts of A, {_n(runs)}, "
            f"otherwise equal runs. Repeat them with “{COMMAND}”."
        )
        return " ".join([*found, done])

    def views(self, method: str | None, names: Sequence[str] = FOUND) -> dict[str, str]:
        """Draw figures; those on accuracy for one merging method."""
        drawn: dict[str, Callable[[], str]] = {
            "found_arms": lambda: self.arms(method),
            "found_effects": lambda: self.effects(method),
            "found_scaling": lambda: self.scaling(method),
            "found_drift": self.drift,
            "found_interference": self.interference,
        }
        return {name: self.along(name, method) if name in AXES else drawn[name]() for name in names}

    def arms(self, method: str | None) -> str:
        """Gap recovered by the merge of each arm, at the scalings that papers fix and at the best."""
        summary = self.table("summary")
        mine = summary[(summary["method"] == method) & summary["gap"].notna()] if len(summary) else summary
        if mine.empty:
            return _missing("arms")
        mine = mine.rename(columns={"at": "series"}).sort_values("series", key=lambda at: at.map([*SERIES][::-1].index))
        drawn = mine.assign(value=mine["gap"], low=mine["gap_low"], high=mine["gap_high"])
        caption = (
            f"{self.titles.get(str(method), method)} on test: (merge − base) ÷ (adapters alone − base), the base under "
            "the adapters' heads, mean over the tasks that have a gap; 95 % intervals over test texts and "
            f"repetitions, {_n(mine)}. 0 %: the merge is no better than no adapter, 100 %: as good as each alone."
        )
        figure = averages_per_variant(drawn, TITLES, axis("gap recovered", tickformat=".0%"))
        shown = mine[["variant", "series", "n", "average", "low", "high", "gap", "gap_low", "gap_high"]]
        return payload(figure, caption, shown, f"mergescope_osrm_arms_{method}")

    def effects(self, method: str | None) -> str:
        """Paired differences of the test average, with intervals."""
        effects = self.table("effects")
        mine = effects[effects["method"].isin([method, ALONE])] if len(effects) else effects
        if mine.empty:
            return _missing("effects")
        mine = mine.assign(series=mine["at"].where(mine["method"] != ALONE, ALONE))
        caption = (
            f"{self.titles.get(str(method), method)}, test average, 95 % intervals over test texts and repetitions, "
            f"{_n(mine)}; right of the line the change helps. The first four lines lead from the authors' baseline to "
            "OSRM, one change at a time, and add up to “OSRM against its own baseline” where the same repetitions are "
            "there. At the best λ each arm is at its own."
        )
        return payload(forest(mine, SERIES), caption, mine.drop(columns="series"), f"mergescope_osrm_effects_{method}")

    def scaling(self, method: str | None) -> str:
        """Average accuracy against λ, as the paper's figure 4."""
        curve = _averages(self.table("sweep"), method)
        if curve.empty:
            return _missing("scaling")
        caption = (
            f"{self.titles.get(str(method), method)} on validation, {_n(curve)}. The paper's figure 4 shows Task "
            "Arithmetic and TIES: OSRM is said to be more robust to λ. Dashed: one seed for all tasks, the authors' "
            "baseline."
        )
        if curve["scaling"].nunique() == 1:
            caption = (
                f"{self.titles.get(str(method), method)} has no λ: one point per start of A, on validation, "
                f"{_n(curve)}."
            )
        figure = accuracy_per_variant(curve, "scaling", TITLES, "scaling λ")
        return payload(figure, caption, curve, f"mergescope_osrm_scaling_{method}")

    def along(self, name: str, method: str | None) -> str:
        """Test average along one axis, for the baseline and OSRM, merged with the chosen method or else the
        simplest."""
        column, label = AXES[name]
        summary = self.table("summary", arms=False)
        points = summary[summary["axis"] == column] if len(summary) else summary
        if points.empty:
            return _missing(column)
        shown = str(method) if method in set(points["method"]) - {ALONE, BASE} else SIMPLEST
        points = points[points["method"].isin([shown, ALONE])]
        points = points.assign(series=points["at"].where(points["method"] != ALONE, ALONE))
        points = points[points["series"].isin([BEST, LARGE, ALONE])]
        # the best λ first: it is drawn solid
        points = points.sort_values("series", key=lambda series: series.map([BEST, LARGE, ALONE].index))
        alone = "; dotted: the adapters alone" if (points["series"] == ALONE).any() else ""
        lines = f"Solid: at the best λ of each point; dashed: at λ = 1{alone}."
        caption = f"{self.titles.get(shown, shown)} on test, one repetition. {lines} {AXIS_CAPTIONS[column]}"
        points = points.assign(**{column: points["value"].astype(int)})
        figure = accuracy_per_variant(points, column, TITLES, label, "average accuracy (test)")
        kept = points[["variant", column, "method", "at", "average", "low", "high", "gap"]]
        return payload(figure, caption, kept, f"mergescope_osrm_{column}_{shown}")

    def drift(self) -> str:
        """How far A moved in training, as the paper's figure 3."""
        runs = self.table("runs")
        if runs.empty:
            return _missing("drift")
        runs = runs.assign(run=[f"{row.task}, repetition {row.repetition + 1}" for row in runs.itertuples()])
        lengths = runs.groupby("variant")["row_norm"].mean()
        caption = (
            f"‖A − A₀‖ / ‖A₀‖ of each adapter, {_n(runs)}; squares: up to a rotation of A's rows; bars: means. The "
            f"paper's figure 3 shows the drift of A. Rows start between {lengths.min():.2f} (shortest) and "
            f"{lengths.max():.2f} long, and the same step is a smaller part of a longer row."
        )
        columns = {"drift_frobenius": "as it is", "drift_procrustes": "rotation taken out"}
        figure = spread_per_variant(runs, columns, TITLES, axis("relative drift of A", rangemode="tozero"))
        shown = runs[["variant", "repetition", "task", *columns, "row_norm", "relative_norm"]]
        return payload(figure, caption, shown, "mergescope_osrm_drift")

    def interference(self) -> str:
        """How loud other tasks' updates are on a task's texts."""
        table = self.table("interference")
        if table.empty:
            return _missing("interference")
        pairs = table[table["source"] != table["target"]]
        pairs = pairs.assign(run=[f"{row.source} on {row.target}" for row in pairs.itertuples()])
        caption = (
            "‖ΔWⱼ h‖ / ‖ΔWᵢ h‖ on texts of task i, root mean square, mean over modules; a point per pair, "
            f"{_n(pairs)}; bars: means. 1: a foreign update is as loud as the own one. This is what OSRM sets out to "
            "lower."
        )
        figure = spread_per_variant(pairs, {"ratio": "ratio"}, TITLES, axis("foreign ÷ own update", rangemode="tozero"))
        shown = pairs[["variant", "repetition", "source", "target", "ratio"]]
        return payload(figure, caption, shown, "mergescope_osrm_interference")


def _averages(table: pd.DataFrame, method: str | None) -> pd.DataFrame:
    """Average correct / total over tasks, then over repetitions: `variant`, `scaling`, `average`, `n`; unfinished
    averages are left out.
    """
    if table.empty:
        return table
    mine = table[table["method"] == method]
    mine = mine.assign(accuracy=mine["correct"] / mine["total"])
    keys = ["variant", "repetition", "scaling"]
    per = mine.groupby(keys, sort=False).agg(accuracy=("accuracy", "mean"), tasks=("task", "nunique")).reset_index()
    grouped = per[per["tasks"] == per["tasks"].max()].groupby(["variant", "scaling"], sort=False)
    return grouped.agg(average=("accuracy", "mean"), n=("repetition", "nunique")).reset_index()


def _n(table: pd.DataFrame) -> str:
    """Say how many repetitions there are; for a range, the fewest and the most."""
    if "n" in table.columns:
        least, most = int(table["n"].min()), int(table["n"].max())
    else:
        least = most = int(table["repetition"].nunique())
    return f"n = {most} repetition{'s' if most > 1 else ''}" if least == most else f"n = {least} to {most} repetitions"


def _missing(figure: str) -> str:
    return nothing(f"Not measured yet; “{COMMAND}” does it.", f"mergescope_osrm_{figure}")
