"""The bank draws the same merges everywhere, describes them exactly, and does not flatter its predictor."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from builders import QUERY, dense, equal_pool, mixed_pool, task_features, tiny_model, with_deltas

from merging import merge
from merging.bank import ON_DATA, SIZE, SUBSETS, WEIGHTS_ONLY, correlations, cross_validated, describe, draw, markdown
from merging.methods import METHODS


def made_up_bank(noise: float = 0.01, rows: int = 120) -> pd.DataFrame:
    """Return a bank in which the accuracy falls with `distance` and nothing else matters."""
    random = np.random.default_rng(0)
    bank = pd.DataFrame({name: random.normal(size=rows) for name in (*WEIGHTS_ONLY, *ON_DATA)})
    bank["tasks_merged"] = [f"subset-{i % 12}" for i in range(rows)]
    return bank.assign(normalised=0.9 - 0.05 * bank.distance + noise * random.normal(size=rows))


def test_a_draw_depends_on_its_number_only() -> None:
    assert [draw(i) for i in (5, 3)] == [draw(5), draw(3)]
    draws = [draw(i) for i in range(SIZE)]
    assert len({d.tasks for d in draws}) <= SUBSETS
    assert {len(d.tasks) for d in draws} == {2, 3, 4, 5, 6}
    assert {d.method for d in draws} == {name for name, method in METHODS.items() if "task_id" not in method.needs}
    assert all(d.orthogonalize == "off" and not d.decouple and not d.mu for d in draws if not METHODS[d.method].plugins)


@pytest.mark.parametrize("method", ["task_arithmetic", "ties"])
def test_what_compares_the_merge_with_its_parents_is_the_dense_formula(method: str) -> None:
    pool = equal_pool(3)
    features = task_features(tiny_model(), 3)
    result = merge(pool, method, scaling=0.6)
    found = describe(result, features)
    assert set(found) | {"scaling"} == {*WEIGHTS_ONLY, *ON_DATA}
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


def test_what_decides_comes_first_and_what_does_not_is_not_said_to_predict() -> None:
    table = correlations(made_up_bank(), samples=300)
    assert table.diagnostic[0] == "distance"
    assert table.rho[0] < -0.9
    assert table.predicts[0]
    assert table.predicts.sum() <= 4  # of 16 that have no effect, an interval of 95 % may miss 0 now and then
    assert (table.low <= table.rho).all()
    assert (table.rho <= table.high).all()


def test_the_predictor_beats_the_mean_where_there_is_something_to_know_and_only_there() -> None:
    assert cross_validated(made_up_bank()).useful
    bank = made_up_bank()
    shuffled = bank.assign(normalised=np.random.default_rng(1).permutation(bank.normalised))
    assert not cross_validated(shuffled).useful


def test_no_subset_is_both_learned_from_and_predicted() -> None:
    # each subset has its own level that no diagnostic tells: who peeks would predict it
    bank = made_up_bank(noise=0.0)
    levels = dict(
        zip(sorted(set(bank.tasks_merged)), torch.randn(12, generator=torch.Generator().manual_seed(0)).tolist(), strict=True)
    )
    bank = bank.assign(scaling=bank.tasks_merged.map(levels), normalised=bank.tasks_merged.map(lambda s: levels[s] ** 2 % 1))
    found = cross_validated(bank)
    assert found.error > 0.5 * found.mean_error


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
    bank.iloc[:-1].to_csv(tmp_path / "bank.csv", index=False)
    again = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert [line.partition(":")[0] for line in again.stdout.splitlines() if "keeps" in line] == ["11"]
    assert pd.read_csv(tmp_path / "bank.csv").equals(bank)


def test_the_table_states_how_far_off_the_predictor_is() -> None:
    text = markdown(made_up_bank())
    assert "better than always saying the mean" in text
    assert all(f"| {name} |" in text for name in (*WEIGHTS_ONLY, *ON_DATA))
