"""merge() against dense float64 formulas: weights, plug-ins, streaming, export, and what it refuses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import (
    KINDS,
    MODULES,
    QUERY,
    QUERY_AND_VALUE,
    called,
    deltas_of,
    dense,
    dense_added,
    dense_sum,
    distance,
    equal_pool,
    furthest,
    gaussian,
    hidden,
    logits,
    mixed_pool,
    one_sentence,
    peft_folder,
    quick,
    random_adapter,
    reloaded,
    state,
    tiny_classifier,
    tiny_gpt2,
    tiny_model,
    unchanged,
    with_deltas,
)
from hypothesis import given
from hypothesis import strategies as st
from peft import PeftModel
from torch import Tensor

from merging import Adapter, Cancelled, LowRank, Merged, MergeError, Orthogonalize, SoftOSRM, merge
from merging.models.layers import fingerprint

Updates = dict[str, Tensor]
OFF: dict[str, Any] = {"orthogonalize": "off", "decouple": 0.0}


def decoupled(adapters: Sequence[Adapter], gamma: float = 1.0) -> list[Updates]:
    """Return the adapters' dense updates, column j of adapter i times (mean alpha_j / alpha_ij)^gamma: the formula
    itself.
    """
    updates = [dense(adapter) for adapter in adapters]
    for module in {module for update in updates for module in update}:
        have = [update for update in updates if module in update]
        alphas = torch.stack([update[module].norm(dim=0) for update in have])
        mean = torch.stack([column[column > 0].mean() for column in alphas.T])
        for update, alpha in zip(have, alphas, strict=True):
            update[module] = update[module] * torch.where(alpha > 0, (mean / alpha) ** gamma, 1.0)
    return updates


def added(updates: Sequence[Updates], weights: Sequence[float]) -> Updates:
    return {
        module: sum(w * update[module] for update, w in zip(updates, weights, strict=True) if module in update)
        for module in {module for update in updates for module in update}
    }


# -- task arithmetic and average ---------------------------------------------------------------------------------------


@quick
@given(scaling=st.floats(-2, 3), weights=st.lists(st.floats(-2, 2), min_size=5, max_size=5))
def test_task_arithmetic_is_the_scaled_weighted_sum(scaling: float, weights: list[float]) -> None:
    pool = mixed_pool()
    result = deltas_of(merge(pool, "task_arithmetic", weights=weights, scaling=scaling))
    size = dense_sum(pool, [abs(w) for w in weights])
    for module, expected in dense_sum(pool, weights).items():
        assert float((result[module] - scaling * expected).norm()) <= 1e-6 * (
            abs(scaling) * float(size[module].norm()) + 1e-6
        )


def test_task_arithmetic_of_peft_adapters_is_the_sum_of_pefts_updates(tmp_path: Path, model) -> None:
    options: list[dict[str, Any]] = [
        {"r": 2, "lora_alpha": 16},
        {"r": 16, "use_rslora": True, "target_modules": ["query", "key", "value", "dense"]},
        {"r": 4, "rank_pattern": {"value": 8}, "alpha_pattern": {"layer.1.attention.self.query": 3}},
        {"r": 8, "target_modules": ["output.dense"]},
    ]
    written = [peft_folder(tmp_path / str(i), model, seed=i, **option) for i, option in enumerate(options)]
    pool = [Adapter.load(tmp_path / str(i)) for i in range(len(options))]
    result = deltas_of(merge(pool, "task_arithmetic", scaling=0.4))
    assert furthest(result, added(written, [0.4] * len(options))) < 1e-6


def test_average_divides_by_the_sum_of_the_weights() -> None:
    pool, weights = mixed_pool(), [1.0, 2.0, 0.5, 3.0, 1.5]
    expected = {module: update / 8.0 for module, update in dense_sum(pool, weights).items()}
    assert furthest(deltas_of(merge(pool, "average", weights=weights)), expected) < 1e-6


def test_average_counts_an_adapter_that_lacks_the_module() -> None:
    pool = [random_adapter(0), random_adapter(1, modules=list(MODULES)[:1])]
    last = list(MODULES)[-1]
    assert distance(merge(pool, "average").delta(last), dense(pool[0])[last] / 2) < 1e-6


def test_average_refuses_weights_that_sum_to_zero() -> None:
    with pytest.raises(MergeError, match="sum"):
        deltas_of(merge(equal_pool(2), "average", weights=[1.0, -1.0]))


# -- weights -----------------------------------------------------------------------------------------------------------


def test_weights_by_module_pattern_take_the_first_match_and_one_where_none_does() -> None:
    pool = equal_pool(2)
    by_pattern = {"*.attention.self.query": 0.5, "encoder.layer.0.*": 3.0, "*.output.dense": -1.0}
    names = list(MODULES)
    expected = dict(zip(names, [0.5, 3.0, 1.0, -1.0], strict=True))
    result = merge(pool, "task_arithmetic", weights=[by_pattern, 2.0])
    for module in names:
        parts = [dense(adapter)[module] for adapter in pool]
        assert distance(result.delta(module), expected[module] * parts[0] + 2.0 * parts[1]) < 1e-6


def test_weights_act_after_decoupling() -> None:
    pool, weights = mixed_pool(), [2.0, 1.0, -0.5, 0.25, 3.0]
    result = merge(pool, "task_arithmetic", weights=weights, decouple=1.0)
    assert furthest(deltas_of(result), added(decoupled(pool), weights)) < 1e-6


def test_weights_act_after_orthogonalizing() -> None:
    pool = equal_pool(3)
    single = [deltas_of(merge(pool, "do_merging", weights=[float(i == j) for j in range(3)])) for i in range(3)]
    result = merge(pool, "do_merging", weights=[2.0, -1.0, 0.5])
    assert furthest(deltas_of(result), added(single, [2.0, -1.0, 0.5])) < 1e-5


# -- decouple ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("method", ["task_arithmetic", "do_merging"])
def test_decouple_alone_is_its_dense_formula(method: str, gamma: float) -> None:
    pool = mixed_pool()
    result = merge(pool, method, scaling=0.7, orthogonalize="off", decouple=gamma)
    assert furthest(deltas_of(result), added(decoupled(pool, gamma), [0.7] * len(pool))) < 1e-6


@pytest.mark.parametrize("gamma", [0.5, 1.0])
def test_a_column_that_is_dead_in_one_adapter_takes_its_scale_from_the_others(gamma: float) -> None:
    pool = equal_pool(3)
    pool[1] = with_deltas(pool[1], lambda _, u: u.scale_columns((torch.arange(u.shape[1]) > 7).float()))
    result = deltas_of(merge(pool, "task_arithmetic", decouple=gamma))
    assert furthest(result, added(decoupled(pool, gamma), [1.0] * 3)) < 1e-6


def test_do_merging_without_its_plug_ins_is_task_arithmetic() -> None:
    pool, weights = mixed_pool(), [1.0, 0.5, 2.0, 0.0, -1.0]
    plain = deltas_of(merge(pool, "task_arithmetic", weights=weights, scaling=0.3))
    result = deltas_of(merge(pool, "do_merging", weights=weights, scaling=0.3, **OFF))
    assert all(torch.equal(result[module], plain[module]) for module in plain)


def test_do_merging_is_task_arithmetic_with_both_plug_ins() -> None:
    pool = mixed_pool()
    result = deltas_of(merge(pool, "do_merging", scaling=0.3))
    spelled_out = deltas_of(merge(pool, "task_arithmetic", scaling=0.3, orthogonalize="balanced", decouple=1.0))
    assert all(torch.equal(result[module], spelled_out[module]) for module in spelled_out)
    assert furthest(result, deltas_of(merge(pool, "task_arithmetic", scaling=0.3))) > 1e-2


def test_equal_column_norms_make_decoupling_do_nothing() -> None:
    def unit_columns(_: str, update: LowRank) -> LowRank:
        B = torch.linalg.qr(update.B.double()).Q
        return LowRank(B, update.A.double() / update.A.double().norm(dim=0)).to(torch.float32)

    pool = [with_deltas(adapter, unit_columns) for adapter in equal_pool(3)]
    assert furthest(deltas_of(merge(pool, "task_arithmetic", decouple=1.0)), dense_sum(pool)) < 1e-6


@pytest.mark.parametrize("orthogonalize", ["off", "balanced"])
def test_a_zero_column_stays_zero(orthogonalize: str) -> None:
    dead = with_deltas(random_adapter(0), lambda _, u: u.scale_columns((torch.arange(u.shape[1]) != 5).float()))
    partly = with_deltas(random_adapter(1), lambda _, u: u.scale_columns((torch.arange(u.shape[1]) % 2 == 0).float()))
    result = deltas_of(merge([dead, partly], "task_arithmetic", orthogonalize=orthogonalize, decouple=1.0))
    for delta in result.values():
        assert bool(delta.isfinite().all())
        assert float(delta[:, 5].norm()) < 1e-12 * float(delta.norm())


def test_decoupling_gives_every_adapter_the_same_magnitudes() -> None:
    pool = equal_pool(3)
    single = [merge(pool, "task_arithmetic", weights=[float(i == j) for j in range(3)], decouple=1.0) for i in range(3)]
    norms = [result.delta(QUERY).double().norm(dim=0) for result in single]
    before = torch.stack([adapter.deltas[QUERY].column_norms() for adapter in pool])
    for norm in norms:
        assert distance(norm, before.mean(0)) < 1e-6


# -- orthogonalize -----------------------------------------------------------------------------------------------------


def nudged(pool: Sequence[Adapter], options: str | Orthogonalize = "balanced") -> list[dict[str, LowRank]]:
    return merge(pool, "task_arithmetic", orthogonalize=options).updates


def balanced_rows(updates: Sequence[LowRank], side: str) -> list[Tensor]:
    """Return each adapter's A (or B transposed) with the singular values split evenly, by a dense SVD."""
    rows = []
    for update in updates:
        U, S, Vh = torch.linalg.svd(update.B.double() @ update.A.double(), full_matrices=False)
        keep = S / S[0] > 1e-6
        rows.append(S[keep].sqrt()[:, None] * (Vh[keep] if side == "A" else U.T[keep]))
    return rows


