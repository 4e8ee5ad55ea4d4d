"""Every method against its formula written on dense float64 matrices, and PEFT's own functions where it has them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from builders import (
    HIDDEN,
    MODULES,
    QUERY,
    dense,
    dense_sum,
    distance,
    equal_pool,
    mixed_pool,
    peft_folder,
    random_adapter,
    tiny_model,
)
from peft import PeftModel
from peft.utils import merge_utils
from torch import Tensor

from merging import Adapter, Features, LowRank, MergeError, merge
from merging.methods.sparsify import agreeing_mean, drop, drop_by_rank, kept, trim_to

WEIGHTS = (1.0, 0.5, 2.0, 1.5, 0.7)


def at(adapters: Sequence[Adapter], module: str) -> list[Tensor]:
    """Return the dense updates of the adapters that have ``module``."""
    return [dense(adapter)[module] for adapter in adapters if module in adapter.deltas]


def weights_at(adapters: Sequence[Adapter], module: str) -> list[float]:
    return [w for adapter, w in zip(adapters, WEIGHTS, strict=True) if module in adapter.deltas]


def true_rank(singular_values: Tensor, tolerance: float = 1e-6) -> int:
    return int((singular_values > tolerance * singular_values[0]).sum())


def dense_ties(parts: Sequence[Tensor], density: float, weights: Sequence[float]) -> Tensor:
    trimmed = []
    for part in parts:
        threshold = part.abs().flatten().sort(descending=True).values[int(density * part.numel()) - 1]
        trimmed.append(torch.where(part.abs() >= threshold, part, 0.0))
    stack = torch.stack(trimmed)
    sign = torch.where(stack.sum(0) >= 0, 1.0, -1.0)
    agree = stack.sign() == sign
    return (stack * agree * torch.tensor(weights, dtype=torch.float64)[:, None, None]).sum(0) / agree.sum(0).clamp(
        min=1
    )


# -- TIES and its dialects ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", MODULES)
def test_ties_equals_its_dense_formula(module: str) -> None:
    pool = mixed_pool()
    result = merge(pool, "ties", weights=WEIGHTS, scaling=0.7, density=0.3).delta(module)
    assert distance(result, 0.7 * dense_ties(at(pool, module), 0.3, weights_at(pool, module))) < 1e-5


def test_ties_equals_pefts_function_on_the_dense_updates() -> None:
    pool = mixed_pool()
    expected = merge_utils.ties(at(pool, QUERY), torch.tensor(weights_at(pool, QUERY)).double(), 0.25)
    assert distance(merge(pool, "ties", weights=WEIGHTS, density=0.25).delta(QUERY), expected) < 1e-6


def test_ties_over_the_model_keeps_each_adapters_largest_entries_of_all_modules() -> None:
    pool = mixed_pool()
    merged = merge(pool, "ties", density=0.2, trim="model")
    trimmed = []
    for adapter in pool:
        if QUERY in adapter.deltas:
            entries = torch.cat([update.flatten() for update in dense(adapter).values()]).abs()
            threshold = entries.sort(descending=True).values[int(0.2 * len(entries)) - 1]
            trimmed.append(torch.where(dense(adapter)[QUERY].abs() >= threshold, dense(adapter)[QUERY], 0.0))
    assert distance(merged.delta(QUERY), dense_ties(trimmed, 1.0, [1.0] * len(trimmed))) < 1e-6
    assert torch.equal(merged.delta(QUERY), merged.delta(QUERY))


def test_ties_over_the_model_counts_equal_entries_once() -> None:
    ones = LowRank(torch.ones(4, 1), torch.ones(1, 5))
    adapter = Adapter("flat", {"a": ones, "b": ones}, base="x")
    merged = merge([adapter], "ties", density=0.6, trim="model")
    assert [int((merged.delta(m) != 0).sum()) for m in ("b", "a", "b")] == [4, 20, 4]


@pytest.mark.parametrize(("election", "expected"), [("unweighted", -2.0), ("weighted", 1.0)])
def test_the_election_dialects_differ_as_published(election: str, expected: float) -> None:
    parts = torch.tensor([[1.0], [-2.0]])
    assert agreeing_mean(parts, torch.tensor([3.0, 1.0]), election).item() == expected


def test_a_sum_of_zero_elects_plus() -> None:
    parts = torch.tensor([[1.0, -5.0], [-1.0, -5.0]])
    assert agreeing_mean(parts, torch.ones(2), "unweighted").tolist() == [1.0, -5.0]


def test_a_trim_keeps_exactly_k_of_equal_magnitudes() -> None:
    x = torch.ones(10)
    assert int((trim_to(x, kept(0.2, 10))(x) != 0).sum()) == 2


@pytest.mark.parametrize("density", [0.1, 0.5, 0.99])
def test_a_trim_equals_pefts_magnitude_prune(density: float) -> None:
    x = torch.randn(40, 30, generator=torch.Generator().manual_seed(1))
    expected = merge_utils.prune(x, density, method="magnitude")
    assert torch.equal(trim_to(x, kept(density, x.numel()))(x), expected)


# -- random pruning ----------------------------------------------------------------------------------------------------


def test_drop_equals_pefts_random_prune_from_one_seed() -> None:
    x = torch.randn(40, 30, generator=torch.Generator().manual_seed(1))
    with torch.random.fork_rng():
        torch.manual_seed(5)
        expected = merge_utils.prune(x, 0.3, method="random", rescale=True)
    assert distance(drop(x, 0.3, torch.Generator().manual_seed(5)), expected) < 1e-6


@pytest.mark.parametrize("method", ["dare", "della"])
def test_random_pruning_keeps_the_mean(method: str) -> None:
    pool = equal_pool(1)
    mean = sum(merge(pool, method, density=0.5, seed=seed).delta(QUERY).double() for seed in range(300)) / 300
    assert distance(mean, dense_sum(pool)[QUERY]) < 0.1


def test_another_scaling_keeps_the_random_masks() -> None:
    one, half = (merge(equal_pool(), "dare", scaling=scaling, density=0.3).delta(QUERY) for scaling in (1.0, 0.5))
    assert torch.equal(one == 0, half == 0)
    assert 0.2 < float((one == 0).double().mean()) < 0.3  # 0.7 ** 4


def test_della_keeps_large_entries_more_often() -> None:
    x = torch.arange(1.0, 101.0).repeat(400, 1)
    survived = (drop_by_rank(x, 0.5, 0.4, torch.Generator().manual_seed(0)) != 0).double().mean(0)
    assert survived[:10].mean() < 0.2
    assert survived[-10:].mean() > 0.8


def test_della_of_one_column_is_finite() -> None:
    x = torch.ones(50, 1)
    result = drop_by_rank(x, 0.5, 0.15, torch.Generator().manual_seed(0))
    assert set(result.flatten().tolist()) == {0.0, 2.0}


@pytest.mark.parametrize("size", [50, 99, 100, 1000])
def test_breadcrumbs_drops_outliers_and_never_everything(size: int) -> None:
    x = torch.arange(1.0, size + 1.0)
    adapter = Adapter("row", {"m": LowRank(torch.ones(1, 1), x[None])}, base="x")
    result = merge([adapter], "breadcrumbs", density=0.5, gamma=0.01).delta("m")[0]
    top = int(0.01 * size)
    expected = x.clone()
    expected[: size - top - int(0.5 * size)] = 0
    expected[size - top :] = 0
    assert torch.equal(result, expected)


# -- methods on shared bases -------------------------------------------------------------------------------------------


def dense_knots(parts: Sequence[Tensor], density: float, weights: Sequence[float]) -> Tensor:
    U, S, Vh = torch.linalg.svd(torch.cat(list(parts), dim=1), full_matrices=False)
    rank = true_rank(S)
    aligned = (S[:rank, None] * Vh[:rank]).split(parts[0].shape[1], dim=1)
    return U[:, :rank] @ dense_ties(aligned, density, weights)


@pytest.mark.parametrize("module", MODULES)
def test_knots_equals_its_dense_formula(module: str) -> None:
    pool = mixed_pool()
    result = merge(pool, "knots", weights=WEIGHTS, scaling=0.7, density=0.3).delta(module)
    assert distance(result, 0.7 * dense_knots(at(pool, module), 0.3, weights_at(pool, module))) < 1e-5


@pytest.mark.parametrize(("method", "options"), [("knots", {"inner": "sum"}), ("core_space", {"inner": "sum"})])
def test_a_sum_in_a_shared_basis_is_task_arithmetic(method: str, options: dict) -> None:
    pool = mixed_pool()
    result = merge(pool, method, weights=WEIGHTS, scaling=0.4, **options)
    for module, expected in dense_sum(pool, WEIGHTS).items():
        assert distance(result.delta(module), 0.4 * expected) < 1e-6


def test_core_space_with_ties_equals_its_dense_formula() -> None:
    pool = mixed_pool()
    present = [adapter.deltas[QUERY] for adapter in pool if QUERY in adapter.deltas]
    U = torch.linalg.svd(torch.cat([u.B.double() for u in present], dim=1), full_matrices=False).U
    V = torch.linalg.svd(torch.cat([u.A.double() for u in present]), full_matrices=False).Vh
    cores = [U.T @ u.B.double() @ u.A.double() @ V.T for u in present]
    expected = U @ dense_ties(cores, 0.4, [1.0] * len(cores)) @ V
    assert distance(merge(pool, "core_space", inner="ties", density=0.4).delta(QUERY), expected) < 1e-5


def test_core_space_warns_where_singular_values_coincide() -> None:
    eye = LowRank(torch.eye(6)[:, :3], torch.eye(6)[:3])
    with pytest.warns(UserWarning, match="coincide"):
        merge([Adapter("a", {"m": eye}, base="x")], "core_space", inner="ties").delta("m")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        merge([Adapter("a", {"m": eye}, base="x")], "core_space").delta("m")


def polar(columns: Tensor) -> Tensor:
    U, S, Vh = torch.linalg.svd(columns, full_matrices=False)
    rank = true_rank(S)
    return U[:, :rank] @ Vh[:rank]


def dense_tsv(parts: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    left, values, right = [], [], []
    for part, weight in zip(parts, weights, strict=True):
        U, S, Vh = torch.linalg.svd(part, full_matrices=False)
        rank = true_rank(S)
        left.append(U[:, :rank]), values.append(weight * S[:rank]), right.append(Vh[:rank].T)

    return polar(torch.cat(left, 1)) * torch.cat(values) @ polar(torch.cat(right, 1)).T


@pytest.mark.parametrize("module", MODULES)
def test_tsv_equals_its_dense_formula(module: str) -> None:
    pool = mixed_pool()
    result = merge(pool, "tsv", weights=WEIGHTS, scaling=0.7).delta(module)
    assert distance(result, 0.7 * dense_tsv(at(pool, module), weights_at(pool, module))) < 1e-5


def test_tsv_of_orthogonal_tasks_is_task_arithmetic() -> None:
    eye = torch.eye(8)
    pool = [
        Adapter(f"t{i}", {"m": LowRank(eye[:, 2 * i : 2 * i + 2] * 3, eye[2 * i : 2 * i + 2])}, base="x")
        for i in range(3)
    ]
    assert distance(merge(pool, "tsv").delta("m"), merge(pool, "task_arithmetic").delta("m")) < 1e-6


@pytest.mark.parametrize("module", MODULES)
def test_iso_c_equals_its_dense_formula(module: str) -> None:
    pool = mixed_pool()
    U, S, Vh = torch.linalg.svd(dense_sum(pool, WEIGHTS)[module], full_matrices=False)
    rank = true_rank(S, 1e-9)
    expected = 0.7 * S[:rank].mean() * U[:, :rank] @ Vh[:rank]
    assert distance(merge(pool, "iso_c", weights=WEIGHTS, scaling=0.7).delta(module), expected) < 1e-5


def dense_iso_cts(parts: Sequence[Tensor], common: float) -> Tensor:
    def svd(matrix: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
        U, S, Vh = torch.linalg.svd(matrix, full_matrices=False)
        return U[:, :count], S[:count], Vh[:count].T

    total = torch.stack(list(parts)).sum(0)
    R = true_rank(torch.linalg.svdvals(total), 1e-9)
    own = min(round((R - int(R * common)) / len(parts)), R // len(parts))
    spaces = [svd(total, R - own * len(parts))]
    U = spaces[0][0]
    for part in parts:
        outside = part - U @ U.T @ part
        spaces.append(
            svd(
                outside, min(own, int((torch.linalg.svdvals(outside) > 1e-6 * torch.linalg.matrix_norm(part, 2)).sum()))
            )
        )
    left, values, right = (torch.cat(pieces, -1) for pieces in zip(*spaces, strict=True))
    return values.mean() * polar(left) @ polar(right).T


@pytest.mark.parametrize("common", [0.0, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("module", MODULES)
def test_iso_cts_equals_its_dense_formula(module: str, common: float) -> None:
    pool = mixed_pool()
    parts = [w * part for w, part in zip(weights_at(pool, module), at(pool, module), strict=True)]
    result = merge(pool, "iso_cts", weights=WEIGHTS, scaling=0.7, common=common).delta(module)
    assert distance(result, 0.7 * dense_iso_cts(parts, common)) < 1e-5


def test_iso_cts_with_everything_common_is_iso_c() -> None:
    common, iso_c = merge(mixed_pool(), "iso_cts", scaling=0.4, common=1.0), merge(mixed_pool(), "iso_c", scaling=0.4)
    assert all(distance(common.delta(module), iso_c.delta(module)) < 1e-6 for module in MODULES)


@pytest.mark.parametrize("common", [0.0, 0.5, 0.8])
def test_iso_cts_gives_all_its_directions_one_strength(common: float) -> None:
    pool = [random_adapter(i, 4, scale=1.0 + i) for i in range(4)]
    for module in MODULES:
        values = torch.linalg.svdvals(merge(pool, "iso_cts", common=common).delta(module).double())
        rank = true_rank(values, 1e-5)
        assert rank == 16
        assert float(values[rank - 1]) == pytest.approx(float(values[0]), rel=1e-4)


def test_iso_cts_keeps_a_weak_task_that_the_common_space_leaves_out() -> None:
    eye = torch.eye(12)
    strong = [Adapter(f"t{i}", {"m": LowRank(eye[:, :5] * (5.0 + i), eye[:5])}, base="x") for i in range(2)]
    weak = Adapter("weak", {"m": LowRank(eye[:, 5:6] * 0.01, eye[5:6])}, base="x")
    # of the sum's six directions five are common; two of the three tasks have nothing outside these
    result = merge([*strong, weak], "iso_cts", common=0.5).delta("m").double()
    assert float(result[5, 5]) == pytest.approx(float(result[0, 0]), rel=1e-5)


def dense_dc_merge(parts: Sequence[Tensor], smoothing: str, entries: int) -> Tensor:
    """The published steps on dense matrices, each task's block as wide as its rank."""
    left, right, even = [], [], []
    for part in parts:
        U, S, Vh = torch.linalg.svd(part, full_matrices=False)
        r = true_rank(S, 1e-6)
        shares = torch.linspace(min(5.0, float(S[0] / S[r - 1])), 1, r, dtype=S.dtype)
        left, right = [*left, U[:, :r]], [*right, Vh[:r].T]
        even.append(S[:r].sum() * (shares / shares.sum() if smoothing == "linear" else torch.full_like(shares, 1 / r)))
    U, V = polar(torch.cat(left, 1)), polar(torch.cat(right, 1))
    cores = []
    for u, s, v in zip(left, even, right, strict=True):
        core = U.T @ u @ torch.diag(s) @ v.T @ V
        least = core.abs().flatten().topk(min(entries * len(s), core.numel())).values.min()
        cores.append(core * (core.abs() >= least))
    stacked = torch.stack(cores)
    sign = torch.sign(stacked.sum(0))
    agree = (torch.sign(stacked) == sign) & (sign != 0)
    merged = (stacked * agree).sum(0) / agree.sum(0).clamp(min=1)
    starts = [0, *torch.tensor([len(s) for s in even]).cumsum(0).tolist()]
    own = torch.zeros_like(merged)
    for first, last in pairwise(starts):
        own[first:last, first:last] = merged[first:last, first:last]
    return U @ own @ V.T


