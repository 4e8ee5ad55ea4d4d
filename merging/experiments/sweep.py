"""Sweeps: a method's accuracy against its scaling on validation; on test at 0.3, at 1 and at the scaling that
validation prefers.

Papers fix the scaling, users do not: so each table has the three. The bare base under the tasks' heads and each adapter
alone are measured on the same rows, since a merge is judged by how much of the gap between them it recovers.

Tables are long (a row per method, scaling and task, with counts and the hits themselves), so that every average,
interval and paired difference can be computed again from the shipped files.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from ..adapters.adapter import Adapter
from ..engine import merge_spec
from ..evaluation.accuracy import Z95, EncodedTask, hits, own_head
from ..evaluation.intervals import Marks, Values
from ..features.moments import Features
from ..merged import Merged
from ..methods import METHODS
from ..recipes.spec import MergeSpec

BASE, ALONE = "base", "alone"
"""What stands in the column method for the bare base under the tasks' heads, and for each adapter on its own task."""
FIXED = (0.3, 1.0)
"""Scalings that papers fix; every method is tested at them and at its best on validation."""
SCALINGS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0, 1.5)
COLUMNS = ["method", "scaling", "task", "correct", "total", "hits"]


@dataclass(frozen=True)
class Contender:
    """What a sweep compares: a method, perhaps with a plug-in in front.

    Attributes
    ----------
    plugins : keyword arguments of `merging.merge`
    needs : see `merging.methods.base.Method`
    """

    title: str
    method: str
    plugins: Mapping[str, Any] = field(default_factory=dict)
    needs: frozenset[str] = frozenset()

    @property
    def scaled(self) -> bool:
        """True if it has a scaling to tune."""
        return any(param.name == "scaling" for param in METHODS[self.method].params)

    def merge(self, adapters: Sequence[Adapter], scaling: float, features: Features | None = None) -> Merged:
        """Merge at one scaling, everything else at the defaults."""
        return merge_spec(adapters, self.spec(scaling), features)

    def spec(self, scaling: float) -> MergeSpec:
        """Return the merge at one scaling, everything else at the defaults."""
        return MergeSpec.of(self.method, {"scaling": scaling} if self.scaled else {}, **self.plugins)


CONTENDERS = {name: Contender(method.title, name, needs=method.needs) for name, method in METHODS.items()} | {
    "orthogonalize": Contender("Task Arithmetic + orthogonalize", "task_arithmetic", {"orthogonalize": "balanced"}),
    "pico": Contender("Task Arithmetic + Pico", "task_arithmetic", {"pico": True}),
    "norm_cap": Contender("Task Arithmetic + norm cap", "task_arithmetic", {"norm_cap": 3.0}),
    "decouple": Contender("Task Arithmetic + decouple", "task_arithmetic", {"decouple": 1.0}),
    "soft_osrm": Contender(
        "Task Arithmetic + soft OSRM (μ 0.3)", "task_arithmetic", {"soft_osrm": 0.3}, frozenset({"data"})
    ),
}
"""Every method as it is, and each plug-in in front of the simplest one."""
MAIN = (
    "task_arithmetic",
    "do_merging",
    "orthogonalize",
    "decouple",
    "soft_osrm",
    "average",
    "ties",
    "knots",
    "tsv",
    "regmean",
    "emr",
)
"""What every pool is measured with; the rest only where it is asked for."""


def grid(method: str, scalings: Sequence[float] = SCALINGS) -> Sequence[float]:
    """Return the scalings to try: one dummy value for a method that has none."""
    return scalings if CONTENDERS[method].scaled else (1.0,)


def measure(
    model: nn.Module,
    tokenizer: Any,
    subject: Merged | Adapter | None,
    tasks: Sequence[EncodedTask],
    bf16: bool = False,
    heads: Mapping[str, Any] | None = None,
) -> dict[str, str]:
    """Return {task: one character per row, 1 = right}.

    Parameters
    ----------
    bf16 : autocast to bfloat16, twice as fast on processors that have it; about one row in 300 comes out otherwise
    heads : see `merging.evaluation.accuracy.evaluate`
    """
    right = {task.name: ["0"] * len(task.encoded) for task in tasks}
    device = next(model.parameters()).device.type
    with torch.autocast(device, torch.bfloat16, enabled=bf16):
        for batch in hits(model, tokenizer, subject, tasks, heads=heads):
            for row, hit in zip(batch.rows, batch.right.tolist(), strict=True):
                right[batch.task][row] = "1" if hit else "0"
    return {task: "".join(marks) for task, marks in right.items()}


def measure_ends(
    model: nn.Module, tokenizer: Any, adapters: Sequence[Adapter], tasks: Sequence[EncodedTask], bf16: bool = False
) -> Iterator[pd.DataFrame]:
    """Yield the rows of the base under the adapters' heads, then those of each adapter alone: what a merge lies
    between.
    """
    heads = {adapter.task: own_head(adapter) for adapter in adapters}
    yield as_rows(measure(model, tokenizer, None, tasks, bf16, heads), BASE, 0.0)
    alone: dict[str, str] = {}
    for task in tasks:
        adapter = next(adapter for adapter in adapters if adapter.task == task.name)
        alone |= measure(model, tokenizer, adapter, [task], bf16)
    yield as_rows(alone, ALONE, 0.0)


