"""Sweeps measure the grid, go beyond its edge where the best value is there, and never measure a point twice."""

from __future__ import annotations

import pandas as pd
import pytest

from merging.experiments.sweep import (
    SCALINGS,
    averages,
    best_scalings,
    marks_of,
    missing_points,
    pack,
    scalings_on_test,
    unpack,
)


def measured(accuracy: dict[float, int], method: str = "ties") -> pd.DataFrame:
    """Return a sweep of one task in which `accuracy` gives the right answers out of 100 per scaling."""
    rows = [(method, scaling, "only", right, 100) for scaling, right in accuracy.items()]
    return pd.DataFrame(rows, columns=["method", "scaling", "task", "correct", "total"])


def test_an_empty_table_lacks_the_whole_grid() -> None:
    assert missing_points(measured({}), ["ties", "average"]) == [*(("ties", s) for s in SCALINGS), ("average", 1.0)]


def test_what_is_measured_is_not_measured_again() -> None:
    table = measured({s: 50 + (s == 0.4) for s in SCALINGS if s != 0.3})
    assert missing_points(table, ["ties"]) == [("ties", 0.3)]


def test_an_interior_best_value_ends_the_search() -> None:
    assert missing_points(measured({s: 50 + (s == 0.4) for s in SCALINGS}), ["ties"]) == []


@pytest.mark.parametrize(("slope", "expected"), [(-1, [0.05, 0.025]), (1, [3.0, 6.0])])
def test_the_grid_goes_beyond_the_edge_twice(slope: int, expected: list[float]) -> None:
    scores = {s: 50 + slope * place for place, s in enumerate(SCALINGS)}
    added = []
    while points := missing_points(measured(scores), ["ties"]):
        [(_, scaling)] = points
        added.append(scaling)
        scores[scaling] = max(scores.values()) + 1
    assert added == pytest.approx(expected)


def test_of_equal_values_the_smaller_scaling_is_best() -> None:
    assert best_scalings(measured({0.2: 70, 0.4: 70, 0.7: 60})) == {"ties": 0.2}


def test_averages_name_the_worst_task() -> None:
    rows = [("ties", 1.0, "good", 90, 100), ("ties", 1.0, "bad", 50, 100)]
    row = averages(pd.DataFrame(rows, columns=["method", "scaling", "task", "correct", "total"])).iloc[0]
    assert (row.average, row.worst_task, row.worst) == (0.7, "bad", 0.5)
    assert row.average - row.low == pytest.approx(1.959964 * (0.9 * 0.1 / 100 + 0.5 * 0.5 / 100) ** 0.5 / 2, rel=1e-6)


@pytest.mark.parametrize("marks", ["1", "10110", "0000", "111111111"])
def test_packed_marks_come_back(marks: str) -> None:
    assert unpack(pack(marks), len(marks)).tolist() == [float(mark) for mark in marks]


def test_every_scaled_method_is_tested_at_what_papers_fix_and_at_its_best() -> None:
    assert scalings_on_test("ties", 0.7) == (0.3, 1.0, 0.7)
    assert scalings_on_test("ties", 1.0) == (0.3, 1.0)
    assert scalings_on_test("average", 1.0) == (1.0,)


def test_marks_come_back_by_method_scaling_and_task() -> None:
    rows = [("ties", 0.1 + 0.2, "only", 1, 3, pack("010")), ("ties", 1.0, "only", 3, 3, pack("111"))]
    table = pd.DataFrame(rows, columns=["method", "scaling", "task", "correct", "total", "hits"])
    assert {task: marks.tolist() for task, marks in marks_of(table, "ties", 0.3).items()} == {"only": [0.0, 1.0, 0.0]}
    assert marks_of(table, "ties", 1.0, rows=2)["only"].tolist() == [1.0, 1.0]
    assert marks_of(table, "svd", 1.0) == {}