@pytest.mark.parametrize(("smoothing", "entries"), [("mean", 3), ("linear", 1), ("linear", 10_000)])
@pytest.mark.parametrize("module", MODULES)
def test_dc_merge_equals_its_dense_formula(module: str, smoothing: str, entries: int) -> None:
    pool = mixed_pool()
    parts = [w * part for w, part in zip(weights_at(pool, module), at(pool, module), strict=True)]
    result = merge(pool, "dc_merge", weights=WEIGHTS, scaling=0.7, smoothing=smoothing, entries=entries).delta(module)
    assert distance(result, 0.7 * dense_dc_merge(parts, smoothing, entries)) < 1e-5


def test_dc_merge_of_orthogonal_tasks_is_the_sum_with_evened_strengths() -> None:
    eye, S = torch.eye(12), torch.tensor([1.0, 2.0, 6.0])
    pool = [
        Adapter(f"t{i}", {"m": LowRank(eye[:, 3 * i : 3 * i + 3] * S * (i + 1), eye[3 * i : 3 * i + 3])}, base="x")
        for i in range(3)
    ]
    even = torch.diag(torch.tensor([3.0] * 3 + [6.0] * 3 + [9.0] * 3 + [0.0] * 3))
    assert distance(merge(pool, "dc_merge").delta("m"), even.double()) < 1e-6