def cross_term(rows: Sequence[Tensor]) -> float:
    """Return sum_{i != j} ||V_i V_j^T||_F^2."""
    return sum(float((a @ b.T).square().sum()) for a in rows for b in rows if a is not b)


@pytest.mark.parametrize("mode", ["balanced", "raw"])
@pytest.mark.parametrize("penalty", [0.05, 0.1, 1.0])
def test_orthogonalizing_lowers_its_loss_and_the_cross_term(mode: str, penalty: float) -> None:
    pool = [random_adapter(i, 4, scale=0.1) for i in range(3)]
    options = Orthogonalize(mode, penalty)
    after = nudged(pool, options)
    for module in MODULES:
        for side in ("A", "B"):
            stored = [[getattr(u, side) if side == "A" else u.B.T for u in us] for us in _both(pool, after, module)]
            if (
                mode == "balanced"
            ):  # the split is even before, every factor has norm 1, and the norms come back afterwards
                start = balanced_rows([adapter.deltas[module] for adapter in pool], side)
                norms = [rows.norm() for rows in start]
                end = [rows.double() for rows in stored[1]]
                start, end = ([r / n for r, n in zip(rows, norms, strict=True)] for rows in (start, end))
                start = _aligned(start, end)
            else:
                start, end = [[rows.double() for rows in part] for part in stored]
            moved = sum(float((e - s).square().sum()) for s, e in zip(start, end, strict=True))
            assert cross_term(end) < cross_term(start)
            assert cross_term(end) + penalty * moved <= cross_term(start) * (1 + 1e-6)


