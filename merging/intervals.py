"""Averages over tasks, differences and the gap recovered, with intervals over test rows and, where there are some, training seeds.

Marks are 1.0 for a row that is right and 0.0 for one that is wrong. What is compared must be measured on the same rows: a task's rows are
drawn once for all that is compared, and repetitions of a training (its seeds) once for all tasks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

Values = np.ndarray[Any, np.dtype[np.float64]]
"""Marks of one task: (rows,), or (repetitions, rows)."""
Marks = Mapping[str, Values]
"""{task: its marks}."""
Interval = tuple[float, float, float]
"""(value, low, high) at 95 %."""

DRAWS = 2000
KEPT_ROWS = 5000
"""Draws of so many rows in all are kept (40 MB); larger ones are drawn anew each time."""
Z95 = 1.959963984540054


@dataclass(frozen=True, eq=False)
class Recovered:
    """The share of what the adapters add to the base that a merge carries over.

    Attributes
    ----------
    mean, low, high : over the tasks that count, 95 %; NaN if none does
    tasks : {task: (merge - base) / (alone - base)} of the tasks that count: those in which the adapter alone is better than the base by
        more than the uncertainty of that difference. Where there is nothing to recover, a ratio would be noise.
    """

    mean: float
    low: float
    high: float
    tasks: dict[str, float]


def as_values(marks: str) -> Values:
    """Return a string of 1 and 0 per row as marks."""
    return np.array([mark == "1" for mark in marks], dtype=float)


def average(marks: Marks, seed: int = 0, draws: int = DRAWS) -> Interval:
    """Return the mean over tasks of the mean over rows and repetitions."""
    value = float(np.mean([values.mean() for values in marks.values()]))
    return value, *_bounds(np.mean(_resampled(marks, seed, draws), axis=0))


def difference(marks: Marks, reference: Marks, seed: int = 0) -> Interval:
    """Return `average` of ``marks`` less that of ``reference``, paired: same rows, same repetitions."""
    return average({task: marks[task] - reference[task] for task in marks}, seed)


def gap_recovered(base: Marks, alone: Marks, merged: Marks, seed: int = 0, draws: int = DRAWS) -> Recovered:
    """Return the share of the gap between base and adapters alone that a merge recovers, task by task, and their mean."""
    counted = [task for task in merged if has_gap(base[task], alone[task])]
    if not counted:
        return Recovered(math.nan, math.nan, math.nan, {})
    shares = {
        task: float((merged[task].mean() - base[task].mean()) / (alone[task].mean() - base[task].mean())) for task in counted
    }
    # linearised around the measured shares: a resampled gap near 0 would make the ratio itself explode
    moves = {
        task: (merged[task] - base[task] - shares[task] * (alone[task] - base[task])) / (alone[task] - base[task]).mean()
        for task in counted
    }
    mean, (_, low, high) = float(np.mean([*shares.values()])), average(moves, seed, draws)
    return Recovered(mean, mean + low, mean + high, shares)


def has_gap(base: Values, alone: Values) -> bool:
    """Tell whether the adapter alone is better than the base by more than the 95 % uncertainty of the paired difference."""
    gains = np.atleast_2d(alone - base).mean(0)
    return bool(gains.mean() > Z95 * gains.std() / math.sqrt(len(gains)))


<<<<<<< HEAD
def _resampled(marks: Marks, seed: int, draws: int) -> list[Values]:
    """Return each task's means (draws,): rows drawn anew per task, repetitions once for all tasks."""
    tasks = [np.atleast_2d(values) for values in marks.values()]
    seeds, counts = _drawn(seed, draws, len(tasks[0]), tuple(values.shape[1] for values in tasks))
    return [
        np.einsum("dr,rd->d", seeds, values @ (drawn.T / values.shape[1])) for values, drawn in zip(tasks, counts, strict=True)
    ]


@lru_cache(maxsize=2)
def _drawn(seed: int, draws: int, repetitions: int, rows: tuple[int, ...]) -> tuple[Values, tuple[np.ndarray[Any, Any], ...]]:
    """Return (weights of the repetitions (draws, repetitions), per task how often each row is drawn (draws, rows)).
=======
def _share(base: Any, alone: Any, merged: Any) -> Any:
    # a resampled gap may come near 0: a hundredth of a row's worth keeps the ratio finite, and the quantiles do not notice
    return (merged - base) / np.maximum(alone - base, 1e-4)


def _resampled(compared: Mapping[str, Marks], seed: int) -> dict[str, dict[str, Values]]:
    """Return {name: {task: means (draws,)}}: rows drawn anew per task, repetitions once for all."""
    shapes = {task: np.atleast_2d(values).shape for marks in compared.values() for task, values in marks.items()}
    repetitions = max(shape[0] for shape in shapes.values())
    rows_of = tuple(rows for _, rows in shapes.values())
    draw = _drawn if sum(rows_of) <= KEPT_ROWS else _drawn.__wrapped__
    seeds, weights = draw(seed, repetitions, rows_of)
    found: dict[str, dict[str, Values]] = {name: {} for name in compared}
    for task, drawn in zip(shapes, weights, strict=True):
        for name, marks in compared.items():
            values = np.atleast_2d(marks[task])
            # what has no repetitions (the base) is the same in all of them
            values = np.repeat(values, repetitions, 0) if len(values) < repetitions else values
            found[name][task] = np.einsum("dr,rd->d", seeds, values.astype(np.float32) @ drawn)
    return found


@lru_cache(maxsize=4)
def _drawn(seed: int, repetitions: int, rows: tuple[int, ...]) -> tuple[Values, tuple[np.ndarray[Any, Any], ...]]:
    """Return (weights of the repetitions (draws, repetitions), per task the weights of its rows (rows, draws), float32).
>>>>>>> a8db42b58fe29bae9b57fd6b3d2791522da71658

    Kept, since a table's merges are all compared on the same rows and drawing takes most of the time.
    """
    generator = np.random.default_rng(seed)
<<<<<<< HEAD
    seeds = generator.multinomial(repetitions, np.full(repetitions, 1 / repetitions), draws) / repetitions
    counts = (generator.multinomial(count, np.full(count, 1 / count), draws).astype(np.uint16) for count in rows)
    return seeds, tuple(counts)
=======
    seeds = generator.multinomial(repetitions, np.full(repetitions, 1 / repetitions), DRAWS) / repetitions
    counts = (generator.multinomial(count, np.full(count, 1 / count), DRAWS).T / count for count in rows)
    return seeds, tuple(np.ascontiguousarray(weights, dtype=np.float32) for weights in counts)
>>>>>>> a8db42b58fe29bae9b57fd6b3d2791522da71658


def _bounds(samples: Values) -> tuple[float, float]:
    low, high = np.quantile(samples, [0.025, 0.975])
    return float(low), float(high)