def dense_shared_space(parts: Sequence[Tensor], rank: int) -> tuple[Tensor, Tensor]:
    """Tucker-2 by alternating SVDs of the matrices side by side, to the same end as ours."""

    def leading(matrices: Sequence[Tensor]) -> Tensor:
        U, S, _ = torch.linalg.svd(torch.cat(list(matrices), 1), full_matrices=False)
        return U[:, : min(rank, true_rank(S))]

    V, errors = leading([part.T for part in parts]), [math.inf]
    while len(errors) < 3 or errors[-2] - errors[-1] >= 1e-6:
        U = leading([part @ V for part in parts])
        V = leading([part.T @ U for part in parts])
        rest, whole = (
            sum(float(m.square().sum()) for m in ms) for ms in ([p - U @ U.T @ p @ V @ V.T for p in parts], parts)
        )
        errors.append(math.sqrt(rest / whole))
    return U, V


def targets(parts: Sequence[Tensor], weights: Sequence[float], beta: float) -> list[Tensor]:
    mean = sum(float(part.norm()) for part in parts) / len(parts)
    return [w * (beta + (1 - beta) * mean / part.norm()) * part for w, part in zip(weights, parts, strict=True)]


@pytest.mark.parametrize("inner", ["sum", "ties"])
@pytest.mark.parametrize(("rank", "beta"), [(None, 0.0), (3, 0.0), (6, 0.6), (5, 1.0)])
@pytest.mark.parametrize("module", MODULES)
def test_ctm_equals_its_dense_formula(module: str, rank: int | None, beta: float, inner: str) -> None:
    pool = mixed_pool()
    parts, weights = at(pool, module), weights_at(pool, module)
    U, V = dense_shared_space(targets(parts, weights, beta), rank or 16)
    cores = [U.T @ part @ V for part in parts]
    merged = (
        sum(w * C for w, C in zip(weights, cores, strict=True)) if inner == "sum" else dense_ties(cores, 0.4, weights)
    )
    options = {"rank": rank, "balance": beta, "inner": inner, "density": 0.4}
    result = merge(pool, "ctm", weights=WEIGHTS, scaling=0.7, **options)
    assert distance(result.delta(module), 0.7 * U @ merged @ V.T) < 1e-5
    assert result.result(module).rank <= (rank or 16)


