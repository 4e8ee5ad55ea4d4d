"""Laws that every method in METHODS obeys, the ones added later too; who is exempt is said beside each law."""

from __future__ import annotations

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
    merged,
    mixed_pool,
    neutral,
    peft_folder,
    quick,
    random_adapter,
    reloaded,
    sentences,
    state,
    tiny_model,
    tiny_tokenizer,
    unchanged,
    with_deltas,
)
from hypothesis import given
from hypothesis import strategies as st

from merging import METHODS, Adapter, Features, LowRank, MergeError, collect_features, merge

FACTOR_WISE = ("peft_linear", "peft_ties")
"""They merge A and B apart, as PEFT does: equal ranks only, and the result depends on the split of each product."""

ISOTROPIC = ("iso_c", "iso_cts", "dc_merge")
"""They make singular values equal."""

every_method = pytest.mark.parametrize("method", METHODS)


def a_pool(method: str, dtype: torch.dtype = torch.float32) -> list[Adapter]:
    """Return adapters as different as the method takes them."""
    return equal_pool(5, dtype) if method in FACTOR_WISE else mixed_pool(dtype)


def settled(method: str, features: Features) -> dict:
    """Return arguments without chance: the defaults, or for a method that draws random masks those that drop nothing.

    A mask is drawn from an adapter's fingerprint, so another split of the same product, or noise, gives another mask.
    """
    first, second = (deltas_of(merged(method, equal_pool(2), features, seed=seed)) for seed in (0, 1))
    random = any(not torch.equal(first[module], second[module]) for module in first)
    return neutral(METHODS[method]) if random else {}


# -- identities --------------------------------------------------------------------------------------------------------


@every_method
@pytest.mark.parametrize("ranks", [2, (16, 3, 5)])
def test_one_adapter_merges_to_itself(method: str, ranks: int | tuple[int, ...], features: Features) -> None:
    if method in ISOTROPIC:
        pytest.skip("it makes all singular values equal, even those of a single adapter")
    adapter = random_adapter(1, ranks)
    result = merged(method, [adapter], features, **neutral(METHODS[method]))
    assert furthest(deltas_of(result), dense(adapter)) < 1e-6


@every_method
def test_two_equal_adapters_merge_to_a_multiple_of_one(method: str, features: Features) -> None:
    if method in ISOTROPIC:
        pytest.skip("it makes all singular values equal, even those of a single adapter")
    adapter = random_adapter(1)
    result = deltas_of(merged(method, [adapter, called(adapter, "task-2")], features, **neutral(METHODS[method])))
    for module, update in dense(adapter).items():
        multiple = (result[module].double() * update).sum() / (update * update).sum()
        assert multiple > 0.4
        assert distance(result[module], multiple * update) < 1e-6


@every_method
def test_no_update_merges_to_no_update(method: str, features: Features) -> None:
    untrained = with_deltas(random_adapter(1), lambda _, u: LowRank(torch.zeros_like(u.B), u.A))
    result = deltas_of(merged(method, [untrained, called(untrained, "task-2")], features))
    assert set(result) == set(MODULES)
    assert all(torch.equal(delta, torch.zeros_like(delta)) for delta in result.values())


@every_method
@pytest.mark.parametrize("stored_rank", [0, 4])
def test_an_adapter_of_zeros_changes_nothing(method: str, stored_rank: int, features: Features) -> None:
    pool = mixed_pool()
    zero = with_deltas(random_adapter(5), lambda _, u: LowRank(u.B[:, :stored_rank] * 0, u.A[:stored_rank]))
    if method in FACTOR_WISE:
        pytest.skip("its A still counts where A and B are merged apart")
    result = deltas_of(merged(method, [*pool, zero], features))
    assert all(bool(delta.isfinite().all()) for delta in result.values())
    if method == "average" or "data" in METHODS[method].needs:
        return  # the mean is over all adapters, and a task's data count even where its update is zero
    assert furthest(result, deltas_of(merged(method, pool, features))) < 1e-6


# -- invariances -------------------------------------------------------------------------------------------------------