def _both(
    pool: Sequence[Adapter], after: Sequence[dict[str, LowRank]], module: str
) -> tuple[list[LowRank], list[LowRank]]:
    return [adapter.deltas[module] for adapter in pool], [update[module] for update in after]


def _aligned(start: Sequence[Tensor], end: Sequence[Tensor]) -> list[Tensor]:
    """Flip singular vectors to the signs that the other side has: an SVD leaves them free."""
    return [s * (s * e).sum(1, keepdim=True).sign() for s, e in zip(start, end, strict=True)]


@pytest.mark.parametrize("g", [0.1, 1.0])
def test_the_descent_ends_where_the_gradient_is_zero(g: float) -> None:
    # of the loss in full space, by hand: 4 offdiag(V V^T) V + 2 g (V - V0), for rows V0 of length about 1
    pool = [random_adapter(i, 3, modules=[QUERY], dtype=torch.float64) for i in range(3)]
    pool = [with_deltas(adapter, lambda _, u: LowRank(u.B, u.A / 32**0.5)) for adapter in pool]
    after = nudged(pool, Orthogonalize("raw", g, 2000))
    V0 = torch.cat([adapter.deltas[QUERY].A for adapter in pool])
    V = torch.cat([update[QUERY].A for update in after])
    owner = torch.arange(9) // 3
    cross = (owner[:, None] != owner[None, :]).double()
    push, pull = 4 * (V @ V.T * cross) @ V, 2 * g * (V - V0)
    assert float(pull.norm()) > 0.1
    assert float((push + pull).norm()) < 0.02 * float(pull.norm())