@pytest.mark.parametrize("rank", [1, 3])
def test_ctm_of_one_adapter_is_its_best_approximation(rank: int) -> None:
    adapter = random_adapter(1, 5)
    for module, update in adapter.deltas.items():
        assert distance(merge([adapter], "ctm", rank=rank).delta(module), update.truncate(rank).dense()) < 1e-5


def test_ctm_at_full_rank_is_task_arithmetic() -> None:
    pool = mixed_pool()
    result = merge(pool, "ctm", weights=WEIGHTS, scaling=0.4, rank=64)
    for module, expected in dense_sum(pool, WEIGHTS).items():
        assert distance(result.delta(module), 0.4 * expected) < 1e-6


def test_ctm_keeps_more_of_all_tasks_than_the_singular_vectors_of_their_sum() -> None:
    pool, rank = equal_pool(4), 4
    for module in MODULES:
        parts = targets(at(pool, module), [1.0] * 4, 0.0)
        low = merge(pool, "ctm", rank=rank).result(module)
        spaces = [(torch.linalg.qr(low.B.double()).Q, torch.linalg.qr(low.A.T.double()).Q)]
        U, _, Vh = torch.linalg.svd(torch.stack(parts).sum(0))
        spaces.append((U[:, :rank], Vh[:rank].T))
        ours, theirs = (sum(float((U.T @ p @ V).square().sum()) for p in parts) for U, V in spaces)
        assert ours > theirs


