"""What broke is a recount of evaluate's rows; McNemar's p is the sign test's."""

from __future__ import annotations

from dataclasses import replace
from math import comb

import pandas as pd
import pytest
from asked import with_head
from builders import made_up_task, one_sentence, random_adapter

from merging import MergeError, evaluate, merge
from merging.evaluation.accuracy import encode_task, hits
from merging.playground import Outcome, changed_rows, confusion, mcnemar, outcome


@pytest.fixture
def both(model, tokenizer):
    task = replace(made_up_task("task-0", 300, 3), name="task-0")
    adapters = [with_head(random_adapter(i, scale=0.3), i) for i in range(3)]
    adapters = [replace(a, head=replace(a.head, labels=())) for a in adapters]
    encoded = encode_task(tokenizer, task, "test")
    merged = merge(adapters, "task_arithmetic", scaling=1.0)
    heads = {"task-0": adapters[0].head}
    marks = [
        [*evaluate(model, tokenizer, subject, [encoded], heads=heads)][-1].marks for subject in (adapters[0], merged)
    ]
    said = [outcome(hits(model, tokenizer, subject, [encoded], heads=heads)) for subject in (adapters[0], merged)]
    return task, marks, said


def test_broken_and_mended_rows_are_a_recount_of_the_evaluations(both) -> None:
    task, (own, merged), said = both
    frame = changed_rows(task.test.texts, task.test.labels, task.labels, *said)
    for kind, mine, theirs in (("broken", "1", "0"), ("mended", "0", "1")):
        expected = {row for row, pair in enumerate(zip(own, merged, strict=True)) if pair == (mine, theirs)}
        assert expected
        assert set(frame[frame.kind == kind].row) == expected
    for row in frame.itertuples():
        assert row.text == task.test.texts[row.row]
        assert row.truth == task.labels[task.test.labels[row.row]]
        assert (row.first == row.truth) == (row.kind == "broken")
    assert frame[frame.kind == "broken"].sure_second.is_monotonic_decreasing
    assert frame[frame.kind == "mended"].sure_first.is_monotonic_decreasing


def test_the_confusion_counts_every_row_once(both) -> None:
    task, (own, merged), (first, second) = both
    table = confusion(task.labels, first, second)
    assert list(table.index) == list(table.columns) == list(task.labels)
    assert int(table.to_numpy().sum()) == len(own) == len(merged)
    for i, a in enumerate(task.labels):
        for j, b in enumerate(task.labels):
            pairs = zip(first.predicted, second.predicted, strict=True)
            assert table.loc[a, b] == sum(pair == (i, j) for pair in pairs)


@pytest.mark.parametrize(("a", "b"), [(0, 0), (1, 0), (5, 5), (9, 2), (30, 11)])
def test_mcnemar_is_the_tails_of_fair_coins(a: int, b: int) -> None:
    n, k = a + b, max(a, b)
    tail = sum(comb(n, i) for i in range(k, n + 1)) / 2**n
    assert mcnemar(a, b) == mcnemar(b, a) == pytest.approx(min(1.0, 2 * tail))


def test_outcomes_of_other_rows_are_refused(both) -> None:
    task, _, (first, _) = both
    short = Outcome("task-0", first.predicted[:3], first.confidence[:3])
    with pytest.raises(MergeError) as refused:
        changed_rows(task.test.texts, task.test.labels, task.labels, first, short)
    assert one_sentence(refused.value, "same rows")
    with pytest.raises(MergeError):
        outcome([])


def test_no_row_changes_between_one_and_itself(both) -> None:
    task, _, (first, _) = both
    empty = changed_rows(task.test.texts, task.test.labels, task.labels, first, first)
    assert isinstance(empty, pd.DataFrame)
    assert empty.empty
