"""What a search maximises has its closed form, and stopping early never loses the merge that would have won."""

from __future__ import annotations

import math

import numpy as np
import pytest

from merging import MergeError
from merging.evaluation.intervals import Marks, gap_recovered
from merging.experiments.sweep import ALONE, BASE, marks_of, read_table
from merging.io.assets import assets_folder
from merging.tuning.goal import FIRST_LOOK, Goal, as_marks

POOLS = ("papers", "default")
REPLAYS = 20
LOOK = 32
"""Rows between two looks, as a batch has."""


def drawn(seed: int, accuracy: float, rows: int = 50) -> np.ndarray:
    return (np.random.default_rng(seed).random(rows) < accuracy).astype(float)


def test_the_goals_have_their_closed_forms() -> None:
    merged, base = {"a": drawn(0, 0.8), "b": drawn(1, 0.6)}, {"a": drawn(2, 0.3), "b": drawn(3, 0.2)}
    alone = {"a": drawn(4, 0.95), "b": drawn(5, 0.95)}
    means = [merged["a"].mean(), merged["b"].mean()]
    assert Goal.of("average", ["a", "b"]).value(merged) == pytest.approx(np.mean(means))
    assert Goal.of("average", ["a", "b"], {"a": 3.0}).value(merged) == pytest.approx((3 * means[0] + means[1]) / 4)
    assert Goal.of("worst", ["a", "b"]).value(merged) == min(means)
    gap = Goal.of("gap", ["a", "b"], base=base, alone=alone)
    assert gap.value(merged) == pytest.approx(gap_recovered(base, alone, merged, draws=10).mean)
    assert gap.value(base) == pytest.approx(0.0)
    assert gap.value(alone) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("kind", "importance"), [("best", {}), ("average", {"a": -1.0, "b": 2.0}), ("average", {"a": 0.0, "b": 0.0})]
)
def test_what_is_no_goal_is_refused(kind: str, importance: dict[str, float]) -> None:
    with pytest.raises(MergeError):
        Goal.of(kind, ["a", "b"], importance)


def test_no_gap_is_refused() -> None:
    same = {"a": drawn(0, 0.5)}
    with pytest.raises(MergeError, match="no gap"):
        Goal.of("gap", ["a"], base=same, alone=same)


@pytest.mark.parametrize("kind", ["average", "worst"])
def test_what_is_far_below_is_stopped_and_what_is_near_is_not(kind: str) -> None:
    goal, best = Goal.of(kind, ["a", "b"]), {"a": drawn(0, 0.9, 100), "b": drawn(1, 0.9, 100)}
    for accuracy, hopeless in ((0.3, True), (0.88, False)):
        seen = {task: drawn(place + 2, accuracy, 100) for place, task in enumerate("ab")}
        for rows in (FIRST_LOOK - 1, 40):
            part = {task: np.where(np.arange(100) < rows, values, math.nan) for task, values in seen.items()}
            assert goal.hopeless(part, best) == (hopeless and rows >= FIRST_LOOK)


def replay(goal: Goal, candidates: list[Marks], seed: int) -> tuple[int, int, int]:
    """Search a table with rows and candidates in another order; return (winner, rows measured, rows of all)."""
    random = np.random.default_rng(seed)
    order = {task: random.permutation(len(values)) for task, values in candidates[0].items()}
    shuffled = [{task: marks[task][order[task]] for task in order} for marks in candidates]
    total = min(len(rows) for rows in order.values())
    best, measured = -1, 0
    for place in random.permutation(len(shuffled)).tolist():
        marks, stopped = shuffled[place], False
        for seen in range(8, total, LOOK):
            part = {task: np.where(np.arange(len(row)) < seen, row, math.nan) for task, row in marks.items()}
            if best >= 0 and goal.hopeless(part, shuffled[best]):
                stopped, measured = True, measured + seen
                break
        if not stopped:
            measured += total
            if best < 0 or goal.value(marks) > goal.value(shuffled[best]):
                best = place
    return best, measured, total * len(shuffled)


@pytest.mark.parametrize("kind", ["average", "worst", "gap"])
@pytest.mark.parametrize("pool", POOLS)
def test_replays_of_shipped_tables_never_lose_the_winner(pool: str, kind: str) -> None:
    table = read_table(assets_folder() / "tables" / f"test_{pool}.csv")
    ends = [marks_of(table, name) for name in (BASE, ALONE)]
    points = table[~table.method.isin([BASE, ALONE])].groupby(["method", "scaling"], sort=False)
    candidates = [marks_of(table, str(method), float(scaling)) for (method, scaling), _ in points]
    goal = Goal.of(kind, [*candidates[0]], base=ends[0], alone=ends[1])
    highest = max(goal.value(marks) for marks in candidates)
    measured = whole = 0
    for seed in range(REPLAYS):
        winner, seen, everything = replay(goal, candidates, seed)
        assert goal.value(candidates[winner]) == highest
        measured, whole = measured + seen, whole + everything
    assert measured < (0.95 if kind == "worst" else 0.8) * whole


def test_marks_that_are_not_there_yet_are_no_numbers() -> None:
    assert np.array_equal(as_marks({"a": "10."})["a"], [1.0, 0.0, math.nan], equal_nan=True)
