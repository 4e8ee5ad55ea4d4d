"""Diagnostics from factors and moments equal the dense, direct computation."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from builders import (
    MODULES,
    QUERY,
    called,
    dense,
    equal_pool,
    gaussian,
    mixed_pool,
    quick,
    random_adapter,
    sentences,
    token_rows,
    with_deltas,
)
from hypothesis import given
from hypothesis import strategies as st

from merging import LowRank, MergeError, collect_features
from merging.diagnostics.measures import (
    chance_overlap,
    column_norms,
    cosines,
    effective_rank,
    interference,
    magnitude_variance,
    rank_curve,
    sign_conflict,
    spectra,
    subspace_overlap,
)
from merging.training.drift import drift


def overlap_of(adapters, side: str = "A") -> float:
    frame = subspace_overlap(adapters, side)
    return float(frame[frame.adapter_a != frame.adapter_b].overlap.mean())


# -- magnitudes --------------------------------------------------------------------------------------------------------


def test_magnitude_variance_is_its_dense_formula() -> None:
    pool = mixed_pool()
    frame = magnitude_variance(pool).set_index("module")
    assert list(frame.columns) == ["variance", "norm_ratio"]
    for module, (_, width) in MODULES.items():
        alpha = np.stack(
            [dense(a)[module].norm(dim=0).numpy() if module in a.deltas else np.zeros(width) for a in pool]
        )
        assert frame.variance[module] == pytest.approx((alpha.var(0) / alpha.mean(0) ** 2).mean(), rel=1e-6)
        norms = np.linalg.norm(alpha, axis=1)
        assert frame.norm_ratio[module] == pytest.approx(norms.max() / np.median(norms), rel=1e-6)


def test_equal_adapters_have_no_magnitude_variance() -> None:
    adapter = random_adapter(0)
    frame = magnitude_variance([adapter, called(adapter, "again")])
    assert frame.variance.max() < 1e-12
    assert frame.norm_ratio.tolist() == pytest.approx([1.0] * len(MODULES))


@quick
@given(st.lists(st.floats(1e-3, 1e3), min_size=5, max_size=5), st.floats(1e-3, 1e3))
def test_magnitude_variance_sees_neither_the_split_nor_the_unit(splits: list[float], unit: float) -> None:
    pool = mixed_pool(torch.float64)
    other = [
        with_deltas(a, lambda _, u, c=c: LowRank(u.B * c, u.A / c) * unit) for a, c in zip(pool, splits, strict=True)
    ]
    first, second = magnitude_variance(pool), magnitude_variance(other)
    assert np.allclose(first.variance, second.variance, rtol=1e-8)
    assert np.allclose(first.norm_ratio, second.norm_ratio, rtol=1e-8)


def test_zero_updates_have_finite_variance() -> None:
    zero = with_deltas(random_adapter(0), lambda _, u: u * 0.0)
    assert magnitude_variance([zero, called(zero, "again")]).variance.tolist() == [0.0] * len(MODULES)


def test_column_norms_are_those_of_the_dense_updates() -> None:
    pool = mixed_pool()
    frame = column_norms(pool)
    assert len(frame) == sum(u.shape[1] for a in pool for u in a.deltas.values())
    for adapter in pool:
        for module, update in dense(adapter).items():
            rows = frame[(frame.adapter == adapter.name) & (frame.module == module)].sort_values("column")
            assert np.allclose(rows.norm, update.norm(dim=0).numpy(), rtol=1e-6)


# -- overlap -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["A", "B"])
def test_an_adapter_overlaps_itself_fully_whatever_its_factors(side: str) -> None:
    adapter = random_adapter(0)
    mixed = with_deltas(adapter, lambda _, u: LowRank(u.B @ gaussian(1, 4, 4).float(), gaussian(2, 4, 4).float() @ u.A))
    assert subspace_overlap([adapter, called(mixed, "mixed")], side).overlap.tolist() == pytest.approx(
        [1.0] * 4 * len(MODULES), abs=1e-5
    )


@pytest.mark.parametrize("side", ["A", "B"])
def test_orthogonal_subspaces_do_not_overlap(side: str) -> None:
    Q = torch.linalg.qr(gaussian(0, 32, 8)).Q
    pool = []
    for i in range(2):
        own, free = Q[:, 4 * i : 4 * i + 4], gaussian(1 + i, 32, 4)
        update = LowRank(free, own.T) if side == "A" else LowRank(own, free.T)
        pool.append(replace(random_adapter(i), deltas={QUERY: update}))
    assert overlap_of(pool, side) < 1e-12
    assert overlap_of(pool, "B" if side == "A" else "A") > 1e-3


@pytest.mark.parametrize("side", ["A", "B"])
def test_random_subspaces_overlap_by_chance_only(side: str) -> None:
    pool = [random_adapter(i, 4 if i % 2 else 6, modules=[QUERY]) for i in range(16)]
    assert overlap_of(pool[1::2], side) == pytest.approx(4 / 32, rel=0.15)  # r / n
    assert overlap_of(pool, side) == pytest.approx(chance_overlap(pool, side), rel=0.15)


def test_a_subspace_inside_another_overlaps_it_fully() -> None:
    large = random_adapter(0, 8)
    small = called(with_deltas(large, lambda _, u: LowRank(u.B[:, :3], u.A[:3])), "small")
    assert overlap_of([large, small]) == pytest.approx(1.0, abs=1e-5)


def test_overlap_is_the_mean_squared_cosine_of_the_principal_angles() -> None:
    a, b = random_adapter(0, 3), random_adapter(1, 5)
    for side in ("A", "B"):
        frame = subspace_overlap([a, b], side).set_index(["adapter_a", "adapter_b", "module"]).overlap
        for module in MODULES:
            bases = [torch.linalg.svd(dense(x)[module], full_matrices=False) for x in (a, b)]
            left, right = ((s.Vh[:r].T if side == "A" else s.U[:, :r]) for s, r in zip(bases, (3, 5), strict=True))
            cosines = torch.linalg.svdvals(left.T @ right)
            assert frame["task-0", "task-1", module] == pytest.approx(float((cosines**2).mean()), abs=1e-6)
            assert frame["task-1", "task-0", module] == pytest.approx(frame["task-0", "task-1", module], abs=1e-12)


def test_pairs_leave_out_modules_that_one_of_them_lacks() -> None:
    names = list(MODULES)
    frame = subspace_overlap([random_adapter(0, modules=names[:2]), random_adapter(1, modules=names[1:])])
    assert set(frame[frame.adapter_a != frame.adapter_b].module) == {names[1]}


def test_an_unknown_side_is_refused() -> None:
    with pytest.raises(MergeError, match="C"):
        subspace_overlap(equal_pool(2), "C")


# -- interference ------------------------------------------------------------------------------------------------------


def test_interference_is_what_the_token_rows_say(model, tokenizer) -> None:
    pool = mixed_pool()
    texts = {adapter.task: sentences(i, 5) for i, adapter in enumerate(pool)}
    features = collect_features(model, tokenizer, texts, k=5, modules=list(MODULES))
    frame = interference(pool, features).set_index(["source", "target", "module"]).ratio
    assert len(frame) == sum(
        module in s.deltas and module in t.deltas for s in pool for t in pool for module in MODULES
    )
    for target in pool:
        for module, own in dense(target).items():
            H = torch.cat(token_rows(model, texts[target.task], module))
            for source in pool:
                if module in source.deltas:
                    direct = float((H @ dense(source)[module].T).norm() / (H @ own.T).norm())
                    assert frame[source.name, target.name, module] == pytest.approx(direct, rel=1e-5)


def test_an_adapter_is_as_loud_as_itself_and_silent_where_it_is_zero(features) -> None:
    adapter = random_adapter(0)
    zero = with_deltas(random_adapter(1), lambda _, u: u * 0.0)
    frame = interference([adapter, zero], features).set_index(["source", "target", "module"]).ratio
    assert frame["task-0", "task-0", QUERY] == pytest.approx(1.0)
    assert frame["task-1", "task-0", QUERY] == 0.0
    assert math.isinf(frame["task-0", "task-1", QUERY])


# -- rank of the features ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [1, 5, 12])
def test_the_rank_curve_is_numpys_matrix_rank(rank: int) -> None:
    H = (gaussian(0, 40, rank) @ gaussian(1, rank, 12)).float()
    ks = [1, 2, 4, 8, 12, 20, 40]
    frame = rank_curve(H, ks)
    eps = np.finfo(np.float32).eps
    for row in frame.itertuples():
        part = H[: row.k].double().numpy()
        largest = np.linalg.svd(part, compute_uv=False)[0]
        assert row.rank == np.linalg.matrix_rank(part, tol=largest * max(row.k, 12) * eps) == min(row.k, rank)
        energy = np.cumsum(np.linalg.svd(part, compute_uv=False) ** 2)
        assert row.energy_rank == int(np.searchsorted(energy, 0.99 * energy[-1])) + 1
        assert row.energy_rank <= row.rank
    assert frame.k.tolist() == ks


def test_energy_rank_counts_the_directions_that_hold_99_percent() -> None:
    for second, expected in ((1.1, 2), (0.9, 1)):  # the first direction holds 98.8 % or 99.2 %
        assert rank_curve(torch.diag(torch.tensor([10.0, second, 0.1])), [3]).iloc[0].tolist() == [3, 3, expected]


@pytest.mark.parametrize("k", [0, 9])
def test_a_k_beyond_the_samples_is_refused(k: int) -> None:
    with pytest.raises(MergeError, match=str(k)):
        rank_curve(gaussian(0, 8, 4), [2, k])


# -- drift of A --------------------------------------------------------------------------------------------------------


def test_rows_that_only_turn_among_themselves_drift_but_stay_in_their_subspace() -> None:
    A_0 = {"q": gaussian(0, 4, 9), "v": gaussian(1, 4, 9)}
    turn = torch.linalg.qr(gaussian(2, 4, 4)).Q
    moved, turned = drift(A_0, {module: turn @ A for module, A in A_0.items()})
    assert moved > 0.1
    assert turned == pytest.approx(0.0, abs=1e-6)


def test_drift_is_the_relative_distance_and_no_rotation_comes_nearer() -> None:
    first, last = gaussian(0, 4, 9).double(), gaussian(1, 4, 9).double()
    moved, turned = drift({"q": first}, {"q": last})
    assert moved == pytest.approx(float((last - first).norm() / first.norm()), rel=1e-12)
    others = [torch.linalg.qr(gaussian(seed, 4, 4).double()).Q for seed in range(2, 60)]
    assert turned <= min(float((last - Q @ first).norm() / first.norm()) for Q in others)
    assert turned <= moved


# -- cosines, signs, spectra -------------------------------------------------------------------------------------------


def test_cosines_are_those_of_the_dense_updates() -> None:
    pool = mixed_pool()
    frame = cosines(pool)
    by_name = {adapter.name: dense(adapter) for adapter in pool}
    assert len(frame) == sum(len(a.deltas.keys() & b.deltas.keys()) for i, a in enumerate(pool) for b in pool[:i])
    for row in frame.itertuples():
        a, b = (by_name[name][row.module].flatten().double() for name in (row.adapter_a, row.adapter_b))
        assert row.cosine == pytest.approx(float(a @ b / (a.norm() * b.norm())), abs=1e-6)


def test_an_update_and_its_opposite_cancel() -> None:
    adapter = random_adapter(0)
    opposite = called(with_deltas(adapter, lambda _, u: u * -2.0), "opposite")
    assert cosines([adapter, opposite]).cosine.tolist() == pytest.approx([-1.0] * len(MODULES), abs=1e-6)
    frame = sign_conflict([adapter, opposite])
    assert frame.conflict.tolist() == [1.0] * len(MODULES)
    assert frame.lost.tolist() == pytest.approx([2 / 3] * len(MODULES), abs=1e-6)
    agreeing = sign_conflict([adapter, called(adapter, "again")])
    assert agreeing.conflict.tolist() == [0.0] * len(MODULES)
    assert agreeing.lost.tolist() == pytest.approx([0.0] * len(MODULES), abs=1e-6)


def test_of_many_random_updates_nearly_every_entry_is_in_conflict() -> None:
    frame = sign_conflict([random_adapter(i) for i in range(8)])
    assert frame.conflict.min() > 0.95


def test_spectra_hold_all_energy_in_the_end_and_truncation_keeps_what_they_say() -> None:
    pool = mixed_pool()
    frame = spectra(pool)
    for adapter in pool:
        for module, update in adapter.deltas.items():
            mine = frame[(frame.adapter == adapter.name) & (frame.module == module)]
            values = torch.linalg.svdvals(dense(adapter)[module].double())[: len(mine)]
            assert np.allclose(mine.singular_value, values, rtol=1e-5)
            assert mine.energy.iloc[-1] == pytest.approx(1.0)
            kept = float(update.truncate(1).norm() ** 2 / update.norm() ** 2)
            assert mine.energy.iloc[0] == pytest.approx(kept, rel=1e-5)


def test_effective_rank_counts_equally_strong_directions() -> None:
    Q = torch.linalg.qr(gaussian(0, 32, 8)).Q.float()
    adapter = random_adapter(0)
    equal = with_deltas(adapter, lambda _, u: LowRank(torch.eye(u.shape[0], 5), torch.eye(5, u.shape[1]) * 3.0))
    one = with_deltas(adapter, lambda _, u: LowRank(Q[: u.shape[0], :1], torch.ones(1, u.shape[1])))
    none = with_deltas(adapter, lambda _, u: u * 0.0)
    for case, expected in ((equal, 5.0), (one, 1.0), (none, 0.0)):
        assert effective_rank([case]).effective_rank.tolist() == pytest.approx([expected] * len(MODULES), abs=1e-6)


@pytest.mark.parametrize("measure", [cosines, sign_conflict, spectra, effective_rank])
def test_diagnostics_do_not_see_how_a_product_is_split(measure) -> None:
    pool = mixed_pool(torch.float64)
    other = [
        with_deltas(a, lambda _, u, c=c: LowRank(u.B * c, u.A / c))
        for a, c in zip(pool, (3.0, 0.1, 7.0, 1.0, 0.5), strict=False)
    ]
    first, second = measure(pool[: len(other)]), measure(other)
    numbers = first.select_dtypes("number").columns
    assert np.allclose(first[numbers], second[numbers], rtol=1e-7, atol=1e-9)


def test_interference_is_also_given_relative_to_the_layer_itself(model, tokenizer) -> None:
    pool = mixed_pool()
    texts = {adapter.task: sentences(i, 5) for i, adapter in enumerate(pool)}
    features = collect_features(model, tokenizer, texts, k=5, modules=list(MODULES))
    frame = interference(pool, features, model)
    assert list(interference(pool, features).columns) == ["source", "target", "module", "ratio"]
    by_name = {adapter.name: adapter for adapter in pool}
    layers = dict(model.named_modules())
    for row in frame.sample(12, random_state=0).itertuples():
        H = torch.cat(token_rows(model, texts[by_name[row.target].task], row.module)).double()
        update = dense(by_name[row.source])[row.module].double()
        expected = float((H @ update.T).norm() / (H @ layers[row.module].weight.double().T).norm())
        assert row.to_base == pytest.approx(expected, rel=1e-5)