def test_a_small_task_keeps_its_direction_in_ctm_unless_norms_count() -> None:
    eye = torch.eye(8)
    large = Adapter("large", {"m": LowRank(eye[:, :2] * torch.tensor([50.0, 40.0]), eye[:2])}, base="x")
    small = Adapter("small", {"m": LowRank(eye[:, 2:3], eye[2:3])}, base="x")
    kept = [
        merge([large, small], "ctm", rank=2, balance=beta).delta("m").diagonal()[:3].tolist() for beta in (0.0, 1.0)
    ]
    assert kept == [pytest.approx([50.0, 0.0, 1.0], abs=1e-4), pytest.approx([50.0, 40.0, 0.0], abs=1e-4)]
    cut = merge([large, small], "svd", rank=2).delta("m").diagonal()[:3].tolist()
    assert cut == pytest.approx([50.0, 40.0, 0.0], abs=1e-4)


# -- methods that need something ---------------------------------------------------------------------------------------


def test_regmean_equals_its_dense_formula(features: Features) -> None:
    pool = mixed_pool()
    moments = []
    for adapter in pool:  # the data of an adapter that lacks the module count too
        G = features.second_moment(adapter.task, QUERY).double()
        G = 0.8 * G + 0.2 * torch.diag(G.diagonal())
        moments.append(G + 1e-6 * G.trace() / len(G) * torch.eye(len(G), dtype=G.dtype))
    weighted = sum(
        w * dense(adapter)[QUERY] @ G
        for adapter, w, G in zip(pool, WEIGHTS, moments, strict=True)
        if QUERY in adapter.deltas
    )
    expected = 0.7 * weighted @ torch.linalg.inv(sum(moments))
    result = merge(pool, "regmean", weights=WEIGHTS, features=features, scaling=0.7, reduction=0.8)
    assert distance(result.delta(QUERY), expected) < 1e-5


