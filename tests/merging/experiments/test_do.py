"""The DO-Merging experiment: what is changed on purpose changes only that, and tables with known answers give known
verdicts.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from builders import equal_pool, mixed_pool, random_adapter
from commands import Done, command

from merging import LowRank, MergeError
from merging.experiments import do
from merging.experiments.do import DoExperiment
from merging.experiments.do_pieces.bench import Unit, best_scaling
from merging.experiments.do_pieces.geometry import aligned, layout_of, nudged, scaled, truncated, with_updates
from merging.experiments.do_pieces.markdown import markdown_do
from merging.experiments.do_pieces.results import Results, spearman
from merging.experiments.do_pieces.verdicts import FIGURES, NOT, OPEN, PARTLY, REPRODUCED, outcome, verdict
from merging.experiments.ledger import Ledger
from merging.experiments.sweep import ALONE, BASE, pack

# -- changes on purpose ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["A", "B", "both"])
@pytest.mark.parametrize("strength", [0.25, 1.0])
def test_turning_directions_together_keeps_every_singular_value(side: str, strength: float) -> None:
    pool = mixed_pool()
    turned = aligned([dict(adapter.deltas) for adapter in pool], strength, side)
    for adapter, updates in zip(pool, turned, strict=True):
        assert set(updates) == set(adapter.deltas)
        for module, update in adapter.deltas.items():
            assert updates[module].shape == update.shape
            assert torch.allclose(updates[module].svd()[1], update.svd()[1], rtol=1e-4)


def test_the_further_directions_are_turned_the_less_orthogonal_they_are() -> None:
    pool = equal_pool()
    updates = [dict(adapter.deltas) for adapter in pool]
    found = [layout_of(with_updates(pool, aligned(updates, s, "both")), pool) for s in (0.0, 0.25, 0.5, 0.75, 1.0)]
    for name in ("cosine", "overlap_A", "overlap_B", "moved"):
        values = [layout[name] for layout in found]
        assert values == sorted(values)
        assert values[-1] > values[0]
    # all share one subspace in the end
    assert found[-1]["overlap_A"] == pytest.approx(1.0, abs=1e-4)
    assert found[0]["moved"] < 1e-12


def test_one_side_is_turned_and_the_other_is_not() -> None:
    pool = equal_pool()
    layout = layout_of(with_updates(pool, aligned([dict(a.deltas) for a in pool], 1.0, "B")), pool)
    assert layout["overlap_B"] == pytest.approx(1.0, abs=1e-4)
    assert layout["overlap_A"] == pytest.approx(layout_of(pool, pool)["overlap_A"], rel=1e-4)


@pytest.mark.parametrize(("strength", "side"), [(1.5, "A"), (-0.1, "A"), (0.5, "C")])
def test_a_strength_or_side_that_makes_no_sense_is_refused(strength: float, side: str) -> None:
    with pytest.raises(MergeError, match="choose"):
        aligned([dict(adapter.deltas) for adapter in equal_pool()], strength, side)


def test_no_steps_are_no_nudge_and_more_steps_are_more_orthogonal() -> None:
    pool = equal_pool()
    same = nudged(pool, 0.1, 0)
    assert all(after.deltas == before.deltas for after, before in zip(same, pool, strict=True))
    cosines = [layout_of(nudged(pool, 0.1, steps), pool)["cosine"] for steps in (0, 2, 50)]
    assert cosines == sorted(cosines, reverse=True)


def test_scaling_one_adapter_leaves_the_others_alone() -> None:
    pool = equal_pool()
    changed = scaled(pool, "task-1", 4.0)
    module = next(iter(pool[1].deltas))
    assert changed[1].deltas[module].norm() == pytest.approx(4 * pool[1].deltas[module].norm())
    assert all(changed[i] is pool[i] for i in (0, 2, 3))


def test_a_truncation_says_which_share_of_the_energy_it_keeps() -> None:
    adapter = random_adapter(0, 2)
    flat = LowRank(torch.eye(8)[:, :2], torch.diag(torch.tensor([3.0, 1.0])) @ torch.eye(8)[:2])
    one = type(adapter)("one", {"m": flat})
    cut, kept = truncated(one, 1)
    assert cut.deltas["m"].rank == 1
    assert kept == pytest.approx(0.9)
    assert truncated(one, 2)[1] == pytest.approx(1.0)


# -- tables with known answers -----------------------------------------------------------------------------------------

ROWS = 100


def hits(right: int, **key: object) -> dict[str, object]:
    """Return a row of a table in which the first rows are right."""
    marks = "1" * right + "0" * (ROWS - right)
    return dict(key) | {"correct": right, "total": ROWS, "hits": pack(marks)}


def measured(right: int, method: str, scaling: float, split: str = "test", **key: object) -> list[dict[str, object]]:
    return [hits(right, **key, method=method, scaling=scaling, split=split, task=task) for task in ("a", "b")]


def write(folder: Path, name: str, rows: list[dict[str, object]]) -> None:
    Ledger(folder, "do").append(name, pd.DataFrame(rows))


def ends(folder: Path, name: str, base: int, alone: int) -> None:
    rows = [
        hits(right, method=method, scaling=0.0, task=task, set=name)
        for method, right in ((BASE, base), (ALONE, alone))
        for task in ("a", "b")
    ]
    write(folder, "ends", rows)


def test_gap_accuracy_and_the_best_scaling_are_those_of_the_rows(tmp_path: Path) -> None:
    ends(tmp_path, "default", 40, 80)
    rows = measured(50, "ties", 0.3, "validation", set="default", rank=0) + measured(
        60, "ties", 1.0, "validation", set="default", rank=0
    )
    rows += measured(60, "ties", 0.3, set="default", rank=0) + measured(70, "ties", 1.0, set="default", rank=0)
    write(tmp_path, "methods", rows)
    frame = Results(tmp_path).methods().set_index("scaling")
    assert frame.average.to_dict() == {0.3: 0.6, 1.0: 0.7}
    assert frame.gap.to_dict() == pytest.approx({0.3: 0.5, 1.0: 0.75})
    assert frame.best.to_dict() == {0.3: False, 1.0: True}
    assert frame.low[1.0] < 0.7 < frame.high[1.0]


def test_of_two_scalings_as_good_the_smaller_one_is_the_best() -> None:
    rows = pd.DataFrame(
        measured(50, "ties", 1.0, "validation") + measured(50, "ties", 0.3, "validation") + measured(9, "ties", 0.1)
    )
    assert best_scaling(rows) == 0.3


def test_a_component_is_compared_with_the_method_without_it_on_the_same_rows(tmp_path: Path) -> None:
    ends(tmp_path, "papers", 40, 80)
    rows = []
    for component, right in (("none", 60), ("both", 70)):
        for scaling in (0.3, 1.0):
            key = {"pool": "papers", "component": component}
            rows += measured(right, "ties", scaling, "validation", **key) + measured(right, "ties", scaling, **key)
        rows += measured(right, "average", 1.0, pool="papers", component=component)
    write(tmp_path, "components", rows)
    frame = Results(tmp_path).components().set_index(["method", "component", "λ"])
    assert frame.gain["ties", "both", "1"] == pytest.approx(0.1)
    assert frame.gain["ties", "none", "1"] == 0
    # a method without λ stands once
    assert [at for method, component, at in frame.index if method == "average" and component == "both"] == ["best"]
    assert frame.low["average", "both", "best"] > 0
    found = verdict("4a", Results(tmp_path))
    assert found.outcome == REPRODUCED
    assert "better in 2 (clearly in 2) of 2 at λ best" in found.measured


@pytest.mark.parametrize(("last", "expected"), [(80, REPRODUCED), (60, NOT)])
def test_single_tasks_are_stable_only_if_they_surely_are(tmp_path: Path, last: int, expected: str) -> None:
    rows = measured(80, ALONE, 0.0, pool="papers", penalty=0.0, steps=0) + measured(
        last, ALONE, 0.0, pool="papers", penalty=0.1, steps=50
    )
    write(tmp_path, "descent", rows)
    still = {"overlap_A": 0.0, "overlap_B": 0.0, "moved": 0.1}
    geometry = [
        {"pool": "papers", "penalty": g, "steps": n, "cosine": c} | still for g, n, c in ((0.0, 0, 0.2), (0.1, 50, 0.1))
    ]
    write(tmp_path, "descent_geometry", geometry)
    frame = Results(tmp_path).descent()
    assert frame[["penalty", "steps"]].to_numpy().tolist() == [[0.1, 0], [0.1, 50]]  # the start stands at every penalty
    found = verdict("3a", Results(tmp_path))
    assert found.outcome == expected
    assert f"{last - 80:+.1f}" in found.measured


def test_what_adapters_lose_by_themselves_is_no_effect_of_the_merge(tmp_path: Path) -> None:
    rows, geometry = [], []
    for side, merged, alone in (("A", 40, 70), ("B", 60, 50)):
        for strength, m, a in ((0.0, 80, 90), (1.0, merged, alone)):
            key = {"pool": "papers", "side": side, "strength": strength}
            rows += (
                measured(a, ALONE, 0.0, **key)
                + measured(m, "task_arithmetic", 0.3, **key)
                + measured(m, "task_arithmetic", 1.0, **key)
            )
            geometry.append(key | {"cosine": strength, "overlap_A": 0.0, "overlap_B": 0.0, "moved": 0.0})
    write(tmp_path, "directions", rows)
    write(tmp_path, "directions_geometry", geometry)
    # side A: 40 lost where the adapters lose 20; side B: 20 lost where they lose 40
    assert verdict("4b", Results(tmp_path)).outcome == PARTLY


def test_variance_is_reproduced_only_if_no_rate_of_the_full_fine_tunes_has_as_much(tmp_path: Path) -> None:
    rows = [
        ("full", "m", 0.01),
        ("full", "n", 0.02),
        ("default", "m", 0.3),
        ("default", "n", 0.1),
        ("full, lr 0.1, 9 rows", "m", 0.05),
    ]
    write(tmp_path, "variance", [{"source": s, "module": m, "variance": v, "norm_ratio": 1.0} for s, m, v in rows])
    found = verdict("1b", Results(tmp_path))
    assert (found.outcome, "13.3 times" in found.measured) == (REPRODUCED, True)
    write(tmp_path, "variance", [{"source": "full, lr 1, 9 rows", "module": "m", "variance": 0.5, "norm_ratio": 1.0}])
    assert verdict("1b", Results(tmp_path)).outcome == PARTLY


def test_the_rank_correlation_of_variance_and_accuracy_decides_figure_1c(tmp_path: Path) -> None:
    rows, geometry = [], []
    for factor, right, spread in ((0.25, 70, 0.3), (1.0, 80, 0.1), (4.0, 60, 0.9)):
        key = {"pool": "default", "scaled": "a" if factor != 1 else "none", "factor": factor}
        for scaling in (0.3, 1.0):
            rows += measured(right, "task_arithmetic", scaling, **key, variant="task_arithmetic")
            rows += measured(75, "task_arithmetic", scaling, **key, variant="decouple")
        if factor != 1:
            rows += [hits(55, **key, variant=ALONE, method=ALONE, scaling=0.0, split="test", task="a")]
        geometry.append(key | {"variance": spread, "norm_ratio": 1.0})
    write(tmp_path, "imbalance", rows)
    write(tmp_path, "imbalance_geometry", geometry)
    frame = Results(tmp_path).imbalance()
    assert frame[frame.factor == 4.0].own.unique().tolist() == [0.55]
    assert ALONE not in set(frame.variant)
    found = verdict("1c", Results(tmp_path))
    assert found.outcome == REPRODUCED
    assert "Task Arithmetic at λ 0.3 ρ = -1.00 (spread 0.200)" in found.measured


def test_without_tables_nothing_is_claimed_to_be_measured(tmp_path: Path) -> None:
    for figure in FIGURES:
        found = verdict(figure, Results(tmp_path))
        assert (found.outcome, found.measured) == (OPEN, "")
        assert found.line.endswith("Not measured yet.")
    assert markdown_do(tmp_path).count(f"| {OPEN} |") == len(FIGURES)


def test_an_outcome_needs_all_cases_or_some() -> None:
    assert [outcome(agree) for agree in ([True, True], [True, False], [False], [])] == [REPRODUCED, PARTLY, NOT, OPEN]
    assert spearman([1, 2, 3], [9, 4, 1]) == pytest.approx(-1)


# -- the work ----------------------------------------------------------------------------------------------------------


def test_units_wait_for_what_they_need_and_for_other_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def unit(name: str, *needs: str) -> Unit:
        def work() -> Iterator[str]:
            made.append(name)
            yield name

        return Unit(name, work, lambda: name in made, lambda: set(needs) <= set(made))

    ledger = Ledger(tmp_path, "do")
    other = ledger.claim("first")  # another process is at it
    assert other.__enter__()
    monkeypatch.setattr(do.time, "sleep", lambda _: other.__exit__(None, None, None))
    run = object.__new__(DoExperiment)
    run.tables, run.bench = tmp_path, SimpleNamespace(ledger=ledger)
    run.missing = lambda: iter(())
    run.units = lambda training: [unit("second", "first"), unit("first"), unit("third")]
    assert list(run.everything())[:-1] == ["third", "first", "second"]


def quick(folder: Path) -> Done:
    return command("experiment", "do", "--quick", "--adapters", folder, "-o", folder / "tables")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_quick_experiment_fills_every_table_and_does_nothing_twice(tmp_path: Path) -> None:
    done = quick(tmp_path)
    assert done.exit_code == 0, done.stderr
    names = {path.stem for path in (tmp_path / "tables").glob("*.csv")}
    expected = (
        "ends descent descent_geometry imbalance imbalance_geometry directions directions_geometry components methods "
        "variance columns rates runs truncation truncation_energy epochs ranks"
    )
    assert names == {f"do_{name}" for name in expected.split()}
    tables = {name: pd.read_csv(tmp_path / "tables" / f"{name}.csv") for name in names}
    rates = tables["do_rates"].groupby("learning_rate").validation.mean()
    runs = tables["do_runs"]
    assert set(runs[runs["set"] == "full"].learning_rate) == {rates.idxmax()}
    # the same rows, epochs and seeds of head and order in all sets of a task
    assert (runs[runs["set"].isin(["full", "rank-2"])].groupby("task")[["rows", "epochs", "seed"]].nunique() == 1).all(
        axis=None
    )
    energy = tables["do_truncation_energy"].energy
    assert ((energy > 0) & (energy < 1)).all()
    assert (tables["do_columns"]["quantile"].nunique(), set(tables["do_columns"].task)) == (19, {"sms_spam", "movie"})
    assert {"full", "default", "default, decoupled"} < set(tables["do_variance"].source)
    # one measurement is lost: only it is made again
    lost = tables["do_directions"]
    lost = lost[(lost.method != "do_merging") | (lost.scaling != 1.0) | (lost.strength != 1.0)]
    lost.to_csv(tmp_path / "tables" / "do_directions.csv", index=False)
    again = quick(tmp_path)
    assert again.exit_code == 0, again.stderr
    work = [line for line in again.stdout.partition("tables in")[0].splitlines() if not line.startswith("pool ")]
    assert len(work) == 1
    assert work[0].startswith("directions: pool default, side B, strength 1.0: do_merging at 1, test")
    assert len(pd.read_csv(tmp_path / "tables" / "do_directions.csv")) == len(tables["do_directions"])
    assert "### Figure 4b" in again.stdout
