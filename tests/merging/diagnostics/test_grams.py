"""Grams: every inner product against the dense updates, and what follows from them against the rows of the texts
themselves.
"""

import numpy as np
import pytest
import torch
from builders import (
    MODULES,
    dense,
    gaussian,
    mixed_pool,
    random_adapter,
    sentences,
    tiny_model,
    token_rows,
    with_deltas,
)

from merging import collect_features, merge
from merging.adapters.lowrank import LowRank
from merging.diagnostics.grams import grams, merge_error, merge_error_at, merge_grams
from merging.diagnostics.linked import diagnose
from merging.diagnostics.measures import interference
from merging.plugins.decouple import Decouple, decouple
from merging.plugins.orthogonalize import Orthogonalize


@pytest.fixture(scope="module")
def pool():
    return mixed_pool()


@pytest.fixture(scope="module")
def plugged(pool):
    return decouple([dict(adapter.deltas) for adapter in pool], Decouple(0.7))


@pytest.fixture(scope="module")
def read(pool, tokenizer):
    model = tiny_model()
    texts = {adapter.task: sentences(i, 5) for i, adapter in enumerate(pool)}
    return model, texts, collect_features(model, tokenizer, texts, k=5, modules=list(MODULES))


def rows_of(read, task: str, module: str) -> torch.Tensor:
    model, texts, _ = read
    return torch.cat(token_rows(model, texts[task], module))


def zero_or_dense(deltas, module: str) -> torch.Tensor:
    return deltas[module].dense().double() if module in deltas else torch.zeros(MODULES[module], dtype=torch.float64)


def test_weight_products_are_those_of_the_dense_updates(pool, plugged) -> None:
    found = grams(pool, plugged)
    assert found.modules == tuple(sorted(MODULES))
    assert found.data is None
    for m, module in enumerate(found.modules):
        W = [zero_or_dense(a.deltas, module) for a in pool]
        U = [zero_or_dense(u, module) for u in plugged]
        for i in range(len(pool)):
            assert found.own[m, i] == pytest.approx(float(W[i].square().sum()), rel=1e-5)
            for j in range(len(pool)):
                scale = float(W[i].norm() * U[j].norm()) + 1e-12
                assert abs(found.across[m, i, j] - float((W[i] * U[j]).sum())) < 1e-5 * scale
                assert abs(found.inner[m, i, j] - float((U[i] * U[j]).sum())) < 1e-5 * float(
                    U[i].norm() * U[j].norm() + 1e-12
                )


def test_data_products_are_those_of_the_rows(pool, plugged, read) -> None:
    model, _, features = read
    found = grams(pool, plugged, features, model)
    for m, module in enumerate(found.modules):
        for i, target in enumerate(pool):
            H = rows_of(read, target.task, module)
            n = len(H)
            W = H @ zero_or_dense(target.deltas, module).T
            U = [H @ zero_or_dense(u, module).T for u in plugged]
            weight = dict(model.named_modules())[module].weight.detach().double()
            assert found.base[m, i] == pytest.approx(float((H @ weight.T).square().sum()) / n, rel=1e-5)
            for j, source in enumerate(pool):
                before = float((H @ zero_or_dense(source.deltas, module).T).square().sum()) / n
                assert found.data_before[m, i, j] == pytest.approx(before, rel=1e-5, abs=1e-12)
                scale = float(W.norm() * U[j].norm()) / n + 1e-12
                assert abs(found.data_across[m, i, j] - float((W * U[j]).sum()) / n) < 1e-5 * scale
                for k in range(len(pool)):
                    assert abs(found.data[m, i, j, k] - float((U[j] * U[k]).sum()) / n) < 1e-5 * float(
                        U[j].norm() * U[k].norm() / n + 1e-12
                    )


