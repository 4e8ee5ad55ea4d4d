"""Metrics that look beyond accuracy: macro-F1 and Matthews correlation of streamed predictions, with intervals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..errors import MergeError
from .accuracy import Hits, wilson

REPETITIONS = 2000
COLUMNS = ["task", "metric", "value", "low", "high", "n"]
Counts = np.ndarray[Any, np.dtype[np.float64]]
"""Confusion matrices (.., classes, classes): rows by true class, columns by predicted class."""


def predictions(batches: Iterable[Hits]) -> dict[str, Tensor]:
    """Return {task: predicted class of each of its rows, -1 where no batch had it} from what
    `merging.evaluation.accuracy.hits` yields.
    """
    found: dict[str, Tensor] = {}
    for batch in batches:
        found.setdefault(batch.task, torch.full((batch.total,), -1))[batch.rows] = batch.predicted
    return found


def metrics(predicted: Mapping[str, Any], labels: Mapping[str, Any], seed: int = 0) -> pd.DataFrame:
    """Return accuracy, macro-F1 and Matthews correlation of each task with 95 % intervals.

    Parameters
    ----------
    predicted : {task: class index per row}, as `predictions` returns them; rows below 0 were not evaluated and do not
        count
    labels : {task: true class index per row}, at least of the same tasks

    Returns
    -------
    DataFrame
        task, metric ("accuracy", "macro_f1", "matthews"), value, low, high, n. The interval is Wilson's for accuracy
        (as `evaluate` gives it), else the percentiles of a bootstrap over rows, 2000 times. Classes that neither occur
        nor are predicted don't count in macro-F1, and Matthews correlation is 0 where it is undefined, as in
        scikit-learn.

    Raises
    ------
    MergeError
        If a task has no labels, another number of them than predictions, or no prediction at all.

    References
    ----------
    Gorodkin, "Comparing two K-category assignments by a K-category correlation coefficient", Computational Biology and
    Chemistry 28, 2004.
    """
    from sklearn.metrics import confusion_matrix, f1_score, matthews_corrcoef  # noqa: PLC0415 - takes a second

    rows = []
    for task, values in predicted.items():
        guess, true = _evaluated(task, values, labels)
        n = len(true)
        low, high = wilson(int((guess == true).sum()), n)
        rows.append((task, "accuracy", float((guess == true).mean()), low, high, n))
        drawn = resampled(confusion_matrix(true, guess, labels=np.union1d(true, guess)), np.random.default_rng(seed))
        for metric, value, of_counts in (
            ("macro_f1", f1_score(true, guess, average="macro", zero_division=0.0), macro_f1),
            ("matthews", matthews_corrcoef(true, guess), matthews),
        ):
            low, high = np.quantile(of_counts(drawn), [0.025, 0.975])
            rows.append((task, metric, float(value), float(low), float(high), n))
    return pd.DataFrame(rows, columns=COLUMNS)


def resampled(confusion: Any, generator: np.random.Generator, repetitions: int = REPETITIONS) -> Counts:
    """Return the confusion matrices of bootstrap samples, (repetitions, classes, classes).

    To draw n rows with replacement is to draw the n cells that they are in: one multinomial draw instead of n.
    """
    cells = np.asarray(confusion)
    n = int(cells.sum())
    return generator.multinomial(n, cells.ravel() / n, repetitions).reshape(-1, *cells.shape).astype(float)


def macro_f1(counts: Counts) -> Counts:
    """Return the mean F1 of the classes that occur or are predicted, 2 TP / (true + predicted), of each confusion
    matrix.
    """
    both = counts.sum(-1) + counts.sum(-2)
    f1 = np.divide(2 * np.diagonal(counts, axis1=-2, axis2=-1), both, out=np.zeros_like(both), where=both > 0)
    return np.asarray(f1.sum(-1) / (both > 0).sum(-1))


def matthews(counts: Counts) -> Counts:
    """Return the correlation of true and predicted classes, R_K of Gorodkin (2004), of each confusion matrix; 0 where
    undefined.
    """
    true, guess, n = counts.sum(-1), counts.sum(-2), counts.sum((-1, -2))
    covariance = n * np.trace(counts, axis1=-2, axis2=-1) - (true * guess).sum(-1)
    scale = np.sqrt((n**2 - (true**2).sum(-1)) * (n**2 - (guess**2).sum(-1)))
    return np.asarray(np.divide(covariance, scale, out=np.zeros_like(scale), where=scale > 0))


def _evaluated(task: str, values: Any, labels: Mapping[str, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    if task not in labels:
        raise MergeError(f"There are predictions but no labels for the task {task!r}.")
    guess, true = np.asarray(values), np.asarray(labels[task])
    if guess.shape != true.shape:
        raise MergeError(f"The task {task!r} has {len(guess)} predictions but {len(true)} labels: give one per row.")
    done = guess >= 0
    if not done.any():
        raise MergeError(f"No row of the task {task!r} has been evaluated yet.")
    return guess[done], true[done]
