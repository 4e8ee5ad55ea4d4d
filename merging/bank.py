"""mergescope experiment bank: many random merges with measured accuracy, to see which diagnostics predict anything.

A merge is drawn from pools, subsets of tasks, methods, scalings and plug-ins. Its diagnostics are taken before anybody runs it, its accuracy
is measured after. The bank is one table, appended to as results come; draw number i is the same on every machine. The second half needs the
table only: which diagnostics go with the accuracy, and a predictor that is held to task subsets that it has not seen.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from .adapter import Adapter
from .diagnostics import (
    cosines,
    dense_energy,
    effective_rank,
    interference,
    magnitude_variance,
    sign_conflict,
    subspace_overlap,
    update_energy,
)
from .engine import Merged
from .errors import MergeError
from .evaluation import EncodedTask, encode_task
from .features import Features
from .methods import METHODS
from .pools import POOLS, collect_for_osrm, load_pool, settings_of
from .search import SCALINGS, Contender, append, measure, read_table
from .tasks import DEFAULT_TASKS, Task

SIZE = 320
ROWS = 80
"""Validation rows per task."""
SUBSETS = tuple(tuple(some) for count in range(2, len(DEFAULT_TASKS) + 1) for some in combinations(DEFAULT_TASKS, count))
"""All sets of two or more tasks: intervals and folds rest on their number."""
WEIGHTS_ONLY = (
    "scaling", "tasks", "magnitude_variance", "norm_ratio", "overlap_A", "overlap_B", "cosine", "sign_conflict", "sign_lost",
    "effective_rank", "merged_norm", "distance", "alignment", "weakest_alignment",
)  # fmt: skip
"""Diagnostics that need no text: what the predictor may use."""
ON_DATA = ("interference", "output_error", "worst_output_error")
"""Diagnostics from the second moments of unlabelled texts."""
KEYS = ("pool", "tasks_merged", "method", "orthogonalize", "decouple", "mu")
"""What says which merge a row is, beside its scaling."""


@dataclass(frozen=True)
class Draw:
    """One merge of the bank, as plain values."""

    number: int
    pool: str
    tasks: tuple[str, ...]
    method: str
    scaling: float
    orthogonalize: str
    decouple: float
    mu: float


def draw(number: int) -> Draw:
    """Return draw ``number``: the same for the same number, whatever was drawn before."""
    generator = np.random.default_rng([20251122, number])
    # every subset in turn, in an order that does not begin with the small ones
    tasks = SUBSETS[np.random.default_rng(1).permutation(len(SUBSETS))[number % len(SUBSETS)]]
    names = [name for name, method in METHODS.items() if "task_id" not in method.needs]
    method = METHODS[names[generator.integers(len(names))]]
    pool = list(POOLS)[generator.integers(len(POOLS))]
    scaling = float(SCALINGS[generator.integers(len(SCALINGS))])
    plugin = generator.choice(["off", "off", "orthogonalize", "decouple", "half", "soft_osrm"])
    if not method.plugins:
        plugin = "off"
    if method.name == "do_merging" and plugin == "off":
        plugin = "both"
    return Draw(
        number, pool, tasks, method.name, scaling,
        "balanced" if plugin in ("orthogonalize", "both") else "off",
        {"decouple": 1.0, "both": 1.0, "half": 0.5}.get(str(plugin), 0.0),
        0.3 if plugin == "soft_osrm" else 0.0,
    )  # fmt: skip


def describe(merged: Merged, features: Features | None = None) -> dict[str, float]:
    """Return the diagnostics of a merge before it is run, each a mean over modules; the updates are those that enter the method.

    Without ``features`` only those of `WEIGHTS_ONLY`. ``scaling`` is 1 for a method that has none. ``merged_norm``, ``distance`` and
    ``alignment`` compare the merge M with every adapter's update W_i: mean ||M|| / ||W_i||, mean ||M - W_i|| / ||W_i||, mean cosine;
    ``output_error`` is the same distance on task i's own texts, sqrt(tr((M - W_i) S_i (M - W_i)^T) / tr(W_i S_i W_i^T)).
    """
    plugged = [replace(adapter, deltas=updates) for adapter, updates in zip(merged.adapters, merged.updates, strict=True)]
    magnitude, signs = magnitude_variance(plugged), sign_conflict(plugged)
    found = {
        "scaling": float(merged.params.get("scaling", 1.0)),
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


def weights_only(merged: Merged) -> dict[str, float]:
    """Return the row of diagnostics that a `Predictor` takes: `WEIGHTS_ONLY`, as the bank describes its merges."""
    found = describe(merged)
    return {name: found[name] for name in WEIGHTS_ONLY}


def missing(path: Path, size: int = SIZE) -> list[int]:
    """Return the numbers of the draws that the table at ``path`` lacks."""
    done = set(read_table(path).get("number", pd.Series(dtype=int)))
    return [number for number in range(size) if number not in done]


class Bank:
    """The bank on the embedded base; `fill` adds what is missing up to ``size`` draws."""

    def __init__(self, model: nn.Module, tokenizer: Any, path: Path, rows: int = ROWS) -> None:
        self.model, self.tokenizer, self.path, self.rows = model, tokenizer, path, rows
        self._pools: dict[str, list[Adapter]] = {}
        self._encoded: dict[str, EncodedTask] = {}
        self._singles: dict[tuple[str, str], float] = {}
        self._features: Features | None = None

    def fill(self, size: int = SIZE, numbers: Sequence[int] | None = None) -> Iterator[str]:
        """Measure every draw that the table lacks (or only ``numbers`` of them); yields a line per merge."""
        table = read_table(self.path)
        if len(table) and (table["rows"] != self.rows).any():
            raise MergeError(
                f"{self.path} was measured on {table['rows'].iloc[0]} rows per task, not {self.rows}: move it away to start a new one."
            )
        wanted = missing(self.path, size)
        for number in wanted if numbers is None else [number for number in numbers if number in wanted]:
            row = self.measured(draw(number))
            append(self.path, pd.DataFrame([row]))
            yield f"{number}: {row['method']} at {row['scaling']:g}, {row['tasks_merged']}: keeps {row['normalised']:.3f}"

    def measured(self, chosen: Draw) -> dict[str, Any]:
        """Return one row of the table."""
        adapters = [adapter for adapter in self._pool(chosen.pool) if adapter.task in chosen.tasks]
        merged = self._merge(chosen, adapters)
        tasks = [self._task(adapter.task) for adapter in adapters]
        marks = measure(self.model, self.tokenizer, merged, tasks)
        accuracy = {task: found.count("1") / len(found) for task, found in marks.items()}
        return {
            "number": chosen.number, "pool": chosen.pool, "tasks_merged": "+".join(chosen.tasks), "method": chosen.method,
            "orthogonalize": chosen.orthogonalize, "decouple": chosen.decouple, "mu": chosen.mu,
            **{name: round(value, 6) for name, value in describe(merged, self.features()).items()},
            "rows": self.rows, "accuracy": round(float(np.mean([*accuracy.values()])), 6),
            "normalised": round(float(np.mean([accuracy[a.task] / self._alone(chosen.pool, a) for a in adapters])), 6),
            "per_task": json.dumps({task: round(value, 4) for task, value in accuracy.items()}),
        }  # fmt: skip

    def _merge(self, chosen: Draw, adapters: list[Adapter]) -> Merged:
        spec = METHODS[chosen.method]
        plugins: dict[str, Any] = {}
        if spec.plugins:
            plugins = {"orthogonalize": chosen.orthogonalize, "decouple": chosen.decouple, "soft_osrm": chosen.mu or None}
        return Contender(spec.title, chosen.method, plugins).merge(adapters, chosen.scaling, self.features())

    def _alone(self, pool: str, adapter: Adapter) -> float:
        """Return the adapter's own accuracy on the very rows that the merges are measured on."""
        if (pool, adapter.task) not in self._singles:
            [marks] = measure(self.model, self.tokenizer, adapter, [self._task(adapter.task)]).values()
            self._singles[pool, adapter.task] = marks.count("1") / len(marks)
        return self._singles[pool, adapter.task]

    def features(self) -> Features:
        """Return the second moments of each task's first training texts, as the shipped OSRM pool used them."""
        if self._features is None:
            settings = settings_of(self._pool(next(iter(POOLS)))[0].metadata)
            self._features = collect_for_osrm(self.model, self.tokenizer, DEFAULT_TASKS, settings)
        return self._features

    def _pool(self, name: str) -> list[Adapter]:
        if name not in self._pools:
            self._pools[name] = load_pool(name)
        return self._pools[name]

    def _task(self, name: str) -> EncodedTask:
        if name not in self._encoded:
            self._encoded[name] = encode_task(self.tokenizer, Task.load(name), "validation", self.rows)
        return self._encoded[name]
