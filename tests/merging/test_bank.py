"""The bank draws the same merges everywhere, and describes them exactly."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from builders import QUERY, dense, equal_pool, mixed_pool, task_features, tiny_model, with_deltas

from merging import MergeError, merge
from merging.bank import ON_DATA, ROWS, SIZE, SUBSETS, WEIGHTS_ONLY, Bank, describe, draw, missing, weights_only
from merging.methods import METHODS
from merging.pools import load_pool
from merging.search import Contender


def test_a_draw_depends_on_its_number_only() -> None:
    assert [draw(i) for i in (5, 3)] == [draw(5), draw(3)]
    draws = [draw(i) for i in range(SIZE)]
    assert {d.tasks for d in draws} == set(SUBSETS)
    assert len(SUBSETS) == 57
    assert {len(d.tasks) for d in draws} == {2, 3, 4, 5, 6}
    assert {d.method for d in draws} == {name for name, method in METHODS.items() if "task_id" not in method.needs}
    assert all(d.orthogonalize == "off" and not d.decouple and not d.mu for d in draws if not METHODS[d.method].plugins)


@pytest.mark.parametrize("method", ["task_arithmetic", "ties"])
def test_what_compares_the_merge_with_its_parents_is_the_dense_formula(method: str) -> None:
    pool = equal_pool(3)
    features = task_features(tiny_model(), 3)
    result = merge(pool, method, scaling=0.6)
    found = describe(result, features)
    assert set(found) == {*WEIGHTS_ONLY, *ON_DATA}
    assert (found["scaling"], found["tasks"]) == (0.6, 3.0)
    assert weights_only(result) == {name: found[name] for name in WEIGHTS_ONLY}
    distances, norms, errors, cosines = [], [], [], []
    for adapter in pool:
        updates, inner, merged_energy, own_energy = dense(adapter), 0.0, 0.0, 0.0
        for module in result.modules:
            M, W = result.delta(module).double(), updates[module].double()
            S = features.second_moment(adapter.task, module)
            distances.append(float((M - W).norm() / W.norm()))
            norms.append(float(M.norm() / W.norm()))
            errors.append(math.sqrt(float(((M - W) @ S @ (M - W).T).trace() / (W @ S @ W.T).trace())))
            inner, merged_energy, own_energy = (
                inner + float((M * W).sum()),
                merged_energy + float(M.norm() ** 2),
                own_energy + float(W.norm() ** 2),
            )
        cosines.append(inner / math.sqrt(merged_energy * own_energy))
    assert found["distance"] == pytest.approx(np.mean(distances), rel=1e-5)
    assert found["merged_norm"] == pytest.approx(np.mean(norms), rel=1e-5)
    assert found["output_error"] == pytest.approx(np.mean(errors), rel=1e-4)
    assert (found["alignment"], found["weakest_alignment"]) == pytest.approx((np.mean(cosines), min(cosines)), rel=1e-5)


def test_a_method_without_a_scaling_is_described_with_one() -> None:
    assert weights_only(merge(equal_pool(2), "average"))["scaling"] == 1.0


def test_an_adapter_that_lacks_a_module_or_is_zero_there_is_described_without_it() -> None:
    pool = mixed_pool()
    silent = with_deltas(pool[0], lambda module, update: update * (0.0 if module == QUERY else 1.0))
    found = describe(merge([silent, *pool[1:]], "task_arithmetic"), task_features(tiny_model(), 5))
    assert all(math.isfinite(value) for value in found.values())


def test_a_zero_merge_is_described_without_nan() -> None:
    found = describe(merge(equal_pool(2), "task_arithmetic", scaling=0.0))
    assert found["alignment"] == 0.0
    assert found["distance"] == pytest.approx(1.0)
    assert all(math.isfinite(value) for value in found.values())


def test_the_quick_bank_measures_merges_of_the_shipped_pools_once(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "merging.cli", "experiment", "bank", "--quick", "-o", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    bank = pd.read_csv(tmp_path / "bank.csv")
    assert bank.number.tolist() == list(range(12))
    assert [draw(i).method for i in bank.number] == bank.method.tolist()
    assert bank[[*WEIGHTS_ONLY, *ON_DATA, "normalised"]].notna().all().all()
    assert bank.normalised.between(0.2, 1.3).all()
    assert "12 merges" in done.stdout
    for row in bank[~bank.method.eq("regmean") & bank.mu.eq(0)].itertuples():
        adapters = [adapter for adapter in load_pool(row.pool) if adapter.task in row.tasks_merged.split("+")]
        plugins = {"orthogonalize": row.orthogonalize, "decouple": row.decouple} if METHODS[row.method].plugins else {}
        found = weights_only(Contender(row.method, row.method, plugins).merge(adapters, row.scaling))
        assert found == pytest.approx({name: getattr(row, name) for name in WEIGHTS_ONLY}, abs=1e-4)
    bank.iloc[:-1].to_csv(tmp_path / "bank.csv", index=False)
    again = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert [line.partition(":")[0] for line in again.stdout.splitlines() if "keeps" in line] == ["11"]
    assert pd.read_csv(tmp_path / "bank.csv").equals(bank)


def test_a_table_of_other_rows_is_not_filled_up(tmp_path: Path) -> None:
    pd.DataFrame({"number": range(12), "rows": 80}).to_csv(tmp_path / "bank.csv", index=False)
    assert missing(tmp_path / "bank.csv", 14) == [12, 13]
    assert Bank(None, None, tmp_path / "bank.csv").rows == ROWS == 80
    with pytest.raises(MergeError, match="80 rows per task, not 60"):
        next(Bank(None, None, tmp_path / "bank.csv", rows=60).fill(14))
