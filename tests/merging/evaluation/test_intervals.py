"""Gap recovered and its intervals: exact on known marks, paired, and wider where training seeds differ."""

from __future__ import annotations

import math

import numpy as np
import pytest

from merging.evaluation.intervals import average, difference, gap_recovered, has_gap


def marks(right: int, rows: int = 200) -> np.ndarray:
    """Return a task's marks with the first ``right`` rows right."""
    return np.array([row < right for row in range(rows)], dtype=float)


BASE, ALONE = {"a": marks(100), "b": marks(120)}, {"a": marks(180), "b": marks(160)}


@pytest.mark.parametrize(("merged", "share"), [(BASE, 0.0), (ALONE, 1.0), ({"a": marks(140), "b": marks(150)}, 0.625)])
def test_the_gap_recovered_is_the_mean_of_the_tasks_shares(merged: dict[str, np.ndarray], share: float) -> None:
    found = gap_recovered(BASE, ALONE, merged)
    assert found.mean == pytest.approx(share)
    assert found.low <= found.mean <= found.high


def test_below_the_base_the_share_is_negative() -> None:
    assert gap_recovered(BASE, ALONE, {"a": marks(60), "b": marks(100)}).mean == pytest.approx(-0.5)


def test_a_task_without_a_clear_gap_does_not_count() -> None:
    base, alone = BASE | {"c": marks(100)}, ALONE | {"c": marks(102)}
    merged = {"a": marks(140), "b": marks(140), "c": marks(40)}
    found = gap_recovered(base, alone, merged)
    assert set(found.tasks) == {"a", "b"}
    assert found.mean == pytest.approx(0.5)
    assert not has_gap(base["c"], alone["c"])


def test_without_any_gap_there_is_no_number() -> None:
    found = gap_recovered(BASE, BASE, ALONE)
    assert math.isnan(found.mean) and found.tasks == {}


def test_a_difference_is_paired() -> None:
    value, low, high = difference({"a": marks(105)}, {"a": marks(100)})
    assert value == pytest.approx(0.025)
    # two independent proportions of 200 rows would be about 0.2 apart at either end
    assert 0.0 <= low < 0.025 < high < 0.06


def test_the_interval_of_an_average_is_that_of_its_proportions() -> None:
    value, low, high = average({"a": marks(100), "b": marks(100)})
    assert value == 0.5
    assert high - low == pytest.approx(2 * 1.96 * math.sqrt(0.25 / 200 / 2), rel=0.1)


def test_seeds_that_disagree_widen_the_interval() -> None:
    steady = {"a": np.stack([marks(100)] * 4)}
    shaky = {"a": np.stack([marks(60), marks(80), marks(120), marks(140)])}
    widths = [high - low for _, low, high in map(average, (steady, shaky))]
    assert average(shaky)[0] == pytest.approx(average(steady)[0])
    assert widths[1] > 1.5 * widths[0]


def test_what_has_no_seeds_is_compared_with_what_has() -> None:
    merged = {"a": np.stack([marks(140), marks(150)])}
    assert gap_recovered({"a": marks(100)}, {"a": marks(180)}, merged).mean == pytest.approx(45 / 80)
