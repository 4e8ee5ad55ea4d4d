"""What the pieces share: pools, encoded rows, units of work that processes can share, and tables that are never
measured twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from ...adapters.adapter import METADATA_FILE, Adapter
from ...engine import merge
from ...evaluation.accuracy import EncodedTask, encode_task, own_head
from ...features.moments import Features
from ...io.assets import assets_folder
from ...merged import Merged
from ...methods import METHODS
from ...shipped import collect_for_osrm, load_pool
from ...tasks.task import Task
from ..ledger import Ledger
from ..sweep import ALONE, FIXED, as_rows, averages, measure, measure_ends
from .plan import Plan

Key = Mapping[str, Any]
Lines = Iterator[str]


@dataclass(frozen=True)
class Unit:
    """A piece of work that one process does at a time.

    Attributes
    ----------
    name : what processes claim
    work : does it, a line per step; what is in the tables already is not done again
    done : nothing of it is missing
    ready : what it needs is there
    """

    name: str
    work: Callable[[], Lines]
    done: Callable[[], bool]
    ready: Callable[[], bool] = field(default=lambda: True)


@dataclass(frozen=True, eq=False)
class Subject:
    """Adapters to merge, and how: a method, its plug-ins.

    Attributes
    ----------
    once : merge at λ = 1 only and scale what comes out: for low-rank results linear in λ that take long to make
    """

    adapters: Callable[[], Sequence[Adapter]]
    method: str
    plugins: Mapping[str, Any] = field(default_factory=dict)
    once: bool = False

    @property
    def scaled(self) -> bool:
        """True if the method has a scaling."""
        return any(param.name == "scaling" for param in METHODS[self.method].params)


class Bench:
    """One base model, the pools and the tables; see `merging.experiments.do.DoExperiment`."""

    def __init__(
        self, model: nn.Module, tokenizer: Any, plan: Plan, ledger: Ledger, adapters: Path, pools: Path | None = None
    ) -> None:
        self.model, self.tokenizer, self.plan, self.ledger = model, tokenizer, plan, ledger
        self.adapters, self.pools = adapters, pools or assets_folder() / "adapters"
        # per bench, not per class: the caches go with it
        self.pool = cache(self._pool)
        self.encoded = cache(self._encoded)
        self.features = cache(self._features)
        self._whole = cache(lambda subject: self._merged(subject, 1.0).to_adapter())

    # -- adapters ------------------------------------------------------------------------------------------------------

    def _pool(self, name: str) -> list[Adapter]:
        return [adapter for adapter in load_pool(name, self.pools) if adapter.task in self.plan.tasks]

    def lacking(self, pool: str) -> list[str]:
        """Return the tasks that a shipped pool has no adapter of."""
        return [task for task in self.plan.tasks if not (self.pools / pool / task / METADATA_FILE).exists()]

    @property
    def whole_pools(self) -> list[str]:
        """The pools that have every task."""
        return [pool for pool in self.plan.shipped if not self.lacking(pool)]

    def folder(self, name: str, task: str) -> Path:
        """Return where an adapter trained here is kept."""
        return self.adapters / name / task

    def has(self, name: str) -> bool:
        """Tell whether every adapter of a set that is trained here is there."""
        return all((self.folder(name, task) / METADATA_FILE).exists() for task in self.plan.tasks)

    def made(self, name: str) -> list[Adapter]:
        """Return a set that was trained here."""
        return [Adapter.load(self.folder(name, task)) for task in self.plan.tasks]

    # -- measuring -----------------------------------------------------------------------------------------------------

    def _encoded(self, task: str, split: str) -> EncodedTask:
        limit = self.plan.test_rows if split == "test" else self.plan.validation_rows
        return encode_task(self.tokenizer, Task.load(task), split, limit)

    def _features(self) -> Features:
        return collect_for_osrm(self.model, self.tokenizer, self.plan.tasks, self.plan.training)

    def rows_of(self, adapters: Sequence[Adapter], split: str = "test") -> list[EncodedTask]:
        """Return a split of each adapter's task."""
        return [self.encoded(adapter.task, split) for adapter in adapters]

    def ends(self, name: str, adapters: Callable[[], Sequence[Adapter]]) -> Lines:
        """Measure what every merge of a set lies between, once: the base under its heads and each adapter alone."""
        if self.ledger.lacks("ends", set=name):
            own = adapters()
            tables = list(measure_ends(self.model, self.tokenizer, own, self.rows_of(own), bf16=True))
            self.ledger.append("ends", pd.concat(tables).assign(set=name))
            yield f"{name}: base {averages(tables[0]).average[0]:.3f}, each alone {averages(tables[1]).average[0]:.3f}"

    def alone(self, table: str, adapters: Callable[[], Sequence[Adapter]], key: Key) -> Lines:
        """Measure each adapter on its own task."""
        if self.ledger.lacks(table, **key, method=ALONE):
            marks: dict[str, str] = {}
            for adapter in adapters():
                marks |= measure(self.model, self.tokenizer, adapter, self.rows_of([adapter]), bf16=True)
            yield self.note(table, marks, ALONE, 0.0, "test", key)

    def tested(
        self, table: str, subject: Subject, key: Key, scalings: Sequence[float] = FIXED, split: str = "test"
    ) -> Lines:
        """Measure a merge at the given scalings."""
        for scaling in scalings:
            if self.ledger.lacks(table, **key, method=subject.method, split=split, scaling=scaling):
                marks = self.marks(subject, scaling, split)
                yield self.note(table, marks, subject.method, scaling, split, key)

    def marks(self, subject: Subject, scaling: float, split: str) -> dict[str, str]:
        """Return {task: one character per row, 1 = right} of a merge at one scaling."""
        adapters = subject.adapters()
        heads = {adapter.task: own_head(adapter) for adapter in adapters}
        merged: Merged | Adapter
        if subject.once:
            whole = self._whole(subject)
            merged = replace(whole, deltas={module: update * scaling for module, update in whole.deltas.items()})
        else:
            merged = self._merged(subject, scaling)
        return measure(self.model, self.tokenizer, merged, self.rows_of(adapters, split), bf16=True, heads=heads)

    def swept(self, table: str, subject: Subject, key: Key) -> Lines:
        """Find the best scaling on validation; test there and where papers fix it."""
        if not subject.scaled:
            yield from self.tested(table, subject, key, (1.0,))
            return
        yield from self.tested(table, subject, key, self.plan.scalings, "validation")
        best = best_scaling(self.ledger.rows(table, **key, method=subject.method))
        yield from self.tested(table, subject, key, tuple(dict.fromkeys((*FIXED, best))))

    def is_swept(self, table: str, subject: Subject, key: Key) -> bool:
        """Tell whether `swept` has nothing left to do."""
        mine = self.ledger.rows(table, **key, method=subject.method)
        if mine.empty:
            return False
        validation = {round(float(s), 6) for s in mine[mine.split == "validation"].scaling}
        tested = {round(float(s), 6) for s in mine[mine.split == "test"].scaling}
        if not subject.scaled:
            return 1.0 in tested
        return {round(s, 6) for s in self.plan.scalings} <= validation and {
            *FIXED,
            round(best_scaling(mine), 6),
        } <= tested

    def is_tested(self, table: str, methods: Sequence[str], key: Key, scalings: Sequence[float] = FIXED) -> bool:
        """Tell whether every method is tested at every scaling."""
        return not any(
            self.ledger.lacks(table, **key, method=m, split="test", scaling=s) for m in methods for s in scalings
        )

    def note(self, table: str, marks: Mapping[str, str], method: str, scaling: float, split: str, key: Key) -> str:
        """Add rows to a table and return a line about them. Only test rows keep their hits: validation only chooses."""
        rows = as_rows(marks, method, scaling).assign(split=split, **key)
        rows = rows if split == "test" else rows.assign(hits="")
        self.ledger.append(table, rows[[*key, "method", "scaling", "split", "task", "correct", "total", "hits"]])
        what = ", ".join(f"{name} {value}" for name, value in key.items())
        at = "" if method == ALONE else f" at {scaling:g}"
        return f"{table}: {what}: {method}{at}, {split} {float((rows.correct / rows.total).mean()):.3f}"

    def _merged(self, subject: Subject, scaling: float) -> Merged:
        features = self.features() if "data" in METHODS[subject.method].needs else None
        params: dict[str, Any] = {"scaling": scaling} if subject.scaled else {}
        return merge(subject.adapters(), subject.method, features=features, **subject.plugins, **params)


def best_scaling(rows: pd.DataFrame) -> float:
    """Return the scaling with the best validation average of one method's rows; the smaller one where two are equal."""
    validation = rows[rows.split == "validation"]
    means = (validation.correct / validation.total).groupby(validation.scaling).mean()
    return float(means[means >= means.max() - 1e-12].index.min())
