"""Decouple and the choices in it that are ours, against dense formulas in float64."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest
import torch
from builders import (
    MODULES,
    QUERY,
    deltas_of,
    dense,
    dense_sum,
    distance,
    equal_pool,
    furthest,
    gaussian,
    mixed_pool,
    with_deltas,
)
from torch import Tensor

from merging import Adapter, Decouple, LowRank, MergeError, merge
from merging.plugins.decouple import DEAD_COLUMN, alive_columns

OPTIONS = [
    Decouple(0.6),
    Decouple(1.0, max_up=1.0),
    Decouple(0.7, max_up=1.5),
    Decouple(0.7, "module"),
    Decouple(1.0, "module", max_up=1.2),
    Decouple(1.0, renormalise=True),
    Decouple(0.4, renormalise=True),
    Decouple(0.8, "module", renormalise=True),
    Decouple(0.9, max_up=1.3, renormalise=True),
]


def merged(pool: Sequence[Adapter], options: Decouple | float, **arguments: Any) -> dict[str, Tensor]:
    return deltas_of(merge(list(pool), "task_arithmetic", decouple=options, **arguments))


def formula(pool: Sequence[Adapter], options: Decouple) -> dict[str, Tensor]:
    """Return the sum of the decoupled updates, from dense matrices."""
    updates, result = [dense(adapter) for adapter in pool], {}
    for module in {module for update in updates for module in update}:
        here = [update[module] for update in updates if module in update]
        size = (lambda W: W.norm(dim=0)) if options.granularity == "column" else (lambda W: W.norm()[None])
        mean = torch.stack([size(W) for W in here]).mean(0)
        factors = [(mean / size(W)) ** options.strength for W in here]
        if options.max_up is not None:
            factors = [factor.clamp(max=options.max_up) for factor in factors]
        total = sum(W * factor for W, factor in zip(here, factors, strict=True))
        result[module] = total * (mean / size(total)) ** options.strength if options.renormalise else total
    return result


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: options.words)
def test_every_choice_is_its_dense_formula(options: Decouple) -> None:
    pool = mixed_pool(torch.float64)
    expected = {module: 0.7 * total for module, total in formula(pool, options).items()}
    assert furthest(merged(pool, options, scaling=0.7), expected) < 1e-6


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: options.words)
def test_strength_zero_is_off_whatever_the_others_say(options: Decouple) -> None:
    pool = mixed_pool()
    updates = merge(pool, "ties", decouple=replace(options, strength=0.0)).updates
    assert all(
        update is adapter.deltas[module]
        for a, adapter in zip(updates, pool, strict=True)
        for module, update in a.items()
    )


@pytest.mark.parametrize(
    "options", [each for each in OPTIONS if not each.renormalise], ids=lambda options: options.words
)
def test_equal_norms_stay_as_they_are(options: Decouple) -> None:
    norms = {module: gaussian(3, shape[1]).abs() + 0.1 for module, shape in MODULES.items()}
    pool = [
        with_deltas(a, lambda m, u: u.scale_columns(norms[m] / u.column_norms())) for a in equal_pool(3, torch.float64)
    ]
    assert furthest(merged(pool, options), dense_sum(pool)) < 1e-9


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: options.words)
def test_the_order_of_the_adapters_does_not_matter(options: Decouple) -> None:
    pool = mixed_pool(torch.float64)[:3]
    first, *others = [merged(order, options) for order in permutations(pool)]
    assert max(furthest(other, first) for other in others) < 1e-9


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: options.words)
def test_zero_columns_stay_zero_and_nothing_becomes_infinite(options: Decouple) -> None:
    def silence(module: str, update: LowRank) -> LowRank:
        factors = torch.ones(update.shape[1], dtype=update.A.dtype)
        factors[:3] = 0.0
        return update.scale_columns(factors)

    pool = [with_deltas(adapter, silence) for adapter in equal_pool(3)]
    pool[0] = with_deltas(pool[0], lambda module, update: update * (0.0 if module == QUERY else 100.0))
    for module, result in merged(pool, options).items():
        assert not result[:, :3].any(), module
        assert result.isfinite().all()


@pytest.mark.parametrize("scaling", [0.3, 1.0])
def test_renormalised_columns_of_a_sum_have_the_norm_lambda_times_the_mean(scaling: float) -> None:
    pool = equal_pool(4, torch.float64)
    for module, result in merged(pool, Decouple(1.0, max_up=1.1, renormalise=True), scaling=scaling).items():
        mean = torch.stack([adapter.deltas[module].column_norms() for adapter in pool]).mean(0)
        torch.testing.assert_close(result.norm(dim=0), scaling * mean, rtol=1e-9, atol=0)


def test_a_renormalised_module_has_the_norm_lambda_times_the_mean() -> None:
    pool = equal_pool(4, torch.float64)
    for module, result in merged(pool, Decouple(1.0, "module", renormalise=True), scaling=0.4).items():
        assert float(result.norm()) == pytest.approx(
            0.4 * sum(adapter.deltas[module].norm() for adapter in pool) / 4, rel=1e-9
        )


@pytest.mark.parametrize("granularity", ["column", "module"])
def test_with_orthogonal_b_renormalising_is_sqrt_t_times_the_mean(granularity: str) -> None:
    Q = torch.linalg.qr(gaussian(1, 24, 12)).Q
    updates = [LowRank(Q[:, 3 * i : 3 * i + 3] * (1 + i), gaussian(10 + i, 3, 16)) for i in range(4)]
    pool = [Adapter(f"task-{i}", {"layer": update}, base="tiny") for i, update in enumerate(updates)]
    mean = deltas_of(merge(pool, "average", decouple=Decouple(1.0, granularity)))["layer"]
    result = merged(pool, Decouple(1.0, granularity, renormalise=True))["layer"]
    assert distance(result, math.sqrt(4) * mean) < 1e-9
    assert distance(result, merged(pool, Decouple(1.0, granularity))["layer"] / math.sqrt(4)) < 1e-9


def test_updates_that_cancel_are_not_blown_up() -> None:
    one = equal_pool(1)[0]
    other = replace(with_deltas(one, lambda module, update: update * -1.0), name="other", task="other")
    result = merged([one, other], Decouple(1.0, renormalise=True))
    assert all(float(each.norm()) < 1e-5 * one.deltas[module].norm() for module, each in result.items())


def test_a_limit_of_one_never_amplifies() -> None:
    pool = mixed_pool()
    for adapter, updates in zip(pool, merge(pool, "ties", decouple=Decouple(max_up=1.0)).updates, strict=True):
        for module, update in updates.items():
            assert (update.column_norms() <= adapter.deltas[module].column_norms() * (1 + 1e-6)).all()


def test_a_column_at_round_off_of_its_adapter_is_not_alive() -> None:
    norms = torch.tensor([[1.0, DEAD_COLUMN / 2, 2 * DEAD_COLUMN, 0.0], [1e-9, 1e-9, 0.0, 0.0]])
    assert alive_columns(norms).tolist() == [[True, False, True, False], [True, True, False, False]]


def test_a_number_is_a_strength_and_infinity_is_no_limit() -> None:
    assert merge(equal_pool(2), "ties", decouple=0.4).spec.decouple == Decouple(0.4) == Decouple(0.4, max_up=math.inf)
    assert Decouple(0.4).words == "decouple 0.4"
    assert Decouple(0.0, "module").words == ""


@pytest.mark.parametrize(
    "options",
    [
        {"strength": 1.2},
        {"granularity": "row"},
        {"max_up": 0.5},
        {"max_up": math.nan},
        {"strength": True},
        {"renormalise": "yes"},
    ],
)
def test_what_makes_no_sense_is_refused_with_its_name(options: dict[str, Any]) -> None:
    with pytest.raises(MergeError, match=f"decouple: {next(iter(options))}"):
        Decouple(**options)
