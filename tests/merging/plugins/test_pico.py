"""Pico against its dense formula, and what it must leave alone."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import pytest
import torch
from builders import (
    MODULES,
    QUERY,
    called,
    deltas_of,
    dense,
    dense_added,
    distance,
    equal_pool,
    furthest,
    gaussian,
    hidden,
    mixed_pool,
    peft_folder,
    reloaded,
    tiny_model,
    with_deltas,
)
from torch import Tensor

from merging import Adapter, LowRank, MergeError, merge
from merging.plugins.pico import pico


def calmed(pool: list[Adapter]) -> list[dict[str, LowRank]]:
    return pico([dict(adapter.deltas) for adapter in pool])


def formula(updates: list[Tensor]) -> list[Tensor]:
    """Return the calibrated updates of one module, with the dense out x out matrix."""
    balanced = []
    for W in updates:
        U, S, _ = torch.linalg.svd(W, full_matrices=False)
        balanced.append(U * S.sqrt())
    U, S, _ = torch.linalg.svd(torch.cat(balanced, 1), full_matrices=False)
    share = S**2 / (S**2).sum()
    alpha = 1 / (1 + (len(updates) - 1) * share)
    calibration = torch.eye(len(U), dtype=U.dtype) + U @ torch.diag(alpha - 1) @ U.T
    calm = [calibration @ W for W in updates]
    back = sum(float(W.norm()) for W in updates) / sum(float(W.norm()) for W in calm)
    return [back * W for W in calm]


def test_every_update_is_its_dense_formula() -> None:
    pool = mixed_pool()
    for module in MODULES:
        here = [i for i, adapter in enumerate(pool) if module in adapter.deltas]
        expected = formula([dense(pool[i])[module] for i in here])
        for i, update in zip(here, expected, strict=True):
            assert distance(calmed(pool)[i][module].dense(), update) < 1e-5


def test_a_shared_direction_counts_less_in_the_sum_and_the_mean_norm_stays() -> None:
    eye = torch.eye(10)
    pool = [
        Adapter(f"t{i}", {"m": LowRank(eye[:, [0, i + 1]], eye[[2 * i, 2 * i + 1]])}, base="x") for i in range(4)
    ]  # all write to output 0 and one of their own: energies 4 and 1 of 8, each B split evenly
    for i, update in enumerate(calmed(pool)):
        rows = update["m"].dense().norm(dim=1)
        shared, own = 1 / (1 + 3 * 4 / 8), 1 / (1 + 3 * 1 / 8)
        assert float(rows[0] / rows[i + 1]) == pytest.approx(shared / own, rel=1e-5)
        assert update["m"].norm() == pytest.approx(2**0.5, rel=1e-5)


def test_one_adapter_and_zeros_stay_the_same_objects() -> None:
    [one] = equal_pool(1)
    zero = called(with_deltas(one, lambda _, u: u * 0.0), "zero")
    for pool in ([one], [one, zero]):
        for adapter, updates in zip(pool, calmed(pool), strict=True):
            assert all(updates[module] is update for module, update in adapter.deltas.items())


def test_only_the_product_counts() -> None:
    def rotated(_: str, update: LowRank) -> LowRank:
        M = gaussian(5, update.rank, update.rank)
        return LowRank(update.B @ M, torch.linalg.inv(M) @ update.A)

    pool = equal_pool(3, torch.float64)
    expected = deltas_of(merge(pool, "task_arithmetic", pico=True))
    split = [with_deltas(adapter, rotated) for adapter in pool]
    assert furthest(deltas_of(merge(split, "task_arithmetic", pico=True)), expected) < 1e-6


def test_the_order_of_the_adapters_and_noise_change_nothing() -> None:
    pool = mixed_pool(torch.float64)[:3]
    pool.append(called(pool[0], "again"))
    first, *others = [deltas_of(merge(list(o), "task_arithmetic", pico=True)) for o in permutations(pool)]
    assert max(furthest(other, first) for other in others) < 1e-6
    noisy = [
        with_deltas(a, lambda _, u: LowRank(u.B + 1e-12 * u.B.norm() * gaussian(1, *u.B.shape), u.A)) for a in pool
    ]
    assert furthest(deltas_of(merge(noisy, "task_arithmetic", pico=True)), first) < 1e-6


def test_the_cap_comes_after_it_and_the_words_name_it() -> None:
    pool = equal_pool(5)
    pool[4] = with_deltas(pool[4], lambda _, u: u * 100.0)
    tamed = [
        with_deltas(adapter, lambda module, _, here=here: here[module])
        for adapter, here in zip(pool, calmed(pool), strict=True)
    ]
    both = merge(pool, "task_arithmetic", norm_cap=3.0, pico=True)
    assert furthest(deltas_of(both), deltas_of(merge(tamed, "task_arithmetic", norm_cap=3.0))) < 1e-6
    assert both.spec.words().endswith("Pico · norm cap 3 MAD")
    assert calmed(pool)[0][QUERY].A.dtype == torch.float32


def test_a_saved_merge_behind_pico_and_a_cap_acts_in_peft_as_it_did_here(model, tmp_path: Path) -> None:
    for i, targets in enumerate((["query"], ["query", "value"], ["value", "output.dense"])):
        peft_folder(tmp_path / f"task-{i}", model, seed=i, target_modules=targets, rank_pattern={"value": 2 + 5 * i})
    pool = [Adapter.load(tmp_path / f"task-{i}") for i in range(3)]
    result = merge(pool, "task_arithmetic", pico=True, norm_cap=0.0)
    result.save(tmp_path / "merged")
    states = hidden(reloaded(tiny_model(), tmp_path / "merged"))
    with dense_added(model, deltas_of(result)) as oracle:
        assert torch.allclose(states, hidden(oracle), atol=1e-5)
    with dense_added(model, deltas_of(merge(pool, "task_arithmetic"))) as other:
        assert not torch.allclose(states, hidden(other), atol=1e-3)


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(MergeError, match=r"pico = 0\.5 is neither"):
        merge(equal_pool(2), "ties", pico=0.5)  # type: ignore[arg-type]
    with pytest.raises(MergeError, match="factors as they are stored"):
        merge(equal_pool(2), "peft_linear", pico=True)