def test_a_larger_penalty_moves_less() -> None:
    pool = equal_pool(4)
    moved = [
        max(merge(pool, "task_arithmetic", orthogonalize=Orthogonalize(penalty=g)).nudges().values())
        for g in (0.05, 0.2, 1.0, 1e6)
    ]
    assert moved == sorted(moved, reverse=True)
    assert moved[0] > 0.05
    assert moved[-1] < 1e-4


@quick
@given(powers=st.lists(st.floats(-4, 4), min_size=5, max_size=5), order=st.permutations(range(5)))
def test_balanced_orthogonalizing_sees_the_products_only(powers: list[float], order: list[int]) -> None:
    pool = mixed_pool()
    split = [with_deltas(a, lambda _, u, c=10**p: LowRank(u.B * c, u.A / c)) for a, p in zip(pool, powers, strict=True)]
    expected = [{m: u.dense() for m, u in updates.items()} for updates in nudged(pool)]
    result = [{m: u.dense() for m, u in updates.items()} for updates in nudged([split[i] for i in order])]
    for position, i in enumerate(order):
        assert furthest(result[position], expected[i]) < 1e-5  # float32 factors, multiplied and divided


def test_raw_orthogonalizing_sees_the_split() -> None:
    pool = equal_pool(2)
    split = [with_deltas(adapter, lambda _, u: LowRank(u.B * 10, u.A / 10)) for adapter in pool]
    result = deltas_of(merge(split, "task_arithmetic", orthogonalize="raw"))
    assert furthest(result, deltas_of(merge(pool, "task_arithmetic", orthogonalize="raw"))) > 1e-2


@pytest.mark.parametrize("mode", ["balanced", "raw"])
def test_what_is_orthogonal_already_comes_back_unchanged(mode: str) -> None:
    Q_A, Q_B = torch.linalg.qr(gaussian(0, 32, 12)).Q, torch.linalg.qr(gaussian(1, 32, 12)).Q
    pool = []
    for i in range(3):
        own = slice(4 * i, 4 * i + 4)
        update = LowRank(Q_B[:, own] @ gaussian(2 + i, 4, 4), gaussian(5 + i, 4, 4) @ Q_A[:, own].T).to(torch.float32)
        pool.append(replace(random_adapter(i), deltas={QUERY: update * (10.0**i)}))
    for adapter, after in zip(pool, nudged(pool, mode), strict=True):
        assert distance(after[QUERY].dense(), dense(adapter)[QUERY]) < 1e-6


@pytest.mark.parametrize("mode", ["balanced", "raw"])
def test_an_adapter_alone_in_a_module_is_not_nudged(mode: str) -> None:
    names = list(MODULES)
    pool = [random_adapter(0, modules=names[:2]), random_adapter(1, modules=names[1:])]
    after = nudged(pool, mode)
    assert distance(after[0][names[0]].dense(), dense(pool[0])[names[0]]) < 1e-6
    assert distance(after[1][names[3]].dense(), dense(pool[1])[names[3]]) < 1e-6
    assert distance(after[0][names[1]].dense(), dense(pool[0])[names[1]]) > 1e-2


def test_copies_of_one_update_stay_one_update() -> None:
    adapter = random_adapter(0)
    pool = [
        adapter,
        called(with_deltas(adapter, lambda _, u: LowRank(u.B * 6, u.A / 2)), "three times as large"),
        random_adapter(1),
    ]
    first, second, _ = nudged(pool)
    for module in MODULES:
        assert distance(second[module].dense(), 3 * first[module].dense().double()) < 1e-5


@pytest.mark.parametrize("factor", [-1.0, -3.0])
def test_opposite_updates_are_stable_under_noise(factor: float) -> None:
    adapter = random_adapter(0, dtype=torch.float64)
    pool = [
        adapter,
        called(with_deltas(adapter, lambda _, u: u * factor), "opposite"),
        random_adapter(1, dtype=torch.float64),
    ]
    noisy = [
        with_deltas(a, lambda _, u, i=i: LowRank(u.B, u.A + 1e-12 * gaussian(i, *u.A.shape)))
        for i, a in enumerate(pool)
    ]
    for before, after in zip(nudged(pool), nudged(noisy), strict=True):
        for module in MODULES:
            assert distance(after[module].dense(), before[module].dense()) < 1e-6


@pytest.mark.parametrize("mode", ["balanced", "raw"])
def test_ranks_and_dtypes_are_kept_or_lowered(mode: str) -> None:
    pool = mixed_pool()
    for adapter, after in zip(pool, nudged(pool, mode), strict=True):
        assert set(after) == set(adapter.deltas)
        for module, update in after.items():
            assert update.rank <= adapter.deltas[module].rank
            assert (update.shape, update.A.dtype) == (adapter.deltas[module].shape, torch.float32)


