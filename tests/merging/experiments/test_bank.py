"""The bank draws the same merges everywhere, and describes them exactly."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from builders import QUERY, dense, equal_pool, mixed_pool, random_update, task_features, tiny_model, with_deltas
from commands import command

from merging import Adapter, Decouple, Head, MergeError, Task, merge
from merging.evaluation.intervals import has_gap
from merging.experiments.bank import (
    KEYS,
    MERGED_POOLS,
    ON_DATA,
    ROWS,
    SIZE,
    SUBSETS,
    WEIGHTS_ONLY,
    Bank,
    describe,
    draw,
)
from merging.experiments.sweep import ALONE, BASE, as_rows, marks_of, unpack
from merging.methods import METHODS
from merging.models.load import load_base
from merging.shipped import SHIPPED, load_pool
from merging.tasks.task import DEFAULT_TASKS
from merging.training.settings import TrainingSettings


def test_a_draw_depends_on_its_number_only() -> None:
    assert [draw(i) for i in (5, 3)] == [draw(5), draw(3)]
    draws = [draw(i) for i in range(SIZE)]
    assert {d.tasks for d in draws} == set(SUBSETS)
    assert len(SUBSETS) == 247
    assert {len(d.tasks) for d in draws} == set(range(2, 9))
    assert {d.pool for d in draws} == set(MERGED_POOLS)
    assert {d.method for d in draws} == {name for name, method in METHODS.items() if "task_id" not in method.needs}
    bare = [d for d in draws if not METHODS[d.method].plugins]
    assert all(d.orthogonalize == "off" and d.decouple == Decouple(0.0) and not d.mu for d in bare)
    decoupled = [d.decouple for d in draws if d.decouple.strength]
    for option, values in (
        ("granularity", {"column", "module"}),
        ("max_up", {None, 2.0}),
        ("renormalise", {False, True}),
    ):
        assert {getattr(each, option) for each in decoupled} == values


def test_the_pools_of_the_bank_are_shipped_ones_of_all_tasks() -> None:
    assert all(SHIPPED[pool].tasks == DEFAULT_TASKS for pool in MERGED_POOLS)


@pytest.mark.parametrize("method", ["task_arithmetic", "ties"])
def test_what_compares_the_merge_with_its_parents_is_the_dense_formula(method: str) -> None:
    pool = equal_pool(3)
    features = task_features(tiny_model(), 3)
    result = merge(pool, method, scaling=0.6)
    found = describe(result, features)
    assert set(found) == {*WEIGHTS_ONLY, *ON_DATA}
    assert (found["scaling"], found["tasks"]) == (0.6, 3.0)
    assert describe(result) == {name: found[name] for name in WEIGHTS_ONLY}
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
    assert describe(merge(equal_pool(2), "average"))["scaling"] == 1.0


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


# -- measured ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the pool `papers`, random adapters of all eight tasks, and of `unequal` one adapter only."""
    root = tmp_path_factory.mktemp("pools")
    modules = [f"encoder.layer.{layer}.attention.self.{kind}" for layer in (0, 3) for kind in ("query", "value")]
    for i, name in enumerate(DEFAULT_TASKS):
        labels = Task.load(name).labels
        deltas = {module: random_update(10 * i + j, 384, 384, 2) * 0.02 for j, module in enumerate(modules)}
        weight = torch.randn(len(labels), 384, generator=torch.Generator().manual_seed(i))
        head = Head("pooled", {"weight": weight, "bias": torch.zeros(len(labels))}, labels)
        Adapter(name, deltas, task=name, base="minilm", head=head).save(root / "papers" / name)
        metadata = root / "papers" / name / "mergescope.json"
        metadata.write_text(json.dumps({"task": name, "training": asdict(TrainingSettings(k=8))}))
    shutil.copytree(root / "papers" / "trec", root / "unequal" / "trec")
    return root