def sweep(
    model: nn.Module,
    tokenizer: Any,
    adapters: Sequence[Adapter],
    tasks: Sequence[EncodedTask],
    points: Iterable[tuple[str, float]],
    features: Features | None = None,
    bf16: bool = False,
) -> Iterator[pd.DataFrame]:
    """Yield the rows of one (method, scaling) after the other; close the generator to stop."""
    for method, scaling in points:
        marks = measure(model, tokenizer, CONTENDERS[method].merge(adapters, scaling, features), tasks, bf16)
        yield as_rows(marks, method, scaling)


def as_rows(marks: Mapping[str, str], method: str, scaling: float) -> pd.DataFrame:
    """Return what `measure` found as rows of a table."""
    rows = [(method, scaling, task, m.count("1"), len(m), pack(m)) for task, m in marks.items()]
    return pd.DataFrame(rows, columns=COLUMNS)


def averages(table: pd.DataFrame) -> pd.DataFrame:
    """Return the mean over tasks per (method, scaling): method, scaling, average, low, high, worst_task, worst.

    The interval is the normal one for a mean of independent proportions (95 %).
    """
    rows = []
    for (method, scaling), group in table.groupby(["method", "scaling"], sort=False):
        p = group.correct / group.total
        half = Z95 * math.sqrt(float((p * (1 - p) / group.total).sum())) / len(group)
        worst = p.idxmin()
        rows.append((method, scaling, p.mean(), p.mean() - half, p.mean() + half, group.task[worst], p[worst]))
    return pd.DataFrame(rows, columns=["method", "scaling", "average", "low", "high", "worst_task", "worst"])


def best_scalings(table: pd.DataFrame) -> dict[str, float]:
    """Return {method: the scaling with the best validation average}; the smaller one where two are equal."""
    ranked = averages(table[table.method.isin(CONTENDERS)]).sort_values(["average", "scaling"], ascending=[False, True])
    return {str(row.method): float(row.scaling) for row in ranked.drop_duplicates("method").itertuples()}


def scalings_on_test(method: str, best: float) -> tuple[float, ...]:
    """Return the scalings at which a method is tested: those that papers fix, and its best."""
    return tuple(dict.fromkeys((*FIXED, best))) if CONTENDERS[method].scaled else (1.0,)


def marks_of(table: pd.DataFrame, method: str, scaling: float = 0.0, rows: int | None = None) -> Marks:
    """Return {task: marks (rows,)} of one (method, scaling) of a table that holds hits; the first ``rows`` of them."""
    mine = table[(table.method == method) & np.isclose(table.scaling, scaling)]
    return {str(row.task): unpack(row.hits, row.total)[:rows] for row in mine.itertuples()}


def pack(marks: str) -> str:
    """Return a string of 0 and 1 as hexadecimal digits, the last digit filled up with zeros."""
    return "".join(f"{int(marks[i : i + 4].ljust(4, '0'), 2):x}" for i in range(0, len(marks), 4))


def unpack(packed: str, total: int) -> Values:
    """Return the first ``total`` marks of a packed string as 0.0 and 1.0."""
    bits = "".join(f"{int(digit, 16):04b}" for digit in packed)
    return np.array([float(bit) for bit in bits[:total]])


def unpacked(row: Any) -> str:
    """Return the marks of a table's row as a character per test row, 1 = right: what `pack` was given."""
    return "".join("1" if mark else "0" for mark in unpack(row.hits, row.total))


def read_table(path: Path) -> pd.DataFrame:
    """Return a shipped table, or an empty one if it is not there yet."""
    return pd.read_csv(path, dtype={"hits": str}) if path.exists() else pd.DataFrame(columns=COLUMNS)


def append(path: Path, rows: pd.DataFrame) -> None:
    """Add rows to a table on disk; it is whole after every call."""
    path.parent.mkdir(parents=True, exist_ok=True)
    old = read_table(path)
    temporary = path.with_suffix(".tmp")
    (rows if old.empty else pd.concat([old, rows])).to_csv(temporary, index=False)
    temporary.replace(path)


def missing_points(
    table: pd.DataFrame, methods: Sequence[str], scalings: Sequence[float] = SCALINGS
) -> list[tuple[str, float]]:
    """Return the (method, scaling) that ``table`` lacks: the grid, then what extends it where the best value is at its
    edge.
    """
    measured = averages(table[table.method.isin(methods)])
    missing = []
    for method in methods:
        mine = measured[measured.method == method]
        wanted = [s for s in grid(method, scalings) if not np.isclose(mine.scaling.to_numpy(float), s).any()]
        missing += [(method, s) for s in wanted or beyond_edge(mine)]
    return missing


def beyond_edge(measured: pd.DataFrame) -> list[float]:
    """Return the next scaling to try if the best of one method's so far is its smallest (half of it) or largest (twice
    it).

    At most two steps each way: what wants a λ near 0 wants no merge at all.
    """
    if len(measured) < 2:
        return []
    best = float(measured.sort_values(["average", "scaling"], ascending=[False, True]).scaling.iloc[0])
    if best == measured.scaling.min() and best > SCALINGS[0] / 4 * 1.01:
        return [best / 2]
    if best == measured.scaling.max() and best < SCALINGS[-1] * 4 * 0.99:
        return [best * 2]
    return []