def test_ssr_is_the_regression_inside_what_the_adapters_read(features: Features) -> None:
    pool = mixed_pool()
    weighted = {a.name: w * dense(a)[QUERY] for a, w in zip(pool, WEIGHTS, strict=True) if QUERY in a.deltas}
    rows = torch.cat([weighted[name] for name in weighted])
    Q = torch.linalg.svd(rows).Vh[: torch.linalg.matrix_rank(rows)].T
    moments = {a.name: Q.T @ features.second_moment(a.task, QUERY).double() @ Q for a in pool}
    moments = {name: S + 1e-6 * S.trace() / len(S) * torch.eye(len(S), dtype=S.dtype) for name, S in moments.items()}
    expected = 0.7 * sum(weighted[name] @ Q @ moments[name] for name in weighted)
    expected = expected @ torch.linalg.inv(sum(moments.values())) @ Q.T
    result = merge(pool, "ssr", weights=WEIGHTS, features=features, scaling=0.7)
    assert distance(result.delta(QUERY), expected) < 1e-5
    # with directions enough for the whole input it is RegMean
    wide = [replace(random_adapter(seed, HIDDEN), name=a.name, task=a.task) for seed, a in enumerate(pool)]
    whole, plain = merge(wide, "ssr", features=features), merge(wide, "regmean", features=features, reduction=1.0)
    assert distance(whole.delta(QUERY), plain.delta(QUERY)) < 1e-5