@every_method
@quick
@given(order=st.permutations(range(5)))
def test_the_order_of_adapters_does_not_matter(method: str, order: list[int], features: Features) -> None:
    pool, weights = a_pool(method), [1.0, 0.5, 2.0, 1.5, 0.8]
    expected = deltas_of(merged(method, pool, features, weights=weights))
    shuffled, reweighted = [pool[i] for i in order], [weights[i] for i in order]
    result = deltas_of(merged(method, shuffled, features, pool[0].task, weights=reweighted))
    assert furthest(result, expected) < 1e-6


@every_method
@quick
@given(powers=st.lists(st.floats(-3, 3), min_size=5, max_size=5))
def test_only_the_product_of_b_and_a_counts(method: str, powers: list[float], features: Features) -> None:
    if method in FACTOR_WISE:
        pytest.skip("A and B are merged apart")
    pool = mixed_pool(torch.float64)
    split = [
        with_deltas(a, lambda _, u, c=10**power: LowRank(u.B * c, u.A / c))
        for a, power in zip(pool, powers, strict=True)
    ]
    arguments = settled(method, features)
    expected = deltas_of(merged(method, pool, features, **arguments))
    assert furthest(deltas_of(merged(method, split, features, **arguments)), expected) < 1e-6


@every_method
@pytest.mark.parametrize("unit", [1e-8, 1e8])
def test_a_common_factor_of_all_updates_comes_out(method: str, unit: float, features: Features) -> None:
    # no threshold is absolute
    pool, arguments = a_pool(method, torch.float64), settled(method, features)
    scaled = [with_deltas(adapter, lambda _, u: u * unit) for adapter in pool]
    expected = {m: unit * delta for m, delta in deltas_of(merged(method, pool, features, **arguments)).items()}
    assert furthest(deltas_of(merged(method, scaled, features, **arguments)), expected) < 1e-6


@every_method
def test_a_rotation_between_b_and_a_changes_nothing(method: str, features: Features) -> None:
    if method in FACTOR_WISE:
        pytest.skip("A and B are merged apart")

    def rotate(_: str, update: LowRank) -> LowRank:
        Q = torch.linalg.qr(gaussian(5, update.rank, update.rank)).Q
        return LowRank(update.B @ Q, Q.T @ update.A)

    pool, arguments = mixed_pool(torch.float64), settled(method, features)
    expected = deltas_of(merged(method, pool, features, **arguments))
    rotated = [with_deltas(adapter, rotate) for adapter in pool]
    assert furthest(deltas_of(merged(method, rotated, features, **arguments)), expected) < 1e-6


def _shared_A(rank: int) -> list[Adapter]:
    pool = [random_adapter(i, rank, dtype=torch.float64) for i in range(3)]
    return [with_deltas(a, lambda m, u: LowRank(u.B, pool[0].deltas[m].A)) for a in pool]


def _shared_B(rank: int) -> list[Adapter]:
    pool = [random_adapter(i, rank, dtype=torch.float64) for i in range(3)]
    return [with_deltas(a, lambda m, u: LowRank(pool[0].deltas[m].B, u.A)) for a in pool]


def _duplicated(
    factor: float,
) -> list[Adapter]:  # no negative factor: an exact tie between signs has no stable election
    pool = [random_adapter(i, 4, dtype=torch.float64) for i in range(2)]
    return [*pool, called(with_deltas(pool[0], lambda _, u: u * factor), "task-2")]


NOISE_POOLS = {
    "generic": lambda: equal_pool(3, torch.float64),
    "different ranks": lambda: mixed_pool(torch.float64),
    "duplicates": lambda: _duplicated(1.0),
    "scaled duplicates": lambda: _duplicated(3.0),
    "shared A of rank 1": lambda: _shared_A(1),
    "shared A of rank 4": lambda: _shared_A(4),
    "shared B of rank 1": lambda: _shared_B(1),
    "shared B of rank 4": lambda: _shared_B(4),
}


@every_method
@pytest.mark.parametrize("kind", NOISE_POOLS)
@pytest.mark.parametrize("seed", [0, 1])
def test_noise_of_1e_12_moves_nothing(method: str, kind: str, seed: int, features: Features) -> None:
    pool = NOISE_POOLS[kind]()
    if method in FACTOR_WISE and len({u.rank for a in pool for u in a.deltas.values()}) > 1:
        pytest.skip("equal ranks only")

    def noisy(i: int, factor: torch.Tensor) -> torch.Tensor:
        noise = gaussian(1000 * seed + i, *factor.shape)
        return factor + 1e-12 * factor.norm() / noise.norm() * noise

    perturbed = [
        with_deltas(a, lambda m, u, i=i: LowRank(noisy(2 * i, u.B), noisy(2 * i + 1, u.A))) for i, a in enumerate(pool)
    ]
    arguments = settled(method, features)
    expected = deltas_of(merged(method, pool, features, **arguments))
    assert furthest(deltas_of(merged(method, perturbed, features, **arguments)), expected) < 1e-6