def test_interference_follows_from_the_grams(pool, read) -> None:
    features = read[2]
    found = grams(pool, None, features)
    frame = interference(pool, features).set_index(["source", "target", "module"]).ratio
    for m, module in enumerate(found.modules):
        for i, target in enumerate(pool):
            for j, source in enumerate(pool):
                if module in source.deltas and module in target.deltas:
                    ratio = np.sqrt(found.data[m, i, j, j] / found.data_own[m, i])
                    assert ratio == pytest.approx(frame[source.name, target.name, module], rel=1e-6)


@pytest.mark.parametrize("method", ["task_arithmetic", "ties", "knots"])
@pytest.mark.parametrize("scaling", [0.0, 0.4, 1.3])
def test_the_error_of_a_merge_is_the_distance_of_the_layers_outputs(pool, read, method: str, scaling: float) -> None:
    features = read[2]
    weights = [1.0, 0.5, 2.0, 0.0, -0.3]
    result = merge(pool, method, weights=weights, scaling=1.0)
    found = grams(pool, None, features)
    modules = found.modules
    frame = (
        merge_error_at(found, merge_grams(pool, modules, result.result, features), scaling)
        .set_index(["adapter", "module"])
        .error
    )
    for target in pool:
        for module, own in dense(target).items():
            H = rows_of(read, target.task, module)
            gap = scaling * result.delta(module).double() - own
            direct = float((H @ gap.T).norm() / (H @ own.T).norm())
            assert frame[target.name, module] == pytest.approx(direct, rel=1e-5)
    if method == "task_arithmetic":
        linear = merge_error(found, weights, scaling).set_index(["adapter", "module"]).error
        np.testing.assert_allclose(linear, frame, rtol=1e-6)


def test_without_texts_there_is_no_error_on_them(pool) -> None:
    found = grams(pool)
    with pytest.raises(ValueError, match="without features"):
        merge_error(found, [1.0] * len(pool), 1.0)


def test_nothing_changes_when_a_factor_moves_between_b_and_a(read) -> None:
    features = read[2]
    adapters = [random_adapter(0), random_adapter(1)]
    moved = [with_deltas(a, lambda _, u: LowRank(u.B * 8, u.A / 8)) for a in adapters]
    one, other = grams(adapters, None, features), grams(moved, None, features)
    for name in ("inner", "across", "data", "data_across", "data_before"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=1e-9)


def test_a_diagnosis_of_emr_compares_every_task_with_its_own_merge(read) -> None:
    features = read[2]
    adapters = [random_adapter(0), random_adapter(1)]
    merged = merge(adapters, "emr")
    found = diagnose(adapters, merged, [dict(a.deltas) for a in adapters], features)
    for i, adapter in enumerate(adapters):
        mine = merged.for_task(adapter.task)
        for m, module in enumerate(found.grams.modules):
            H = rows_of(read, adapter.task, module)
            assert found.merge.data[m, i] == pytest.approx(
                float((H @ mine.delta(module).double().T).square().sum()) / len(H), rel=1e-5
            )
    assert found.merge.singular_values == ()


def test_a_diagnosis_keeps_magnitudes_before_and_pairs_after_the_plugins() -> None:
    shared = gaussian(0, 4, MODULES[next(iter(MODULES))][1]).float()
    module = next(iter(MODULES))
    adapters = [
        with_deltas(random_adapter(i, modules=(module,)), lambda _, u: LowRank(u.B, shared + 0.1 * u.A))
        for i in range(2)
    ]
    merged = merge(adapters, "task_arithmetic", orthogonalize=Orthogonalize("balanced", 0.1), decouple=0.5)
    separated = merge(adapters, "task_arithmetic", orthogonalize=Orthogonalize("balanced", 0.1)).updates
    found = diagnose(adapters, merged, separated)
    assert found.linear == "sum"
    assert found.after.overlap_A[0, 0, 1] < found.before.overlap_A[0, 0, 1]
    for i, adapter in enumerate(adapters):
        np.testing.assert_allclose(found.norms[0][i], dense(adapter)[module].norm(dim=0), rtol=1e-5)
        np.testing.assert_allclose(found.separated[0][i], separated[i][module].dense().double().norm(dim=0), rtol=1e-5)