def test_nudges_say_how_far_each_adapter_moved() -> None:
    pool = mixed_pool()
    result = merge(pool, "do_merging")
    for adapter, after in zip(pool, result.updates, strict=True):
        moved = sum(float((after[m].dense().double() - old).square().sum()) for m, old in dense(adapter).items())
        whole = sum(float(old.square().sum()) for old in dense(adapter).values())
        assert result.nudges()[adapter.name] == pytest.approx(math.sqrt(moved / whole), rel=1e-4)
    assert max(merge(pool, "task_arithmetic").nudges().values()) < 1e-12


# -- soft OSRM ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mu", [0.0, 0.3, 1.0])
def test_soft_osrm_is_its_closed_form(mu: float, features) -> None:
    pool = equal_pool(3)
    updates = merge(pool, "task_arithmetic", features=features, soft_osrm=SoftOSRM(mu, 1e-3)).updates
    for module, (_, width) in MODULES.items():
        moments = [features.second_moment(adapter.task, module) for adapter in pool]
        G = [S + 1e-3 * S.trace() / width * torch.eye(width, dtype=torch.float64) for S in moments]
        for i, adapter in enumerate(pool):
            others = sum(G[j] for j in range(3) if j != i)
            expected = dense(adapter)[module] @ G[i] @ torch.linalg.inv(G[i] + mu * others)
            assert distance(updates[i][module].dense(), expected) < 1e-5


def test_soft_osrm_without_a_ridge_needs_texts_in_every_direction(features) -> None:
    # three short sentences cannot fill all 32 directions
    with pytest.raises(MergeError, match="ridge"):
        merge(equal_pool(3), "task_arithmetic", features=features.first(1), soft_osrm=SoftOSRM(0.0, 0.0))


def test_soft_osrm_without_data_is_refused() -> None:
    with pytest.raises(MergeError, match="features"):
        merge(equal_pool(2), "task_arithmetic", soft_osrm=0.3)


# -- streaming ---------------------------------------------------------------------------------------------------------


def test_on_module_gets_every_result_once_and_in_order() -> None:
    seen: list[tuple[str, Tensor, int, int]] = []
    result = merge(mixed_pool(), "task_arithmetic", on_module=lambda *given: seen.append(given))
    assert [name for name, *_ in seen] == result.modules == sorted(MODULES)
    assert [(done, total) for *_, done, total in seen] == [(i + 1, len(MODULES)) for i in range(len(MODULES))]
    assert all(torch.equal(delta, result.delta(name)) for name, delta, *_ in seen)


def test_cancelling_stops_between_two_modules() -> None:
    seen: list[str] = []

    def stop(name: str, _delta: Tensor, done: int, _total: int) -> None:
        seen.append(name)
        if done == 2:
            raise Cancelled("Enough.")

    with pytest.raises(Cancelled, match="Enough"):
        merge(mixed_pool(), "task_arithmetic", on_module=stop)
    assert len(seen) == 2


# -- refusals ----------------------------------------------------------------------------------------------------------


REFUSED: dict[str, tuple[list[Adapter], str, dict[str, Any], list[str]]] = {
    "no adapters": ([], "average", {}, ["adapter"]),
    "an unknown method": (equal_pool(2), "magic", {}, ["magic", "task_arithmetic"]),
    "an unknown parameter": (equal_pool(2), "task_arithmetic", {"lamda": 0.3}, ["lamda", "scaling"]),
    "a parameter of a method that has none": (equal_pool(2), "average", {"scaling": 0.3}, ["scaling"]),
    "a scaling that is NaN": (equal_pool(2), "task_arithmetic", {"scaling": math.nan}, ["scaling", "nan"]),
    "a scaling that is infinite": (equal_pool(2), "do_merging", {"scaling": -math.inf}, ["scaling", "inf"]),
    "a scaling that is a text": (equal_pool(2), "task_arithmetic", {"scaling": "0.3"}, ["scaling", "0.3"]),
    "a scaling that is True": (equal_pool(2), "task_arithmetic", {"scaling": True}, ["scaling"]),
    "too few weights": (equal_pool(3), "average", {"weights": [1.0, 2.0]}, ["2 weights", "3 adapters"]),
    "too many weights": (equal_pool(1), "average", {"weights": [1.0, 2.0]}, ["2 weights", "1 adapters"]),
    "no weights": (equal_pool(2), "average", {"weights": []}, ["0 weights"]),
    "a weight that is NaN": (equal_pool(2), "average", {"weights": [1.0, math.nan]}, ["task-1", "nan"]),
    "a weight that is a text": (equal_pool(2), "average", {"weights": [1.0, "2"]}, ["task-1", "2"]),
    "a weight pattern that matches nothing": (
        equal_pool(2),
        "average",
        {"weights": [{"*.qeury": 2.0}, 1.0]},
        ["task-0", "*.qeury"],
    ),
    "a weight of a pattern that is infinite": (
        equal_pool(2),
        "average",
        {"weights": [{"*": math.inf}, 1.0]},
        ["task-0", "inf"],
    ),
    "a strength above one": (equal_pool(2), "average", {"decouple": 1.5}, ["decouple", "1.5"]),
    "a strength that is NaN": (equal_pool(2), "average", {"decouple": math.nan}, ["decouple", "nan"]),
    "an unknown mode": (equal_pool(2), "average", {"orthogonalize": "sideways"}, ["sideways", "balanced"]),
    "a mode that is no text": (equal_pool(2), "average", {"orthogonalize": 3}, ["orthogonalize", "3"]),
    "a mu that is NaN": (equal_pool(2), "average", {"soft_osrm": math.nan}, ["soft_osrm", "nan"]),
}