# -- every pool that can be merged -------------------------------------------------------------------------------------


@every_method
def test_different_ranks_and_coverage_give_the_union_of_modules(method: str, features: Features) -> None:
    pool = mixed_pool()
    if method in FACTOR_WISE:
        with pytest.raises(MergeError, match="rank"):
            deltas_of(merged(method, pool, features))
        return
    result = deltas_of(merged(method, pool, features))
    assert {module: tuple(delta.shape) for module, delta in result.items()} == MODULES
    for delta in result.values():
        assert delta.dtype == torch.float32
        assert bool(delta.isfinite().all())
        assert float(delta.norm()) > 0


@every_method
def test_a_module_of_one_adapter_alone_stays_that_adapters_own(method: str, features: Features) -> None:
    if method in ("average", *ISOTROPIC) or METHODS[method].needs:
        pytest.skip("the others count there too, or the result is another one by design")
    names = list(MODULES)
    pool = [random_adapter(0, 4, names[:2]), random_adapter(1, 4, names[1:])]
    result = deltas_of(merged(method, pool, features, **neutral(METHODS[method])))
    assert distance(result[names[0]], dense(pool[0])[names[0]]) < 1e-6
    assert distance(result[names[2]], dense(pool[1])[names[2]]) < 1e-6


@every_method
@pytest.mark.parametrize("larger", [1e5, 1e-5])
def test_one_adapter_1e5_times_larger_or_smaller_stays_finite(method: str, larger: float, features: Features) -> None:
    pool = a_pool(method)
    pool[0] = with_deltas(pool[0], lambda _, u: u * larger)
    for delta in deltas_of(merged(method, pool, features)).values():
        assert bool(delta.isfinite().all())
        assert float(delta.norm()) > 0


@every_method
def test_thirty_adapters_merge(method: str, features: Features) -> None:
    pool = [random_adapter(i, 4) for i in range(30)]  # ranks add up to far more than the width
    for delta in deltas_of(merged(method, pool, features)).values():
        assert bool(delta.isfinite().all())
        assert float(delta.norm()) > 0


@every_method
def test_the_same_seed_gives_the_same_bits(method: str, features: Features) -> None:
    pool = a_pool(method)
    first, second = (deltas_of(merged(method, pool, features, seed=7)) for _ in range(2))
    assert all(torch.equal(first[module], second[module]) for module in first)


@every_method
def test_merging_leaves_the_adapters_as_they_were(method: str, features: Features) -> None:
    pool, before = a_pool(method), a_pool(method)
    deltas_of(merged(method, pool, features, weights=[2.0, 1.0, 1.0, 1.0, 0.5]))
    for adapter, original in zip(pool, before, strict=True):
        for module, update in original.deltas.items():
            assert torch.equal(adapter.deltas[module].A, update.A)
            assert torch.equal(adapter.deltas[module].B, update.B)


@every_method
def test_a_result_is_low_rank_where_the_method_says_so(method: str, features: Features) -> None:
    result = merged(method, a_pool(method), features).result(QUERY)
    assert isinstance(result, LowRank) == METHODS[method].low_rank


@every_method
def test_a_method_explains_itself(method: str) -> None:
    spec = METHODS[method]
    assert spec.name == method
    assert spec.title
    assert spec.paper
    assert len(spec.doc) > 100
    assert spec.space in ("factor", "core", "full")
    assert spec.needs <= {"data", "task_id"}
    assert spec.check({}) == spec.check({p.name: p.default for p in spec.params})
    for param in spec.params:
        assert param.label
        assert param.help


@every_method
def test_data_are_asked_for_by_those_who_need_them(method: str) -> None:
    if "data" not in METHODS[method].needs:
        assert deltas_of(merged(method, a_pool(method), None))
        return
    with pytest.raises(MergeError, match="features"):
        merge(a_pool(method), method)


# -- in a model and in a file ------------------------------------------------------------------------------------------


