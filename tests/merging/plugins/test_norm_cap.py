"""The norm cap against its dense formula, and what it must leave alone."""

from __future__ import annotations

from itertools import permutations
from statistics import median

import pytest
from builders import MODULES, QUERY, called, deltas_of, dense, equal_pool, furthest, mixed_pool, with_deltas

from merging import Adapter, LowRank, MergeError, merge
from merging.plugins.norm_cap import norm_cap


def capped(pool: list[Adapter], mads: float) -> list[dict[str, LowRank]]:
    return norm_cap([dict(adapter.deltas) for adapter in pool], mads)


@pytest.mark.parametrize("mads", [0.0, 0.5, 3.0])
def test_a_capped_sum_is_its_dense_formula(mads: float) -> None:
    pool = mixed_pool()
    pool[1] = with_deltas(pool[1], lambda _, u: u * 40.0)
    updates, expected, at_work = [dense(adapter) for adapter in pool], {}, 0
    for module in MODULES:
        here = [update[module] for update in updates if module in update]
        norms = [float(W.norm()) for W in here]
        cap = median(norms) + mads * median(abs(n - median(norms)) for n in norms)
        expected[module] = 0.7 * sum(W * min(1.0, cap / n) for W, n in zip(here, norms, strict=True))
        at_work += sum(n > cap for n in norms)
    assert at_work >= len(MODULES)
    result = deltas_of(merge(pool, "task_arithmetic", scaling=0.7, norm_cap=mads))
    assert furthest(result, expected) < 1e-5


def test_nothing_becomes_larger_and_what_lies_below_the_cap_stays_the_same_object() -> None:
    pool = equal_pool(5)
    pool[4] = with_deltas(pool[4], lambda _, u: u * 100.0)
    for adapter, updates in zip(pool, capped(pool, 3.0), strict=True):
        for module, update in updates.items():
            assert update is adapter.deltas[module] or update.norm() < adapter.deltas[module].norm()
    assert all(capped(pool, 3.0)[i][QUERY] is pool[i].deltas[QUERY] for i in range(4))
    assert capped(pool, 3.0)[4][QUERY].norm() < pool[4].deltas[QUERY].norm() / 10


@pytest.mark.parametrize("count", [1, 2])
def test_of_two_adapters_none_is_ever_capped(count: int) -> None:
    pool = [with_deltas(a, lambda _, u, by=1000.0**i: u * by) for i, a in enumerate(equal_pool(count))]
    for adapter, updates in zip(pool, capped(pool, 3.0), strict=True):
        assert all(updates[module] is update for module, update in adapter.deltas.items())


def test_adapters_of_zeros_do_not_lower_the_cap() -> None:
    pool = equal_pool(3)
    zeros = [called(with_deltas(pool[0], lambda _, u: u * 0.0), f"zero-{i}") for i in range(5)]
    for updates, alone in zip(capped([*pool, *zeros], 0.5), capped(pool, 0.5), strict=False):
        assert all(updates[module].norm() == alone[module].norm() for module in MODULES)


def test_the_order_of_the_adapters_does_not_matter() -> None:
    pool = mixed_pool()[:4]
    first, *others = [deltas_of(merge(list(order), "task_arithmetic", norm_cap=1.0)) for order in permutations(pool)]
    assert max(furthest(other, first) for other in others) < 1e-6


def test_decouple_sees_the_capped_norms() -> None:
    pool = equal_pool(5)
    pool[4] = with_deltas(pool[4], lambda _, u: u * 100.0)
    tamed = [
        with_deltas(adapter, lambda module, _, here=here: here[module])
        for adapter, here in zip(pool, capped(pool, 3.0), strict=True)
    ]
    both = deltas_of(merge(pool, "task_arithmetic", norm_cap=3.0, decouple=0.5))
    assert furthest(both, deltas_of(merge(tamed, "task_arithmetic", decouple=0.5))) < 1e-6


def test_the_words_name_it_and_off_is_no_plug_in() -> None:
    pool = equal_pool(2)
    assert merge(pool, "ties", norm_cap=2.5).spec.words().endswith("norm cap 2.5 MAD")
    assert not merge(pool, "ties").spec.plugged
    with pytest.raises(MergeError, match="factors as they are stored"):
        merge(pool, "peft_linear", norm_cap=3.0)


@pytest.mark.parametrize("mads", [-1.0, float("nan"), "3", True])
def test_what_makes_no_sense_is_refused_with_its_name(mads: object) -> None:
    with pytest.raises(MergeError, match="norm_cap: mads"):
        merge(equal_pool(2), "ties", norm_cap=mads)  # type: ignore[arg-type]
