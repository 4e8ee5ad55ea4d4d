"""Which rows of a task a merge breaks and which it mends, and whether two merges really differ."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pandas as pd
from scipy.stats import binomtest

from ..errors import MergeError
from ..evaluation.accuracy import Hits


@dataclass(frozen=True)
class Outcome:
    """What somebody answered to the rows of a task; plain values, so that it can cross a process boundary.

    Attributes
    ----------
    predicted : index of the label per row
    confidence : the probability that the answer was given
    """

    task: str
    predicted: tuple[int, ...]
    confidence: tuple[float, ...]


def outcome(batches: Iterable[Hits]) -> Outcome:
    """Return the outcome of one task from what `merging.evaluation.accuracy.hits` yields.

    Raises
    ------
    MergeError
        If there is no batch, or the batches are of more than one task or leave rows out.
    """
    found: dict[int, tuple[int, float]] = {}
    names: dict[str, int] = {}
    for batch in batches:
        names[batch.task] = batch.total
        values = zip(batch.predicted.tolist(), batch.confidence.tolist(), strict=True)
        found |= dict(zip(batch.rows, values, strict=True))
    if len(names) != 1 or sorted(found) != list(range(next(iter(names.values())))):
        raise MergeError("An outcome is of all rows of one task.")
    rows = [found[row] for row in sorted(found)]
    return Outcome(next(iter(names)), tuple(label for label, _ in rows), tuple(sure for _, sure in rows))


def changed_rows(
    texts: Sequence[str], truth: Sequence[int], labels: Sequence[str], first: Outcome, second: Outcome
) -> pd.DataFrame:
    """Return the rows that exactly one of two gets right, the surest loss first: row, text, truth, first, second,
    sure_first, sure_second, kind.

    ``kind`` is "broken" where only the first is right (an adapter alone, say) and "mended" where only the second is
    (the merge); within each, rows come by how sure the wrong answer was.

    Raises
    ------
    MergeError
        If the outcomes are not of these rows.
    """
    n = len(truth)
    if not len(texts) == n == len(first.predicted) == len(second.predicted) or first.task != second.task:
        raise MergeError("Two outcomes can only be compared on the same rows of one task.")
    frame = pd.DataFrame(
        {
            "row": range(n),
            "text": list(texts),
            "truth": [labels[label] for label in truth],
            "first": [labels[label] for label in first.predicted],
            "second": [labels[label] for label in second.predicted],
            "sure_first": first.confidence,
            "sure_second": second.confidence,
        }
    )
    right = frame["first"] == frame["truth"]
    also = frame["second"] == frame["truth"]
    frame["kind"] = "same"
    frame.loc[right & ~also, "kind"] = "broken"
    frame.loc[~right & also, "kind"] = "mended"
    frame = frame[frame["kind"] != "same"]
    sure = frame["sure_second"].where(frame["kind"] == "broken", frame["sure_first"])
    return frame.assign(_sure=sure).sort_values(["kind", "_sure"], ascending=[True, False]).drop(columns="_sure")


def confusion(labels: Sequence[str], first: Outcome, second: Outcome) -> pd.DataFrame:
    """Return how often the first said one label (rows) where the second said another (columns)."""
    names = pd.Index(labels)
    counts = pd.crosstab(
        pd.Categorical([labels[label] for label in first.predicted], categories=names),
        pd.Categorical([labels[label] for label in second.predicted], categories=names),
        dropna=False,
    )
    return pd.DataFrame(counts.to_numpy(), index=names.rename("first"), columns=names.rename("second"))


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the exact two-sided p-value that two are equally good, from the rows that only one of them gets right.

    Under equality each such row is a fair coin; 1 where there is no such row.

    References
    ----------
    McNemar, "Note on the sampling error of the difference between correlated proportions", Psychometrika 12, 1947; the
    exact form is the sign test.
    """
    if only_first + only_second == 0:
        return 1.0
    return float(binomtest(only_first, only_first + only_second, 0.5).pvalue)