def test_soft_osrm_with_mu_one_is_regmean(features: Features) -> None:
    pool = mixed_pool()
    soft = merge(pool, "task_arithmetic", soft_osrm=1.0, features=features)
    plain = merge(pool, "regmean", reduction=1.0, features=features)
    assert max(distance(soft.delta(module), plain.delta(module)) for module in MODULES) < 1e-5


def test_emr_equals_its_dense_formula() -> None:
    pool = mixed_pool()
    own, masked, unified_of = 0.0, 0.0, {}
    for module, shape in MODULES.items():
        parts = torch.stack([dense(adapter).get(module, torch.zeros(shape, dtype=torch.float64)) for adapter in pool])
        sign = torch.where(parts.sum(0) > 0, 1.0, -1.0)
        agree = parts * sign > 0
        unified = sign * (parts.abs() * agree).amax(0)
        unified_of[module] = unified * agree[1]
        own += float(parts[1].abs().mean())
        masked += float(unified_of[module].abs().mean())
    result = merge(pool, "emr").for_task(pool[1].task)
    assert max(distance(result.delta(module), own / masked * unified_of[module]) for module in MODULES) < 1e-5


def test_emr_recovers_scaled_copies_of_one_update() -> None:
    adapter = random_adapter(1)
    half = Adapter("half", {module: update * 0.5 for module, update in adapter.deltas.items()}, base=adapter.base)
    merged = merge([adapter, half], "emr")
    assert distance(merged.for_task("half").delta(QUERY), dense(half)[QUERY]) < 1e-6
    assert distance(merged.for_task(adapter.task).delta(QUERY), dense(adapter)[QUERY]) < 1e-6


def test_emr_without_a_task_refuses_to_save(tmp_path: Path) -> None:
    with pytest.raises(MergeError, match="for_task"):
        merge(equal_pool(), "emr").save(tmp_path / "out", rank=4)
    assert not (tmp_path / "out").exists()


# -- PEFT's factor-wise types ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "kind", "options"),
    [("peft_linear", "linear", {}), ("peft_ties", "ties", {"density": 0.4}), ("svd", "svd", {})],
)
def test_a_method_equals_pefts_combination_type(method: str, kind: str, options: dict, tmp_path: Path) -> None:
    for i in range(3):
        peft_folder(
            tmp_path / f"a{i}", tiny_model(), seed=i, r=4, lora_alpha=4 * (i + 1), target_modules=["query", "value"]
        )
    weights = [1.0, 0.5, 2.0]
    model = PeftModel.from_pretrained(tiny_model(), str(tmp_path / "a0"), adapter_name="a0")
    for name in ("a1", "a2"):
        model.load_adapter(str(tmp_path / name), adapter_name=name)
    model.add_weighted_adapter(["a0", "a1", "a2"], weights, "merged", combination_type=kind, **options)
    result = merge([Adapter.load(tmp_path / f"a{i}") for i in range(3)], method, weights=weights, **options)
    layers = dict(model.base_model.model.named_modules())
    for module in result.modules:
        layer = layers[module]
        expected = layer.scaling["merged"] * layer.lora_B["merged"].weight @ layer.lora_A["merged"].weight
        assert distance(result.delta(module), expected.detach()) < 1e-6


@pytest.mark.parametrize("method", ["peft_linear", "peft_ties"])
def test_factor_wise_methods_refuse_unequal_ranks_and_plug_ins(method: str) -> None:
    with pytest.raises(MergeError, match="ranks"):
        merge(mixed_pool(), method).delta(QUERY)
    with pytest.raises(MergeError, match="plug-in"):
        merge(equal_pool(), method, decouple=0.5)


@pytest.mark.parametrize("density", [0.0, 1.5, -0.1, float("nan")])
@pytest.mark.parametrize(
    "method", ["ties", "dare", "dare_ties", "della", "breadcrumbs", "knots", "core_space", "peft_ties"]
)
def test_a_density_outside_its_range_is_refused(method: str, density: float) -> None:
    with pytest.raises(MergeError, match="density"):
        merge(equal_pool(), method, density=density)
