"""What the tables of the DO-Merging experiment say: averages, gaps recovered and paired differences, one frame a
figure.

Nothing is measured here; every number follows from the hits in ``do_*.csv``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ...evaluation.intervals import Interval, Marks, average, difference, gap_recovered
from ..ledger import Ledger
from ..sweep import ALONE, BASE, FIXED, marks_of, unpack
from .bench import best_scaling
from .full import FULL
from .untrained import NOBODY

SCORES = ["average", "low", "high", "gap", "gap_low", "gap_high"]
LAMBDAS = (*(f"{scaling:g}" for scaling in FIXED), "best")
"""The columns of every table: two scalings that papers fix, and the best on validation."""


class Results:
    """The tables in a folder, as far as they are; live, since they may still be growing."""

    def __init__(self, folder: Path) -> None:
        self.ledger = Ledger(folder, "do")
        self._frames: dict[tuple[Any, ...], tuple[tuple[int, ...], pd.DataFrame]] = {}

    def table(self, name: str) -> pd.DataFrame:
        """Return ``do_<name>.csv``; empty if it is not there yet."""
        return self.ledger.table(name)

    @property
    def stamp(self) -> tuple[int, ...]:
        """Something else after every change of any table."""
        return tuple(path.stat().st_mtime_ns for path in sorted(self.ledger.folder.glob("do_*.csv")))

    def has(self, *names: str) -> bool:
        """Tell whether all of these tables have rows."""
        return not any(self.table(name).empty for name in names)

    def ends(self, name: str) -> tuple[Marks, Marks]:
        """Return the marks of (the base, each adapter alone) of a set; empty if they are not measured."""
        mine = self.ledger.rows("ends", set=name)
        return (marks_of(mine, BASE), marks_of(mine, ALONE)) if len(mine) else ({}, {})

    def marks(self, table: str, method: str, scaling: float, **key: Any) -> Marks:
        """Return {task: marks} of one test measurement; empty if there is none."""
        mine = self.ledger.rows(table, **key, method=method, split="test", scaling=scaling)
        return _marks(mine)

    def best(self, table: str, method: str, **key: Any) -> float:
        """Return the scaling that validation prefers; NaN where none was tried."""
        mine = self.ledger.rows(table, **key, method=method)
        return best_scaling(mine) if len(mine) and (mine.split == "validation").any() else math.nan

    def at(self, table: str, method: str, column: str, **key: Any) -> Marks:
        """Return the marks at a column of λ: "0.3", "1" or "best", which is the only one of a method without λ."""
        best = self.best(table, method, **key)
        if math.isnan(best):
            return self.marks(table, method, 1.0, **key) if column == "best" else {}
        return self.marks(table, method, best if column == "best" else float(column), **key)

    def scores(self, table: str, keys: Sequence[str], set_of: Callable[[dict[str, Any]], str]) -> pd.DataFrame:
        """Return a row per test measurement: keys, method, scaling, best (λ is), average and gap with intervals, tasks.

        Parameters
        ----------
        set_of : from the keys to the set whose base and adapters alone the gap lies between
        """
        return self._kept((table, *keys), lambda: self._scores(table, keys, set_of))

    def _scores(self, table: str, keys: Sequence[str], set_of: Callable[[dict[str, Any]], str]) -> pd.DataFrame:
        columns = [*keys, "method", "scaling", "best", *SCORES, "tasks"]
        data = self.table(table)
        if data.empty:
            return pd.DataFrame(columns=columns)
        ends: dict[str, tuple[Marks, Marks]] = {}
        tuned = data[data.split == "validation"]
        bests = {values: best_scaling(group) for values, group in tuned.groupby([*keys, "method"], sort=False)}
        rows = []
        for values, group in data[data.split == "test"].groupby([*keys, "method", "scaling"], sort=False):
            key = dict(zip(keys, values, strict=False))
            method, scaling = str(values[-2]), float(values[-1])
            marks = _marks(group)
            name = set_of(key)
            if name not in ends:
                ends[name] = self.ends(name)
            base, alone = ends[name]
            gap = (math.nan,) * 3
            if method != ALONE and set(marks) <= set(base):
                found = gap_recovered(base, alone, marks)
                gap = (found.mean, found.low, found.high)
            best = bests.get(values[:-1], math.nan)
            is_best = math.isnan(best) or math.isclose(best, scaling)
            rows.append((*key.values(), method, scaling, is_best, *average(marks), *gap, len(marks)))
        return pd.DataFrame(rows, columns=columns)

    # -- a frame per figure --------------------------------------------------------------------------------------------

    def methods(self) -> pd.DataFrame:
        """Figure 1a: set, rank, and scores."""
        return self.scores("methods", ["set", "rank"], lambda key: str(key["set"]))

    def variance(self) -> pd.DataFrame:
        """Figure 1b: source, variance (mean over modules), low, high (extremes), norm_ratio."""
        table = self.table("variance")
        if table.empty:
            return pd.DataFrame(columns=["source", "variance", "low", "high", "norm_ratio"])
        groups = table.groupby("source", sort=False)
        return groups.agg(
            variance=("variance", "mean"),
            low=("variance", "min"),
            high=("variance", "max"),
            norm_ratio=("norm_ratio", "mean"),
        ).reset_index()

    def imbalance(self) -> pd.DataFrame:
        """Figure 1c: pool, scaled, factor, variant, scores, variance, norm_ratio, own (accuracy of the scaled adapter
        alone).
        """
        keys = ["pool", "scaled", "factor"]
        scores = self.scores("imbalance", [*keys, "variant"], lambda key: str(key["pool"]))
        geometry = self.table("imbalance_geometry")
        if scores.empty or geometry.empty:
            return scores.assign(variance=[], norm_ratio=[], own=[])
        own = scores[scores.variant == ALONE][[*keys, "average"]].rename(columns={"average": "own"})
        merged = scores[scores.variant != ALONE].merge(geometry, on=keys)
        return merged.merge(own, on=keys, how="left")

    def changed(self, table: str, keys: Sequence[str]) -> pd.DataFrame:
        """Figures 3a, 3b (``descent``) and 4b (``directions``): keys, scores, cosine, overlap_A, overlap_B, moved."""
        scores = self.scores(table, keys, lambda key: str(key["pool"]))
        geometry = self.table(f"{table}_geometry")
        return scores if scores.empty or geometry.empty else scores.merge(geometry, on=[*keys])

    def descent(self) -> pd.DataFrame:
        """Figures 3a and 3b; the start (0 steps) stands at every penalty."""
        frame = self.changed("descent", ["pool", "penalty", "steps"])
        start = frame[frame.steps == 0] if len(frame) else frame
        rest = frame[frame.steps > 0] if len(frame) else frame
        starts = [
            start[start.pool == pool].assign(penalty=g)
            for pool, g in rest[["pool", "penalty"]].drop_duplicates().to_numpy()
        ]
        return pd.concat([*starts, rest], ignore_index=True) if starts else frame

    def directions(self) -> pd.DataFrame:
        """Figure 4b."""
        return self.changed("directions", ["pool", "side", "strength"])

    def components(self) -> pd.DataFrame:
        """Figure 4a: pool, method, component, λ ("0.3", "1", "best"), gap, accuracy, and the gain over "none": gain,
        low, high.
        """
        return self._kept(("components",), self._components)

    def _components(self) -> pd.DataFrame:
        table, rows = self.table("components"), []
        for (pool, method), mine in table.groupby(["pool", "method"], sort=False) if len(table) else ():
            base, alone = self.ends(str(pool))
            found = {str(name): self._at_lambdas(group) for name, group in mine.groupby("component", sort=False)}
            for component, columns in found.items():
                for column, marks in columns.items():
                    none = found.get("none", {}).get(column, {})
                    if set(marks) != set(none):
                        continue
                    gap = gap_recovered(base, alone, marks).mean if base else math.nan
                    gain: Interval = (0.0, 0.0, 0.0) if component == "none" else difference(marks, none)
                    rows.append((pool, method, component, column, gap, mean_of(marks), *gain))
        return pd.DataFrame(
            rows, columns=["pool", "method", "component", "λ", "gap", "accuracy", "gain", "low", "high"]
        )

    def _at_lambdas(self, rows: pd.DataFrame) -> dict[str, Marks]:
        """Return {column of λ: marks} of one method's rows; only "best" for a method without λ."""
        tests = {float(scaling): _marks(group) for scaling, group in rows[rows.split == "test"].groupby("scaling")}
        if not (rows.split == "validation").any():
            return {"best": tests[1.0]} if 1.0 in tests else {}
        wanted = {column: float(column) for column in LAMBDAS[:2]} | {"best": best_scaling(rows)}
        near = {
            column: [marks for at, marks in tests.items() if math.isclose(at, scaling)]
            for column, scaling in wanted.items()
        }
        return {column: marks[0] for column, marks in near.items() if marks}

    def _kept(self, key: tuple[Any, ...], make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        """Return a frame, made anew only after a table has changed: verdict and figure ask for the same one."""
        stamp = self.stamp
        if key not in self._frames or self._frames[key][0] != stamp:
            self._frames[key] = stamp, make()
        return self._frames[key][1]

    def ranks(self, pool: str) -> pd.DataFrame:
        """Figure 4c: rank, scores, alone, base."""
        return self._sets("ranks", "rank", lambda rank: f"rank-{rank}" if self._measured(f"rank-{rank}") else pool)

    def epochs(self) -> pd.DataFrame:
        """Accuracy against the epochs before the merge: epochs, scores, alone, base."""
        return self._sets("epochs", "epochs", lambda epochs: f"epochs-{epochs}")

    def truncation(self) -> pd.DataFrame:
        """Figure 5: rank (0 = as trained), scores, energy (share kept); the rows "alone" are of the truncated ones."""
        cut = self.scores("truncation", ["rank"], lambda key: FULL)
        whole = self.methods()
        whole = whole[(whole["set"] == FULL) & (whole["rank"] == 0) & (whole.method == "task_arithmetic")].drop(
            columns="set"
        )
        alone = self.ends(FULL)[1]
        if alone:
            row = {"rank": 0, "method": ALONE, "scaling": 0.0, "best": True, "tasks": len(alone)}
            whole = pd.concat(
                [whole, pd.DataFrame([row | dict(zip(SCORES, (*average(alone), *[math.nan] * 3), strict=True))])]
            )
        kept = self.table("truncation_energy")
        energy = {0: 1.0} | ({} if kept.empty else kept.groupby("rank").energy.mean().to_dict())
        frame = (
            pd.concat([part for part in (cut, whole) if len(part)], ignore_index=True)
            if len(cut) or len(whole)
            else cut
        )
        return frame.assign(energy=[energy.get(rank, math.nan) for rank in frame["rank"]])

    def _measured(self, name: str) -> bool:
        return not self.ledger.lacks("ends", set=name)

    def _sets(self, table: str, key: str, set_of: Callable[[int], str]) -> pd.DataFrame:
        frame = self.scores(table, [key], lambda values: set_of(int(values[key])))
        ends = {value: self.ends(set_of(int(value))) for value in frame[key].unique()}
        means = {value: [mean_of(marks) for marks in pair] for value, pair in ends.items()}
        return frame.assign(base=[means[v][0] for v in frame[key]], alone=[means[v][1] for v in frame[key]])


def mean_of(marks: Marks) -> float:
    """Return the mean over tasks of the mean over rows; NaN without any."""
    return float(np.mean([values.mean() for values in marks.values()])) if marks else math.nan


def _marks(rows: pd.DataFrame) -> Marks:
    return {
        str(task): unpack(hits, int(total)) for task, hits, total in zip(rows.task, rows.hits, rows.total, strict=True)
    }


def spearman(x: Sequence[float], y: Sequence[float]) -> float:
    """Return the rank correlation; NaN for fewer than three points or where one side does not vary."""
    if len(x) < 3 or len(set(x)) < 2 or len(set(y)) < 2:
        return math.nan
    return float(np.corrcoef(pd.Series(x).rank(), pd.Series(y).rank())[0, 1])


def one_scaled(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of figure 1c whose sets differ in one adapter's size alone, and the set that they come from."""
    pools = frame[frame.scaled != NOBODY].pool.unique()
    return frame[frame.pool.isin(pools)]


def at_column(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return the rows of a scores frame at a column of λ: "0.3", "1" or "best"."""
    if column == "best":
        return frame[frame.best.astype(bool)]
    return frame[np.isclose(frame.scaling.astype(float), float(column))]