@pytest.mark.parametrize(("pool", "method", "arguments", "words"), REFUSED.values(), ids=REFUSED)
def test_what_makes_no_sense_is_refused_in_a_sentence(
    pool: list[Adapter], method: str, arguments: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(MergeError) as caught:
        merge(pool, method, **arguments)
    assert one_sentence(caught.value, *words), str(caught.value)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    "options", [{"penalty": math.nan}, {"penalty": math.inf}, {"penalty": -0.1}, {"steps": 0}, {"steps": 2.5}]
)
def test_options_of_orthogonalize_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(MergeError, match=next(iter(options))):
        Orthogonalize(**options)


@pytest.mark.parametrize("options", [{"mu": math.nan}, {"mu": -0.1}, {"ridge": math.inf}, {"ridge": -1.0}])
def test_options_of_soft_osrm_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(MergeError, match=next(iter(options))):
        SoftOSRM(**options)


# -- the result --------------------------------------------------------------------------------------------------------


def test_delta_of_a_module_that_no_adapter_changes_is_refused() -> None:
    with pytest.raises(MergeError, match="pooler"):
        merge(equal_pool(2), "average").delta("pooler.dense")


@pytest.mark.parametrize("rank", [0, -2, 1.5, True])
def test_export_at_no_rank_is_refused(rank: Any, tmp_path: Path) -> None:
    with pytest.raises(MergeError, match="rank"):
        merge(equal_pool(2), "average").save(tmp_path / "out", rank=rank)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("method", ["task_arithmetic", "ties"])
def test_a_rank_says_what_it_loses_in_every_module(method: str, tmp_path: Path) -> None:
    result = merge(mixed_pool(), method)
    adapter = result.to_adapter(2)
    lost, total = 0.0, 0.0
    for module in result.modules:
        whole = result.delta(module).double()
        difference = float((whole - adapter.deltas[module].dense()).norm())
        assert adapter.metadata.truncation.modules[module] == pytest.approx(difference / float(whole.norm()), abs=1e-6)
        lost, total = lost + difference**2, total + float(whole.norm()) ** 2
    assert adapter.metadata.truncation.error == pytest.approx((lost / total) ** 0.5, rel=1e-4)
    reloaded = Adapter.load(result.save(tmp_path / "out", rank=2))
    assert reloaded.metadata.truncation == adapter.metadata.truncation
    assert f"{adapter.metadata.truncation.error:.2g}" in (tmp_path / "out" / "README.md").read_text()


def test_full_rank_loses_nothing() -> None:
    result = merge(mixed_pool(), "ties")
    assert result.to_adapter(max(min(shape) for shape in MODULES.values())).metadata.truncation.error == 0.0


def test_for_task_refuses_tasks_that_no_adapter_or_two_have() -> None:
    result = merge([*equal_pool(2), called(random_adapter(2), "task-0")], "average")
    assert isinstance(result.for_task("task-1"), Merged)
    for task in ("task-0", "elsewhere"):
        with pytest.raises(MergeError, match=task):
            result.for_task(task)


def test_float64_adapters_give_float64_results() -> None:
    pool = mixed_pool(torch.float64)
    result = deltas_of(merge(pool, "task_arithmetic"))
    assert {delta.dtype for delta in result.values()} == {torch.float64}
    assert furthest(result, dense_sum(pool)) < 1e-14