def run(pools: Path, tables: Path) -> str:
    done = command("experiment", "bank", "--quick", "--adapters", pools, "-o", tables)
    assert done.exit_code == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_quick_bank_measures_merges_of_the_pools_that_are_there_once(pools: Path, tmp_path: Path) -> None:
    said = run(pools, tmp_path)
    expected = [number for number in range(12) if draw(number).pool == "papers"]
    bank, ends = (pd.read_csv(tmp_path / f"bank_{name}.csv", dtype={"hits": str}) for name in ("merges", "ends"))
    assert bank.number.tolist() == expected
    assert "unequal: left out" in said
    assert f"{12 - len(expected)} of 12 merges are left" in said
    assert set(ends.method) == {BASE, ALONE}
    assert len(ends) == 2 * len(DEFAULT_TASKS)
    assert bank[[*KEYS, *WEIGHTS_ONLY, *ON_DATA, "accuracy_kept"]].notna().all().all()
    for row in bank.itertuples():
        chosen = draw(row.number)
        assert {name: getattr(row, name) for name in KEYS} == chosen.key
        adapters = [adapter for adapter in load_pool("papers", pools) if adapter.task in chosen.tasks]
        if METHODS[chosen.method].needs or chosen.mu:
            continue
        found = describe(chosen.merge(adapters, None))
        assert found == pytest.approx({name: getattr(row, name) for name in WEIGHTS_ONLY}, abs=1e-4)
    bank.iloc[:-1].to_csv(tmp_path / "bank_merges.csv", index=False)
    again = run(pools, tmp_path)
    assert [line.partition(":")[0] for line in again.splitlines() if "keeps" in line] == [str(expected[-1])]
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "bank_merges.csv", dtype={"hits": str}), bank)


def test_a_row_holds_the_gap_recovered_and_the_accuracy_kept_of_its_hits(pools: Path, tmp_path: Path) -> None:
    bank = Bank(*load_base("minilm"), tmp_path, pools, rows=24)
    marks = {"trec": ("0" * 24, "1" * 24), "movie": ("10" * 12, "1" * 18 + "0" * 6), "bbc": ("1" * 24, "1" * 24)}
    for end, name in enumerate((BASE, ALONE)):
        rows = as_rows({task: marks.get(task, ("01" * 12, "01" * 12))[end] for task in DEFAULT_TASKS}, name, 0.0)
        bank.ledger.append("ends", rows.assign(pool="papers"))
    number = next(n for n in range(SIZE) if {"trec", "movie", "bbc"} < set(draw(n).tasks) and draw(n).pool == "papers")
    row = bank.measured(draw(number))
    hits = {task: unpack(packed, 24).mean() for task, packed in json.loads(row["hits"]).items()}
    base, alone = (marks_of(bank.ledger.rows("ends", pool="papers"), end) for end in (BASE, ALONE))
    counted = [task for task in hits if has_gap(base[task], alone[task])]
    shares = [(hits[task] - base[task].mean()) / (alone[task].mean() - base[task].mean()) for task in counted]
    assert "trec" in counted
    assert "bbc" not in counted
    assert row["gap_tasks"] == len(counted)
    assert row["gap_recovered"] == pytest.approx(np.mean(shares), abs=1e-6)
    assert row["accuracy_kept"] == pytest.approx(np.mean([hits[task] / alone[task].mean() for task in hits]), abs=1e-6)


def test_a_pool_that_another_process_is_at_is_left_to_it(pools: Path, tmp_path: Path) -> None:
    with Bank(None, None, tmp_path).ledger.claim("papers"):
        said = list(Bank(None, None, tmp_path, pools).fill(12))
    assert "papers: left to the process that is at it" in said
    assert not list(tmp_path.glob("*.csv"))


def test_a_table_of_other_rows_is_not_filled_up(tmp_path: Path) -> None:
    pd.DataFrame({"number": range(12), "rows": 80}).to_csv(tmp_path / "bank_merges.csv", index=False)
    assert Bank(None, None, tmp_path).missing(14) == [12, 13]
    assert Bank(None, None, tmp_path).rows == ROWS == 80
    with pytest.raises(MergeError, match="80 rows per task, not 60"):
        next(Bank(None, None, tmp_path, rows=60).fill(14))
