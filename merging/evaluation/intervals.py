"""Averages over tasks, differences and the gap recovered, with intervals over test rows and, where there are some,
training seeds.

Marks are 1.0 for a row that is right and 0.0 for one that is wrong. What is compared must be measured on the same rows:
a task's rows are drawn once for all that is compared, and repetitions of a training (its seeds) once for all tasks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from .accuracy import Estimate

Values = np.ndarray[Any, np.dtype[np.float64]]
"""Marks of one task: (rows,), or (repetitions, rows)."""
Marks = Mapping[str, Values]
"""{task: its marks}."""
Interval = tuple[float, float, float]
"""(value, low, high) at 95 %."""

DRAWS = 2000
Z95 = 1.959963984540054


@dataclass(frozen=True, eq=False)
class Recovered:
    """The share of what the adapters add to the base that a merge carries over.

    Attributes
    ----------
    mean, low, high : over the tasks that count, 95 %; NaN if none does
    tasks : {task: (merge - base) / (alone - base)} of the tasks that count: those in which the adapter alone is better
        than the base by more than the uncertainty of that difference. Where there is nothing to recover, a ratio would
        be noise.
    """

    mean: float
    low: float
    high: float
    tasks: dict[str, float]


@dataclass(frozen=True)
class Accuracy:
    """What was measured of a merge, for its card: accuracies, and the gap that they recover where it is known."""

    estimates: Sequence[Estimate]
    gap: Recovered | None = None


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
    """Return the share of the gap between base and adapters alone that a merge recovers, task by task, and their
    mean."""
    counted = [task for task in merged if has_gap(base[task], alone[task])]
    if not counted:
        return Recovered(math.nan, math.nan, math.nan, {})
    shares = {
        task: float((merged[task].mean() - base[task].mean()) / (alone[task].mean() - base[task].mean()))
        for task in counted
    }
    # linearised around the measured shares: a resampled gap near 0 would make the ratio itself explode
    moves = {
        task: (merged[task] - base[task] - shares[task] * (alone[task] - base[task]))
        / (alone[task] - base[task]).mean()
        for task in counted
    }
    mean, (_, low, high) = float(np.mean([*shares.values()])), average(moves, seed, draws)
    return Recovered(mean, mean + low, mean + high, shares)


def has_gap(base: Values, alone: Values) -> bool:
    """Tell whether the adapter alone is better than the base by more than the 95 % uncertainty of the paired
    difference.
    """
    gains = np.atleast_2d(alone - base).mean(0)
    return bool(gains.mean() > Z95 * gains.std() / math.sqrt(len(gains)))


def _resampled(marks: Marks, seed: int, draws: int) -> list[Values]:
    """Return each task's means (draws,): rows drawn anew per task, repetitions once for all tasks."""
    tasks = [np.atleast_2d(values) for values in marks.values()]
    rows = tuple(values.shape[1] for values in tasks)
    seeds = _drawn(seed, draws, len(tasks[0]), ()).weights
    means = []
    for place, values in enumerate(tasks, 1):
        weights = _drawn(seed, draws, len(tasks[0]), rows[:place]).weights
        means.append(np.einsum("dr,rd->d", seeds, values @ (weights.T / values.shape[1])))
    return means


class _Drawn(NamedTuple):
    weights: np.ndarray[Any, Any]
    state: Mapping[str, Any]
    """Of the generator, from where the next task is drawn."""


@lru_cache(maxsize=17)  # two tables of eight tasks
def _drawn(seed: int, draws: int, repetitions: int, rows: tuple[int, ...]) -> _Drawn:
    """Return how often each row of the last of some tasks is drawn (draws, rows); for no task, the repetitions' weights
    (draws, repetitions).

    Kept task by task, since a table's merges are compared on the same rows, if not all on as many tasks, and drawing
    takes most of the time.
    """
    generator = np.random.default_rng(seed)
    if rows:
        generator.bit_generator.state = _drawn(seed, draws, repetitions, rows[:-1]).state
    count = rows[-1] if rows else repetitions
    drawn = generator.multinomial(count, np.full(count, 1 / count), draws)
    return _Drawn(drawn.astype(np.uint16) if rows else drawn / repetitions, generator.bit_generator.state)


def _bounds(samples: Values) -> tuple[float, float]:
    low, high = np.quantile(samples, [0.025, 0.975])
    return float(low), float(high)