# -- in a model --------------------------------------------------------------------------------------------------------


def test_a_merge_is_refused_by_a_model_that_is_not_its_base(model) -> None:
    right = replace(random_adapter(0), base_fingerprint=fingerprint(model))
    with merge([right], "average").applied_to(model):
        pass
    other, before = tiny_model(seed=1), state(tiny_model(seed=1))
    with pytest.raises(MergeError, match="base"), merge([right], "average").applied_to(other):
        pass
    assert unchanged(other, before)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda deltas: {"encoder.layer.7.attention.self.query": deltas[QUERY]},
        lambda deltas: {QUERY: LowRank(deltas[QUERY].B, torch.cat([deltas[QUERY].A] * 2, 1))},
        lambda deltas: {"embeddings.word_embeddings": deltas[QUERY]},
        lambda deltas: {"encoder.layer.0": deltas[QUERY]},
    ],
    ids=["no such module", "another shape", "an embedding", "a whole layer"],
)
def test_a_merge_that_does_not_fit_the_model_leaves_it_alone(spoil: Any, model) -> None:
    adapter, before = random_adapter(0), state(model)
    adapter = replace(adapter, deltas={**adapter.deltas, **spoil(adapter.deltas)})
    with pytest.raises(MergeError) as caught, merge([adapter], "average").applied_to(model):
        pass
    assert one_sentence(caught.value)
    assert unchanged(model, before)


def test_an_error_in_the_middle_of_applying_restores_what_was_applied(model) -> None:
    before = state(model)
    last = sorted(MODULES)[-1]
    result = merge(equal_pool(2), "average", weights=[{last: 1.0}, {last: -1.0}])  # no mean at the last module
    with pytest.raises(MergeError, match=last), result.applied_to(model):
        pass
    assert unchanged(model, before)


def test_a_model_with_a_head_carries_the_merge_in_its_encoder() -> None:
    result, classifier, bare = merge(mixed_pool(), "task_arithmetic", scaling=0.1), tiny_classifier(), tiny_model()
    bare.load_state_dict(classifier.bert.state_dict(), strict=False)
    with result.applied_to(classifier), result.applied_to(bare):
        assert torch.allclose(hidden(classifier), hidden(bare), atol=1e-6)


def test_a_layer_that_stores_its_weight_transposed_carries_the_merge_too(tmp_path: Path) -> None:
    gpt2 = tiny_gpt2()  # its c_attn is a Conv1D, whose weight is (in, out)
    for i in range(2):
        peft_folder(tmp_path / f"task-{i}", gpt2, seed=i, r=4, target_modules=["c_attn"], fan_in_fan_out=True)
    result = merge([Adapter.load(tmp_path / f"task-{i}") for i in range(2)], "task_arithmetic")
    result.save(tmp_path / "merged")
    expected = hidden(reloaded(gpt2, tmp_path / "merged"))
    assert not torch.allclose(expected, hidden(gpt2), atol=1e-3)
    both = PeftModel.from_pretrained(tiny_gpt2(), tmp_path / "task-0", adapter_name="task-0")
    both.load_adapter(tmp_path / "task-1", adapter_name="task-1")
    both.base_model.set_adapter(["task-0", "task-1"])  # PEFT's own sum of two adapters
    assert torch.allclose(hidden(both), expected, atol=1e-5)
    before = state(gpt2)
    with result.applied_to(gpt2):
        assert torch.allclose(hidden(gpt2), expected, atol=1e-5)
    assert unchanged(gpt2, before)


def test_half_precision_weights_are_restored_bit_for_bit(model) -> None:
    half = model.to(torch.bfloat16)
    before = state(half)
    with merge(mixed_pool(), "task_arithmetic").applied_to(half):
        assert half.get_submodule(QUERY).weight.dtype == torch.bfloat16
        assert not unchanged(half, before)
    assert unchanged(half, before)


# -- in a file ---------------------------------------------------------------------------------------------------------


