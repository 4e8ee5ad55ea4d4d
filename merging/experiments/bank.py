"""mergescope experiment bank: many random merges with what they recover, to see which diagnostics go with that.

A merge is drawn from the pools in which merging hurts: a subset of the eight tasks, a method, a scaling and plug-ins.
Its diagnostics are taken before anybody runs it; the gap recovered and the accuracy kept are measured after, on
validation rows. Draw number i is the same on every machine, so several processes can fill one table.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..adapters.adapter import Adapter
from ..diagnostics.measures import (
    cosines,
    dense_energy,
    effective_rank,
    interference,
    magnitude_variance,
    sign_conflict,
    subspace_overlap,
    update_energy,
)
from ..engine import merge
from ..errors import MergeError
from ..evaluation.accuracy import EncodedTask, encode_task
from ..evaluation.intervals import Marks, gap_recovered
from ..features.moments import Features
from ..merged import Merged
from ..methods import METHODS
from ..plugins.decouple import Decouple
from ..shipped import collect_for_osrm, load_pool, settings_of
from ..tasks.task import DEFAULT_TASKS, Task
from .ledger import Ledger
from .sweep import ALONE, BASE, SCALINGS, marks_of, measure, measure_ends, pack, unpack

SIZE = 400
ROWS = 80
"""Validation rows per task."""
MERGED_POOLS = ("papers", "default", "osrm", "unequal")
"""Not `easy`: where merging hardly hurts there is nothing to tell apart."""
SUBSETS = tuple(
    tuple(some) for count in range(2, len(DEFAULT_TASKS) + 1) for some in combinations(DEFAULT_TASKS, count)
)
"""All sets of two or more tasks: intervals and folds rest on their number."""
WEIGHTS_ONLY = (
    "scaling",
    "tasks",
    "magnitude_variance",
    "norm_ratio",
    "overlap_A",
    "overlap_B",
    "cosine",
    "sign_conflict",
    "sign_lost",
    "effective_rank",
    "merged_norm",
    "distance",
    "alignment",
    "weakest_alignment",
)
"""Diagnostics that need no text."""
ON_DATA = ("interference", "output_error", "worst_output_error")
"""Diagnostics from the second moments of unlabelled texts."""
KEYS = ("pool", "tasks_merged", "method", "orthogonalize", "decouple", "granularity", "max_up", "renormalise", "mu")
"""What says which merge a row is, beside its scaling; ``max_up`` is inf where there is no limit."""
OUTCOMES = ("gap_recovered", "accuracy_kept")
"""What is measured: see `Bank.measured`."""


@dataclass(frozen=True)
class Draw:
    """One merge of the bank, as plain values."""

    number: int
    pool: str
    tasks: tuple[str, ...]
    method: str
    scaling: float
    orthogonalize: str
    decouple: Decouple
    mu: float

    def merge(self, adapters: list[Adapter], features: Features | None) -> Merged:
        """Do the merge, everything that was not drawn at its default."""
        spec = METHODS[self.method]
        params: dict[str, Any] = (
            {"scaling": self.scaling} if any(param.name == "scaling" for param in spec.params) else {}
        )
        if spec.plugins:
            params |= {"orthogonalize": self.orthogonalize, "decouple": self.decouple, "soft_osrm": self.mu or None}
        return merge(adapters, self.method, features=features, **params)

    @property
    def key(self) -> dict[str, Any]:
        """The columns `KEYS` of its row."""
        chosen = self.decouple
        limit = math.inf if chosen.max_up is None else chosen.max_up
        values = (
            self.pool,
            "+".join(self.tasks),
            self.method,
            self.orthogonalize,
            chosen.strength,
            chosen.granularity,
            limit,
        )
        return dict(zip(KEYS, (*values, chosen.renormalise, self.mu), strict=True))


def draw(number: int) -> Draw:
    """Return draw ``number``: the same for the same number, whatever was drawn before."""
    generator = np.random.default_rng([20251122, number])
    # every subset once before any comes twice: with few merges each, intervals over subsets are narrow
    tasks = SUBSETS[np.random.default_rng([1, number // len(SUBSETS)]).permutation(len(SUBSETS))[number % len(SUBSETS)]]
    names = [name for name, method in METHODS.items() if "task_id" not in method.needs]
    method = METHODS[names[generator.integers(len(names))]]
    pool = MERGED_POOLS[generator.integers(len(MERGED_POOLS))]
    scaling = float(SCALINGS[generator.integers(len(SCALINGS))])
    plugin = str(generator.choice(["off", "off", "orthogonalize", "decouple", "decouple", "both", "soft_osrm"]))
    decouple = Decouple(
        strength=float(generator.choice([0.5, 1.0, 1.0])),
        granularity=str(generator.choice(["column", "column", "module"])),
        max_up=float(generator.choice([math.inf, math.inf, 2.0])),
        renormalise=bool(generator.choice([False, False, True])),
    )
    if not method.plugins:
        plugin = "off"
    if method.name == "do_merging" and plugin == "off":
        plugin = "both"
    return Draw(
        number, pool, tasks, method.name, scaling,
        "balanced" if plugin in ("orthogonalize", "both") else "off",
        decouple if plugin in ("decouple", "both") else Decouple(0.0),
        0.3 if plugin == "soft_osrm" else 0.0,
    )  # fmt: skip


def describe(merged: Merged, features: Features | None = None) -> dict[str, float]:
    """Return the diagnostics of a merge before it is run, each a mean over modules; the updates are those that enter
    the method.

    Without ``features`` only those of `WEIGHTS_ONLY`. ``scaling`` is 1 for a method that has none. ``merged_norm``,
    ``distance`` and ``alignment`` compare the merge M with every adapter's update W_i: mean ||M|| / ||W_i||, mean ||M -
    W_i|| / ||W_i||, mean cosine; ``output_error`` is the same distance on task i's own texts, sqrt(tr((M - W_i) S_i (M
    - W_i)^T) / tr(W_i S_i W_i^T)).
    """
    plugged = [
        replace(adapter, deltas=updates) for adapter, updates in zip(merged.adapters, merged.updates, strict=True)
    ]
    magnitude, signs = magnitude_variance(plugged), sign_conflict(plugged)
    found = {
        "scaling": 1.0 if merged.spec.scaling is None else merged.spec.scaling,
        "tasks": float(len(plugged)),
        "magnitude_variance": float(magnitude.variance.mean()),
        "norm_ratio": float(magnitude.norm_ratio.mean()),
        "cosine": float(cosines(plugged).cosine.mean()),
        "sign_conflict": float(signs.conflict.mean()),
        "sign_lost": float(signs.lost.mean()),
        "effective_rank": float(effective_rank(plugged).effective_rank.mean()),
    }
    for side in ("A", "B"):
        overlap = subspace_overlap(plugged, side)
        found[f"overlap_{side}"] = float(overlap[overlap.adapter_a != overlap.adapter_b].overlap.mean())
    return found | _against_the_adapters(merged, features)


def _against_the_adapters(merged: Merged, features: Features | None) -> dict[str, float]:
    sizes, distances, errors = [], [], []
    products = np.zeros((len(merged.adapters), 3))  # <M, W_i>, ||M||^2, ||W_i||^2 summed over modules
    for module in merged.modules:
        M = merged.delta(module).double()
        size = float(M.norm())
        for i, adapter in enumerate(merged.adapters):
            W = adapter.deltas.get(module)
            if W is None or not (own := W.norm()):  # nothing of its own to be compared with
                products[i, 1] += size**2
                continue
            inner = float(((W.B.double().T @ M) * W.A.double()).sum())
            products[i] += inner, size**2, own**2
            distances.append(math.sqrt(max(0.0, size**2 - 2 * inner + own**2)) / own)
            sizes.append(size / own)
            if features is not None:
                S = features.second_moment(adapter.task, module)
                gap = dense_energy(M - W.dense().double(), S)
                errors.append((adapter.task, math.sqrt(gap / update_energy(W, S))))
    with np.errstate(invalid="ignore"):
        alignment = np.nan_to_num(products[:, 0] / np.sqrt(products[:, 1] * products[:, 2]))
    found = {
        "merged_norm": float(np.mean(sizes)),
        "distance": float(np.mean(distances)),
        "alignment": float(alignment.mean()),
        "weakest_alignment": float(alignment.min()),
    }
    if features is not None:
        per_task = pd.DataFrame(errors, columns=["task", "error"]).groupby("task").error.mean()
        ratios = interference(merged.adapters, features)
        found |= {
            "interference": float(ratios[(ratios.source != ratios.target) & np.isfinite(ratios.ratio)].ratio.mean()),
            "output_error": float(per_task.mean()),
            "worst_output_error": float(per_task.max()),
        }
    return found


class Bank:
    """The bank on the embedded base: ``bank_merges.csv``, a row per merge, and ``bank_ends.csv``, what every pool's
    merges lie between.

    Parameters
    ----------
    model, tokenizer : see `merging.models.load.load_base`; None where only `missing` is asked for
    folder : of the tables
    adapters : folder of the pools; None = the shipped ones
    rows : validation rows per task
    """

    def __init__(
        self, model: Any, tokenizer: Any, folder: Path, adapters: Path | None = None, rows: int = ROWS
    ) -> None:
        self.model, self.tokenizer, self.adapters, self.rows = model, tokenizer, adapters, rows
        self.ledger = Ledger(folder, "bank")
        self._pools: dict[str, list[Adapter]] = {}
        self._encoded: dict[str, EncodedTask] = {}
        self._features: Features | None = None

    def missing(self, size: int = SIZE) -> list[int]:
        """Return the numbers of the draws that the table lacks."""
        done = set(self.ledger.table("merges").get("number", ()))
        return [number for number in range(size) if number not in done]

    def fill(self, size: int = SIZE) -> Iterator[str]:
        """Measure every draw that the table lacks; yields a line per merge.

        Pool by pool: one that another process is at, or whose adapters are not all trained, is left out.

        Raises
        ------
        MergeError
            If the table was measured on another number of rows.
        """
        table = self.ledger.table("merges")
        if len(table) and (table["rows"] != self.rows).any():
            path, rows = self.ledger.path("merges"), table["rows"].iloc[0]
            raise MergeError(
                f"{path} was measured on {rows} rows per task, not {self.rows}: move it away to start a new one."
            )
        for pool in MERGED_POOLS:
            wanted = [number for number in self.missing(size) if draw(number).pool == pool]
            if not wanted:
                continue
            if {adapter.task for adapter in self._pool(pool)} != set(DEFAULT_TASKS):
                yield (
                    f"{pool}: left out, since not all of its adapters are there (mergescope train --pool {pool} "
                    "makes them)"
                )
                continue
            with self.ledger.claim(pool) as mine:
                if not mine:
                    yield f"{pool}: left to the process that is at it"
                    continue
                self._measure_ends(pool)
                for number in wanted:
                    if self.ledger.lacks("merges", number=number):
                        row = self.measured(draw(number))
                        self.ledger.append("merges", pd.DataFrame([row]))
                        yield _line(row)

    def measured(self, chosen: Draw) -> dict[str, Any]:
        """Return one row of the table.

        ``gap_recovered`` is the mean over the tasks that have a gap (``gap_tasks`` of them; NaN where none has), see
        `merging.evaluation.intervals.gap_recovered`; ``accuracy_kept`` the mean over all tasks of accuracy over the
        adapter's own accuracy; ``hits`` {task: packed marks} as JSON.
        """
        adapters = [adapter for adapter in self._pool(chosen.pool) if adapter.task in chosen.tasks]
        merged = chosen.merge(adapters, self.features())
        tasks = [self._task(adapter.task) for adapter in adapters]
        packed = {task: pack(m) for task, m in measure(self.model, self.tokenizer, merged, tasks, bf16=True).items()}
        marks = {task.name: unpack(packed[task.name], len(task.encoded)) for task in tasks}
        base, alone = (self._ends(chosen.pool, end) for end in (BASE, ALONE))
        recovered = gap_recovered(base, alone, marks)
        return {
            "number": chosen.number,
            **chosen.key,
            **{name: round(value, 6) for name, value in describe(merged, self.features()).items()},
            "rows": self.rows,
            "accuracy": round(float(np.mean([m.mean() for m in marks.values()])), 6),
            "accuracy_kept": round(float(np.mean([marks[task].mean() / alone[task].mean() for task in marks])), 6),
            "gap_recovered": round(recovered.mean, 6),
            "gap_tasks": len(recovered.tasks),
            "hits": json.dumps(packed),
        }

    def _measure_ends(self, pool: str) -> None:
        if self.ledger.lacks("ends", pool=pool):
            tasks = [self._task(name) for name in DEFAULT_TASKS]
            ends = measure_ends(self.model, self.tokenizer, self._pool(pool), tasks, bf16=True)
            self.ledger.append("ends", pd.concat(ends).assign(pool=pool))

    def _ends(self, pool: str, end: str) -> Marks:
        return marks_of(self.ledger.rows("ends", pool=pool), end)

    def features(self) -> Features:
        """Return the second moments of each task's first training texts, as the shipped OSRM pool used them."""
        if self._features is None:
            settings = settings_of(next(pool for name in MERGED_POOLS if (pool := self._pool(name)))[0].metadata)
            self._features = collect_for_osrm(self.model, self.tokenizer, DEFAULT_TASKS, settings)
        return self._features

    def _pool(self, name: str) -> list[Adapter]:
        if name not in self._pools:
            self._pools[name] = load_pool(name, self.adapters)
        return self._pools[name]

    def _task(self, name: str) -> EncodedTask:
        if name not in self._encoded:
            self._encoded[name] = encode_task(self.tokenizer, Task.load(name), "validation", self.rows)
        return self._encoded[name]


def _line(row: dict[str, Any]) -> str:
    what = f"{row['number']}: {row['pool']}, {row['method']} at {row['scaling']:g}, {row['tasks_merged']}"
    recovers = f"recovers {row['gap_recovered']:.2f} of the gap" if row["gap_tasks"] else "has no gap to recover"
    return f"{what}: {recovers}, keeps {row['accuracy_kept']:.3f}"
