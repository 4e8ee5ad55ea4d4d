"""A paired comparison counts the rows that both have answered, covers the truth, and is the same seen from the other
side.
"""

from __future__ import annotations

import numpy as np
import pytest

from merging.playground import mcnemar
from merging.playground.paired import AVERAGE, paired_table


def marks(rng: np.random.Generator, p: float, n: int) -> str:
    return "".join("1" if value < p else "0" for value in rng.random(n))


def test_it_counts_only_rows_that_both_have_answered() -> None:
    [row] = paired_table({"t": "1101.1"}, {"t": "10011."}).itertuples()
    assert (row.rows, row.only_first, row.only_second) == (4, 1, 0)
    assert (row.first, row.second, row.difference) == (75.0, 50.0, 25.0)
    assert row.p == mcnemar(1, 0)
    assert paired_table({"t": "...."}, {"t": "1111"}).empty
    assert paired_table({"t": "11"}, {"u": "11"}).empty


def test_the_other_side_has_the_opposite_sign() -> None:
    rng = np.random.default_rng(0)
    a, b = ({task: marks(rng, p, 200) for task in "xyz"} for p in (0.7, 0.6))
    one, two = paired_table(a, b), paired_table(b, a)
    assert list(one.task) == ["x", "y", "z", AVERAGE]
    assert one.difference.to_numpy() == pytest.approx(-two.difference.to_numpy())
    assert one.low.to_numpy() == pytest.approx(-two.high.to_numpy())
    assert one.p.to_numpy() == pytest.approx(two.p.to_numpy())
    assert one.difference.iloc[-1] == pytest.approx(one.difference.iloc[:3].mean())
    assert one.only_first.iloc[-1] == one.only_first.iloc[:3].sum()


def test_the_averages_interval_covers_the_true_difference() -> None:
    rng, covered = np.random.default_rng(1), 0
    for _ in range(300):
        a, b = ({task: marks(rng, p, 100) for task in "wxyz"} for p in (0.7, 0.65))
        row = paired_table(a, b).iloc[-1]
        covered += row.low <= 5.0 <= row.high
    assert 0.92 <= covered / 300 <= 0.98