def test_a_saved_merge_of_peft_adapters_acts_in_peft_as_the_sum_of_updates(
    pool: list[Adapter], model, tmp_path: Path
) -> None:
    merge(pool, "task_arithmetic", scaling=0.5).save(tmp_path / "merged")
    states = hidden(reloaded(model, tmp_path / "merged"))
    with dense_added(model, dense_sum(pool, [0.5] * 3)) as oracle:
        assert torch.allclose(states, hidden(oracle), atol=1e-5)
    assert not torch.allclose(states, hidden(model), atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_merge_carries_the_head_of_the_chosen_task(kind: str, tmp_path: Path) -> None:
    base = tiny_classifier(kind)
    inside = f"{base.base_model_prefix}."
    for i, rank in enumerate((4, 2, 8)):
        peft_folder(
            tmp_path / f"task-{i}", base, seed=i, r=rank, target_modules=QUERY_AND_VALUE[kind], task_type="SEQ_CLS"
        )
    pool = [Adapter.load(tmp_path / f"task-{i}") for i in range(3)]
    result = merge(pool, "task_arithmetic", scaling=0.5)
    result.save(tmp_path / "merged", head="task-1")
    with dense_added(base, {f"{inside}{m}": update for m, update in dense_sum(pool, [0.5] * 3).items()}) as oracle:
        for name, tensor in pool[1].head.tensors.items():
            oracle.get_parameter(name).data.copy_(tensor)
        answers = logits(reloaded(base, tmp_path / "merged"))
        assert torch.allclose(answers, logits(oracle), atol=1e-5)
    assert not torch.allclose(answers, logits(base), atol=1e-3)
    again = Adapter.load(tmp_path / "merged")
    assert all(torch.equal(again.head.tensors[name], tensor) for name, tensor in pool[1].head.tensors.items())


def test_without_a_head_a_merge_of_classifiers_is_an_adapter_of_the_encoder(tmp_path: Path) -> None:
    base = tiny_classifier()
    for i in range(2):
        peft_folder(tmp_path / f"task-{i}", base, seed=i, task_type="SEQ_CLS")
    pool = [Adapter.load(tmp_path / f"task-{i}") for i in range(2)]
    result = merge(pool, "task_arithmetic")
    result.save(tmp_path / "merged")
    again = Adapter.load(tmp_path / "merged")
    assert (again.head, again.config["task_type"], again.prefix) == (None, None, "bert.")
    with dense_added(base, {f"bert.{m}": update for m, update in dense_sum(pool).items()}) as oracle:
        assert torch.allclose(hidden(reloaded(base, tmp_path / "merged")), hidden(oracle), atol=1e-5)
    assert not torch.allclose(hidden(reloaded(base, tmp_path / "merged")), hidden(base), atol=1e-3)


def test_adapters_of_bare_and_headed_models_merge_and_say_which_prefix_to_write(tmp_path: Path) -> None:
    classifier, bare = tiny_classifier(), tiny_model()
    bare.load_state_dict(classifier.bert.state_dict(), strict=False)
    peft_folder(tmp_path / "bare", bare, seed=0)
    peft_folder(tmp_path / "headed", classifier, seed=1, task_type="SEQ_CLS")
    pool = [Adapter.load(tmp_path / "bare"), Adapter.load(tmp_path / "headed")]
    result = merge(pool, "task_arithmetic")
    with pytest.raises(MergeError, match="prefix"):
        result.save(tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
    for prefix, model in (("", bare), ("bert.", classifier)):
        result.save(tmp_path / "merged", prefix=prefix)
        with dense_added(model, {f"{prefix}{m}": update for m, update in dense_sum(pool).items()}) as oracle:
            assert torch.allclose(hidden(reloaded(model, tmp_path / "merged")), hidden(oracle), atol=1e-5)
    with_head = result.save(tmp_path / "with_head", head="headed")
    assert Adapter.load(with_head).prefix == "bert."


def test_a_head_that_nobody_brings_is_refused_and_nothing_is_written(pool: list[Adapter], tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(MergeError) as caught:
        merge(pool, "average").save(tmp_path / "merged", head="task-1")
    assert one_sentence(caught.value, "task-1")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_merge_that_overflows_is_not_written(pool: list[Adapter], tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(MergeError, match="infinite"):
        merge(pool, "task_arithmetic", scaling=1e200).save(tmp_path / "merged")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_merge_names_its_parents_and_their_base(pool: list[Adapter], tmp_path: Path) -> None:
    folder = merge(pool, "task_arithmetic", scaling=0.35).save(tmp_path / "merged")
    card = (folder / "README.md").read_text()
    for words in ("task-0", "task-1", "task-2", "Task Arithmetic", "0.35", "tiny-bert", "library_name: peft"):
        assert words in card
    assert Adapter.load(folder).base == "tiny-bert"
    assert {path.name for path in folder.iterdir()} >= {
        "adapter_config.json", "adapter_model.safetensors", "recipe.yaml", "README.md",
    }  # fmt: skip
