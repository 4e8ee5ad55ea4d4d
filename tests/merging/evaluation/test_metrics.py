"""Metrics are scikit-learn's, on the rows that a stream has evaluated, and their intervals cover."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import HIDDEN, gaussian, made_up_task, quick, random_adapter
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, matthews_corrcoef

from merging import MergeError, merge
from merging.adapters.adapter import Head
from merging.evaluation.accuracy import encode_task, evaluate, hits
from merging.evaluation.metrics import macro_f1, matthews, metrics, predictions, resampled

SKLEARN = {
    "accuracy": accuracy_score,
    "macro_f1": lambda true, guess: f1_score(true, guess, average="macro"),
    "matthews": matthews_corrcoef,
}


def noisy(seed: int, n: int = 200, classes: int = 3, noise: float = 0.4) -> tuple[np.ndarray, np.ndarray]:
    """Return (labels, predictions) of which a share is drawn anew."""
    random = np.random.default_rng(seed)
    true = random.integers(0, classes, n)
    return true, np.where(random.random(n) < noise, random.integers(0, classes, n), true)


def test_values_are_scikit_learns() -> None:
    labels, guesses = {}, {}
    for i, task in enumerate("abc"):
        labels[task], guesses[task] = noisy(i, classes=i + 2)
    table = metrics(guesses, labels)
    assert list(table.columns) == ["task", "metric", "value", "low", "high", "n"]
    assert len(table) == 9
    for row in table.itertuples():
        assert row.value == pytest.approx(SKLEARN[row.metric](labels[row.task], guesses[row.task]))
        assert row.low < row.value < row.high
        assert row.n == 200


@quick
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=40))
def test_closed_forms_of_a_confusion_matrix_are_scikit_learns(rows: list[tuple[int, int]]) -> None:
    true, guess = zip(*rows, strict=True)
    counts = confusion_matrix(true, guess, labels=range(6)).astype(float)
    assert macro_f1(counts) == pytest.approx(f1_score(true, guess, average="macro", zero_division=0.0))
    assert matthews(counts) == pytest.approx(matthews_corrcoef(true, guess))


def test_a_bootstrap_of_cells_is_one_of_rows() -> None:
    true, guess = noisy(0)
    drawn = resampled(confusion_matrix(true, guess), np.random.default_rng(0))
    assert (drawn.sum((1, 2)) == len(true)).all()
    random = np.random.default_rng(1)
    by_rows = []
    for _ in range(400):
        picks = random.integers(0, len(true), len(true))
        by_rows.append(f1_score(true[picks], guess[picks], average="macro"))
    ours = macro_f1(drawn)
    assert ours.mean() == pytest.approx(np.mean(by_rows), abs=4 * np.std(by_rows) / 20)
    assert ours.std() == pytest.approx(np.std(by_rows), rel=0.15)


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    truth = dict(
        zip(*(metrics(*({"a": x} for x in noisy(0, 200_000)[::-1]))[c] for c in ("metric", "value")), strict=True)
    )
    covered = dict.fromkeys(truth, 0)
    for seed in range(100):
        true, guess = noisy(seed + 1)
        for row in metrics({"a": guess}, {"a": true}).itertuples():
            covered[row.metric] += row.low <= truth[row.metric] <= row.high
    assert all(88 <= count <= 100 for count in covered.values())


def test_the_same_seed_gives_the_same_interval() -> None:
    true, guess = noisy(0)
    first, again, other = (metrics({"a": guess}, {"a": true}, seed=seed) for seed in (0, 0, 1))
    assert first.equals(again)
    assert not first.equals(other)


def test_a_classifier_that_always_says_one_class_has_no_correlation() -> None:
    table = metrics({"a": [1] * 10}, {"a": [0, 1] * 5}).set_index("metric")
    assert table.value.to_dict() == pytest.approx({"accuracy": 0.5, "macro_f1": 1 / 3, "matthews": 0.0})


def test_a_stream_gives_every_rows_prediction_and_evaluates_accuracy(model, tokenizer) -> None:
    tasks = [made_up_task("task-0", 60), made_up_task("task-1", 200, 3, seed=1)]
    adapters = [
        replace(
            random_adapter(i, scale=0.1),
            head=Head("pooled", {"weight": gaussian(i, 2 + i, HIDDEN).float(), "bias": torch.zeros(2 + i)}),
        )
        for i in range(2)
    ]
    merged = merge(adapters, "average")
    encoded = [encode_task(tokenizer, task) for task in tasks]
    labels = {task.name: task.labels for task in encoded}
    batches = list(hits(model, tokenizer, merged, encoded))
    for batch in batches:
        assert torch.equal(batch.right, batch.predicted == labels[batch.task][batch.rows])
    found = predictions(batches)
    assert all((values >= 0).all() and len(values) == len(labels[task]) for task, values in found.items())
    last = {p.task: p for p in evaluate(model, tokenizer, merged, encoded)}
    for row in metrics(found, labels).query("metric == 'accuracy'").itertuples():
        assert (row.value, (row.low, row.high)) == (
            pytest.approx(last[row.task].accuracy),
            pytest.approx(last[row.task].interval),
        )
    part = predictions(batches[:3])
    table = metrics(part, labels)
    assert table.n.tolist() == [int((part[task] >= 0).sum()) for task in table.task]


@pytest.mark.parametrize(
    ("predicted", "labels", "words"),
    [
        ({"a": [0]}, {"b": [0]}, "no labels for the task 'a'"),
        ({"a": [0]}, {"a": [0, 1]}, "1 predictions but 2 labels"),
        ({"a": [-1, -1]}, {"a": [0, 1]}, "No row of the task 'a'"),
    ],
)
def test_what_cannot_be_measured_is_refused(predicted: dict, labels: dict, words: str) -> None:
    with pytest.raises(MergeError, match=words):
        metrics(predicted, labels)