@every_method
def test_the_model_carries_the_merge_and_then_its_own_weights_again(method: str, features: Features, model) -> None:
    result, before, original = merged(method, a_pool(method), features), state(model), hidden(model)
    with dense_added(model, deltas_of(result)) as oracle:
        expected = hidden(oracle)
    with result.applied_to(model) as applied:
        assert torch.allclose(hidden(applied), expected, atol=1e-5)
        assert not torch.allclose(hidden(applied), original, atol=1e-3)
    assert unchanged(model, before)


@every_method
def test_weights_are_restored_after_an_error(method: str, features: Features, model) -> None:
    result, before = merged(method, a_pool(method), features), state(model)
    with pytest.raises(RuntimeError, match="on purpose"), result.applied_to(model):
        assert not unchanged(model, before)
        raise RuntimeError("on purpose")
    assert unchanged(model, before)


COVERAGE = {
    "equal ranks": [{}] * 3,
    "mixed ranks": [{"rank_pattern": {"value": 2 + 5 * i}} for i in range(3)],
    "partial coverage": [
        {"target_modules": targets} for targets in (["query"], ["query", "value"], ["value", "output.dense"])
    ],
}


@every_method
@pytest.mark.parametrize("coverage", COVERAGE)
def test_a_saved_merge_acts_in_peft_as_it_did_here(
    method: str, coverage: str, features: Features, model, tmp_path: Path
) -> None:
    if method in FACTOR_WISE and coverage == "mixed ranks":
        pytest.skip("refused, as PEFT does")
    for i, options in enumerate(COVERAGE[coverage]):
        defaults = {"r": 4, "target_modules": ["query", "value", "output.dense"]}
        peft_folder(tmp_path / f"task-{i}", model, seed=i, **(defaults | options))
    pool = [Adapter.load(tmp_path / f"task-{i}") for i in range(3)]
    own = features_of(model) if "data" in METHODS[method].needs else features
    result = merged(method, pool, own)
    exact = None if METHODS[method].low_rank else 64
    result.save(tmp_path / "merged", rank=exact)
    states = hidden(reloaded(tiny_model(), tmp_path / "merged"))
    with dense_added(model, deltas_of(result)) as oracle:
        assert torch.allclose(states, hidden(oracle), atol=1e-5)
    assert not torch.allclose(states, hidden(model), atol=1e-3)
    result.save(tmp_path / "smaller", rank=8)
    smaller = Adapter.load(tmp_path / "smaller")
    states = hidden(reloaded(tiny_model(), tmp_path / "smaller"))
    with dense_added(model, dense(smaller)) as oracle:
        assert torch.allclose(states, hidden(oracle), atol=1e-5)
    apart = {m: float((result.delta(m) - smaller.deltas[m].dense()).norm()) for m in result.modules}
    for module, error in smaller.metadata.truncation.modules.items():
        assert apart[module] == pytest.approx(
            error * float(result.delta(module).norm()), abs=1e-5 * (1 + apart[module])
        )


def features_of(model) -> Features:
    names = [name for name, _ in model.named_modules() if name.endswith(("query", "value", "output.dense"))]
    return collect_features(model, tiny_tokenizer(), {f"task-{i}": sentences(i, 3) for i in range(3)}, 3, names)


@every_method
def test_a_dense_result_is_exported_only_at_a_rank_that_somebody_chose(method: str, features: Features) -> None:
    result = merged(method, a_pool(method), features)
    if METHODS[method].low_rank:
        exported = result.to_adapter()
    else:
        with pytest.raises(MergeError, match="rank"):
            result.to_adapter()
        exported = result.to_adapter(rank=64)
    assert furthest(dense(exported), deltas_of(result)) < 1e-5
    for module, update in exported.deltas.items():
        assert update.rank <= min(MODULES[module])


@every_method
def test_export_at_a_smaller_rank_is_the_best_approximation(method: str, features: Features) -> None:
    result = merged(method, a_pool(method), features)
    for module, update in result.to_adapter(rank=3).deltas.items():
        delta = result.delta(module).double()
        assert update.rank <= 3
        best = float(torch.linalg.svdvals(delta)[3:].norm())
        assert float((update.dense().double() - delta).norm()) == pytest.approx(
            best, rel=1e-4, abs=1e-5 * float(delta.norm())
        )
