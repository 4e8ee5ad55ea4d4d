"""What a search maximises, and when a candidate is not worth another row."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ..errors import MergeError
from ..evaluation.intervals import Marks, Values, has_gap

KINDS = ("average", "worst", "gap")
SURE = 3.0
"""Standard errors by which a candidate must lie below the best one before it is stopped: about one in a thousand looks
at the true winner errs."""
FIRST_LOOK = 16
"""Rows of every task that are seen before anything is stopped."""


@dataclass(frozen=True)
class Goal:
    """What is maximised: a weighted sum of the tasks' accuracies, or the worst of them.

    Attributes
    ----------
    kind : "average" or "worst" task, or "gap" (recovered)
    weights : {task: weight} of the sum; empty for the worst task
    offset : what is added to the sum, so that a gap of 0 is the base
    """

    kind: str
    weights: Mapping[str, float] = field(default_factory=dict)
    offset: float = 0.0

    @staticmethod
    def of(
        kind: str,
        tasks: list[str],
        importance: Mapping[str, float] | None = None,
        base: Marks | None = None,
        alone: Marks | None = None,
    ) -> Goal:
        """Return the goal of a name.

        Parameters
        ----------
        importance : {task: how much it counts}, for "average"; none = all alike
        base, alone : marks of the base and of each adapter alone on the rows of the search, for "gap"

        Raises
        ------
        MergeError
            For an unknown name, an importance that is negative or zero altogether, or where no adapter is better than
            its base.
        """
        if kind == "worst":
            return Goal(kind)
        if kind == "gap" and base is not None and alone is not None:
            counted = [task for task in tasks if has_gap(base[task], alone[task])]
            if not counted:
                raise MergeError("No adapter is better than its base on these rows, so there is no gap to recover.")
            weights = {task: 1 / (len(counted) * float((alone[task] - base[task]).mean())) for task in counted}
            return Goal(kind, weights, -sum(weight * float(base[task].mean()) for task, weight in weights.items()))
        if kind != "average":
            raise MergeError(f"{kind!r} is no goal of a search: choose one of {', '.join(KINDS)}.")
        counts = {task: float((importance or {}).get(task, 1.0)) for task in tasks}
        if min(counts.values()) < 0 or not sum(counts.values()):
            raise MergeError("The tasks' importance must not be negative, nor zero for all of them.")
        return Goal(kind, {task: count / sum(counts.values()) for task, count in counts.items()})

    def value(self, marks: Marks) -> float:
        """Return what is maximised, of the rows seen so far; NaN in ``marks`` stands for a row not seen."""
        means = {task: float(np.nanmean(values)) for task, values in marks.items()}
        if self.kind == "worst":
            return min(means.values())
        return self.offset + sum(weight * means[task] for task, weight in self.weights.items())

    def hopeless(self, marks: Marks, best: Marks) -> bool:
        """Tell whether a candidate, of which some rows are seen, lies below ``best``, of which all are, by more than
        chance.

        A sum is compared row by row on the rows that both have; the worst task's accuracy with the best's worst.
        """
        if min(int(np.isfinite(values).sum()) for values in marks.values()) < FIRST_LOOK:
            return False
        if self.kind == "worst":
            floor = min(float(values.mean()) for values in best.values())
            return any(_mean(values) + SURE * _error(values) < floor for values in marks.values())
        differences = {task: marks[task] - best[task] for task in self.weights}
        total = sum(weight * _mean(differences[task]) for task, weight in self.weights.items())
        error = math.sqrt(sum((weight * _error(differences[task])) ** 2 for task, weight in self.weights.items()))
        return total + SURE * error < 0


def as_marks(characters: Mapping[str, str]) -> dict[str, Values]:
    """Return the marks of `Estimate.marks`: 1.0 right, 0.0 wrong, NaN not seen yet."""
    known = {"1": 1.0, "0": 0.0}
    return {task: np.array([known.get(mark, math.nan) for mark in line]) for task, line in characters.items()}


def _mean(values: Values) -> float:
    return float(np.nanmean(values))


def _error(values: Values) -> float:
    """Return the standard error of a mean of -1, 0 and 1; one more row that differs keeps it from being 0."""
    seen = values[np.isfinite(values)]
    spread = (float(((seen - seen.mean()) ** 2).sum()) + 1.0) / (len(seen) + 1)
    return math.sqrt(spread / len(seen))
