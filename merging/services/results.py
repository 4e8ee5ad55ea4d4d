"""What the shipped tables say of a pool: its references, its tuned scalings, accuracies that were measured before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..evaluation.accuracy import Estimate, estimate
from ..evaluation.intervals import Recovered, gap_recovered
from ..experiments.sweep import ALONE, BASE, CONTENDERS, averages, best_scalings, marks_of, read_table, unpacked
from ..features.progress import Progress
from ..methods import METHODS
from ..recipes.spec import PLAIN, MergeSpec
from .pools import Pools
from .remembered import Remembered
from .settings import Settings

Stream = Callable[[dict[str, Any], int], Iterator[Progress | Estimate]]
"""As `Workbench.evaluate`, on plain values."""
FALLBACK_SCALING = 0.5


class Results(Pools):
    """Pools with what was measured of them before."""

    def __init__(self, root: Path | None = None) -> None:
        super().__init__(root)
        self.references = self._per_pool(self._references)
        self.sweep = self._per_pool(self._sweep)
        self.defaults = self._per_pool(self._defaults, 1024)
        self._known_tests = self._per_pool(self._tests)
        self.remembered = Remembered()

    def _references(self, pool: str) -> pd.DataFrame:
        table = self._known_tests(pool)
        base, alone = ({r.task: unpacked(r) for r in table[table.method == end].itertuples()} for end in (BASE, ALONE))
        rows: list[tuple[Any, ...]] = []
        for adapter in self.adapters(pool):
            nan, own = float("nan"), adapter.metadata.test_marks
            marks = base.get(adapter.task, own.get("base", "")), alone.get(adapter.task, own.get("adapter", ""))
            measured = dict.fromkeys(("base", "adapter"), nan)
            if self.measured(pool):
                measured = adapter.metadata.test_accuracy
            count = adapter.metadata.rows.test if self.measured(pool) else 0
            rows.append((adapter.task, measured["base"], measured["adapter"], count, *marks))
        return pd.DataFrame(rows, columns=["task", "base", "single", "rows", "base_marks", "single_marks"])

    def _tests(self, pool: str) -> pd.DataFrame:
        """Return the shipped test results of a pool; empty for one that does not ship."""
        return read_table(self.tables / f"test_{pool}.csv")

    def shipped(self, settings: Settings, limit: int) -> list[Estimate]:
        """Return a merge's accuracy from the shipped test results, if it is in them with enough rows; else nothing."""
        point = _contender(settings.spec.canonical())
        if point is None or settings.pool not in self.pools:
            return []
        table = self._known_tests(settings.pool)
        table = table[(table.method == point[0]) & np.isclose(table.scaling, point[1])]
        marks = {str(row.task): unpacked(row) for row in table.itertuples()}
        sizes = {row.task: row.rows for row in self.references(settings.pool).itertuples()}
        if set(marks) != set(sizes) or any(len(marks[task]) < min(limit, rows) for task, rows in sizes.items()):
            return []
        return [estimate(task, marks[task][:limit]) for task in sizes]

    def known(self, settings: Settings, limit: int) -> list[Estimate]:
        """Return a merge's accuracy where it ships, or anybody has measured it since the start; else nothing."""
        return self.shipped(settings, limit) or self.remembered.of(settings, limit)

    def remembering(self, stream: Stream) -> Stream:
        """Return an evaluation whose results, on shipped pools, are known to everybody afterwards."""

        def evaluated(settings: dict[str, Any], limit: int) -> Iterator[Progress | Estimate]:
            found: dict[str, Estimate] = {}
            with closing(stream(settings, limit)) as steps:  # type: ignore[type-var]
                for step in steps:
                    if isinstance(step, Estimate):
                        found[step.task] = step
                    yield step
            merge = Settings.from_dict(settings)
            if merge.pool in self.pools and set(found) == set(self.tasks(merge.pool)):
                self.remembered.take(merge, limit, found.values())

        return evaluated

    def hardness(self, pool: str) -> Recovered | None:
        """Return the gap that a plain sum (Task Arithmetic) recovers on test at its best λ; None where it was not
        measured.
        """
        test, validation = self._known_tests(pool), read_table(self.tables / f"sweep_{pool}.csv")
        best = best_scalings(validation).get(PLAIN)
        mine = marks_of(test, PLAIN, best) if best is not None and len(test) else {}
        if not mine:
            return None
        rows = max(len(values) for values in mine.values())
        return gap_recovered(marks_of(test, BASE, rows=rows), marks_of(test, ALONE, rows=rows), mine)

    def _sweep(self, pool: str) -> pd.DataFrame:
        """Return the shipped validation sweep: method, scaling, average, low, high; base and adapters alone are methods
        in it.
        """
        measured = averages(read_table(self.tables / f"sweep_{pool}.csv"))
        return measured[measured.method.isin([*METHODS, BASE, ALONE])]

    def _defaults(self, pool: str, method: str) -> MergeSpec:
        """Return the merge that the app starts a method from: the scaling tuned on validation, else a moderate one."""
        spec = MergeSpec.of(method)
        # None ("as PEFT does") has no place on a slider: show what it means for this pool
        largest = max(update.rank for adapter in self.adapters(pool) for update in adapter.deltas.values())
        params = {name: largest if value is None else value for name, value in spec.params}
        if "scaling" in params:
            params["scaling"] = best_scalings(read_table(self.tables / f"sweep_{pool}.csv")).get(
                method, FALLBACK_SCALING
            )
        return spec.with_params(**params)


def _contender(spec: MergeSpec) -> tuple[str, float] | None:
    """Return (name in `merging.experiments.sweep.CONTENDERS`, scaling) of a merge that is one of them; None for any
    other.
    """
    scaling = 1.0 if spec.scaling is None else spec.scaling
    for name, contender in CONTENDERS.items():
        if contender.method == spec.method and contender.spec(scaling).canonical() == spec:
            return name, scaling
    return None
