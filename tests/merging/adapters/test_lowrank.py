"""LowRank says from the factors what the dense product would say."""

from __future__ import annotations

import pytest
import torch
from builders import distance, gaussian, quick, random_update
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from merging import LowRank, MergeError
from merging.adapters.lowrank import sketchable

updates = st.builds(
    lambda seed, out, inn, rank: random_update(seed, out, inn, rank, torch.float64),
    st.integers(0, 10_000), st.integers(1, 9), st.integers(1, 9), st.integers(0, 12),
)  # fmt: skip


@quick
@given(updates)
def test_norms_are_those_of_the_dense_product(update: LowRank) -> None:
    product = update.B @ update.A
    assert update.norm() == pytest.approx(float(product.norm()), rel=1e-12, abs=1e-12)
    assert torch.allclose(update.column_norms(), product.norm(dim=0), rtol=1e-12, atol=1e-12)
    assert update.shape == product.shape


@quick
@given(updates)
def test_inner_product_is_the_dense_one(update: LowRank) -> None:
    other = random_update(4711, *update.shape, 3, torch.float64)
    expected = float(((update.B @ update.A) * (other.B @ other.A)).sum())
    assert update.inner(other) == pytest.approx(expected, rel=1e-10, abs=1e-10)


@quick
@given(updates)
def test_svd_is_orthonormal_sorted_and_gives_the_product_back(update: LowRank) -> None:
    U, S, Vh = update.svd()
    product = update.B @ update.A
    assert distance(U * S @ Vh, product) < 1e-12
    assert distance(U.T @ U, torch.eye(len(S), dtype=torch.float64)) < 1e-12
    assert distance(Vh @ Vh.T, torch.eye(len(S), dtype=torch.float64)) < 1e-12
    assert bool((S.diff() <= 0).all())
    assert torch.allclose(S, torch.linalg.svdvals(product)[: len(S)], rtol=1e-10)
    assert len(S) == int(torch.linalg.matrix_rank(product))


@quick
@given(updates, st.integers(1, 10))
def test_truncation_is_the_best_of_its_rank(update: LowRank, rank: int) -> None:
    # Eckart and Young: the error is what the left-out singular values weigh
    product = update.B @ update.A
    truncated = update.truncate(rank)
    left_out = torch.linalg.svdvals(product)[rank:]
    assert truncated.rank <= rank
    assert float((truncated.dense() - product).norm()) == pytest.approx(
        float(left_out.norm()), abs=1e-10 * (1 + update.norm())
    )


@quick
@given(updates, st.integers(1, 10))
def test_a_dense_matrix_is_approximated_as_its_factors_are(update: LowRank, rank: int) -> None:
    product = update.B @ update.A
    assert distance(LowRank.nearest(product, rank)[0].dense(), update.truncate(rank).dense()) < 1e-8
    assert distance(LowRank.nearest(product, min(product.shape))[0].dense(), product) < 1e-12


@quick
@given(updates, st.integers(0, 100))
def test_concatenation_is_the_sum(update: LowRank, seed: int) -> None:
    others = [random_update(seed + i, *update.shape, rank, torch.float64) for i, rank in enumerate((2, 0, 5))]
    total = LowRank.concat([update, *others])
    assert total.rank == update.rank + 7
    assert distance(total.dense(), sum((u.B @ u.A for u in others), update.B @ update.A)) < 1e-12


@quick
@given(updates)
def test_compression_keeps_the_product_and_no_more_directions_than_it_can_have(update: LowRank) -> None:
    small = update.compress()
    assert small.rank <= min(update.shape)
    assert distance(small.dense(), update.B @ update.A) < 1e-12


def test_compression_leaves_small_ranks_alone() -> None:
    update = random_update(0, 6, 5, 5)
    assert update.compress() is update


@quick
@given(updates, st.floats(1e-3, 1e3))
def test_balanced_factors_have_equal_gram_matrices_whatever_the_split(update: LowRank, c: float) -> None:
    even = LowRank(update.B * c, update.A / c).balanced()
    assert distance(even.dense(), update.B @ update.A) < 1e-10
    assert distance(even.B.T @ even.B, even.A @ even.A.T) < 1e-10
    assert distance((even.A @ even.A.T).diag().diag(), even.A @ even.A.T) < 1e-10


def test_directions_below_a_millionth_of_the_largest_are_round_off() -> None:
    U = torch.linalg.qr(gaussian(0, 7, 3)).Q
    V = torch.linalg.qr(gaussian(1, 6, 3)).Q
    update = LowRank(U * torch.tensor([1.0, 2e-6, 5e-7], dtype=torch.float64), V.T)
    assert len(update.svd()[1]) == 2
    assert len(update.svd(tolerance=0.0)[1]) == 3
    assert update.balanced().rank == 2


@pytest.mark.parametrize("update", [LowRank.zero((4, 6)), LowRank(torch.zeros(4, 3), gaussian(0, 3, 6).float())])
def test_the_zero_update_has_no_directions_and_no_norm(update: LowRank) -> None:
    U, S, Vh = update.svd()
    assert (U.shape, S.shape, Vh.shape) == ((4, 0), (0,), (0, 6))
    assert update.norm() == 0
    assert torch.equal(update.column_norms(), torch.zeros(6, dtype=torch.float64))
    assert torch.equal(update.dense(), torch.zeros(4, 6))
    assert update.balanced().rank == 0
    assert torch.equal(update.truncate(2).dense(), torch.zeros(4, 6))
    assert torch.equal(update.compress().dense(), torch.zeros(4, 6))
    assert torch.equal((update * 3.0).dense(), torch.zeros(4, 6))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_dtype_is_kept(dtype: torch.dtype) -> None:
    update = random_update(3, 5, 4, 9, dtype)
    made = [
        update * 2.0,
        update.truncate(2),
        update.balanced(),
        update.compress(),
        update.scale_columns(torch.ones(4)),
        LowRank.concat([update, update]),
        LowRank.nearest(update.dense(), 2)[0],
        LowRank.zero((5, 4), dtype),
    ]
    assert {factor.dtype for low in made for factor in (low.A, low.B)} == {dtype}
    assert {low.dense().dtype for low in made} == {dtype}


def test_scaled_columns_are_the_product_times_a_diagonal() -> None:
    update, factors = random_update(5, 6, 4, 3, torch.float64), torch.tensor([0.0, 1.0, -2.0, 3.0], dtype=torch.float64)
    assert distance(update.scale_columns(factors).dense(), update.B @ update.A @ factors.diag()) < 1e-14
    assert distance((0.3 * update).dense(), 0.3 * (update.B @ update.A)) < 1e-14


@pytest.mark.parametrize(("B", "A"), [((4, 2), (3, 5)), ((4,), (4, 5)), ((4, 2, 1), (2, 5))])
def test_factors_that_form_no_product_are_refused_with_their_shapes(B: tuple[int, ...], A: tuple[int, ...]) -> None:
    with pytest.raises(MergeError) as caught:
        LowRank(torch.zeros(B), torch.zeros(A))
    assert str(B) in str(caught.value)
    assert str(A) in str(caught.value)


@pytest.mark.parametrize("rank", [0, -1])
def test_truncation_to_no_rank_is_refused(rank: int) -> None:
    with pytest.raises(MergeError, match="rank"):
        random_update(0, 4, 4, 2).truncate(rank)


# -- large dense matrices ----------------------------------------------------------------------------------------------

SPECTRA = {
    "flat": lambda i: i**-0.1,
    "power": lambda i: i**-0.5,
    "steep": lambda i: i**-2.0,
    "slow exponential": lambda i: torch.exp(-i / 200),
    "a step": lambda i: torch.where(i <= 16, 1.0, 1e-2),
}


def with_spectrum(values: Tensor, out: int, inn: int) -> Tensor:
    U, V = (torch.linalg.qr(gaussian(seed, size, len(values))).Q for seed, size in ((1, out), (2, inn)))
    return ((U * values) @ V.T).float()


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("shape", [(700, 600), (600, 900)])
@pytest.mark.parametrize("rank", [4, 64])
def test_a_randomised_svd_comes_within_one_percent_of_the_best_and_its_error_is_measured(
    spectrum: str, shape: tuple[int, int], rank: int
) -> None:
    values = SPECTRA[spectrum](torch.arange(1, 601, dtype=torch.float64))
    matrix = with_spectrum(values, *shape)
    assert sketchable(shape, rank)
    before = torch.get_rng_state()
    found, error = LowRank.nearest(matrix, rank)
    assert torch.equal(torch.get_rng_state(), before)
    assert error == pytest.approx(distance(found.dense(), matrix), rel=1e-3)
    best = float(values[rank:].norm() / values.norm())
    assert best * (1 - 1e-4) < error < best * 1.01
    assert found.rank == rank
    assert torch.equal(LowRank.nearest(matrix, rank)[0].A, found.A)
    assert LowRank.nearest(matrix, rank, exact=True)[1] == pytest.approx(best, rel=1e-3)


@pytest.mark.parametrize(("shape", "rank"), [((512, 900), 4), ((600, 600), 200), ((600, 600), 600), ((600, 600), 1000)])
def test_small_matrices_and_ranks_near_full_are_cut_exactly(shape: tuple[int, int], rank: int) -> None:
    assert not sketchable(shape, rank)
    matrix = gaussian(3, *shape).float()
    assert torch.equal(LowRank.nearest(matrix, rank)[0].B, LowRank.nearest(matrix, rank, exact=True)[0].B)


def test_a_large_matrix_of_zeros_has_no_error() -> None:
    found, error = LowRank.nearest(torch.zeros(600, 600), 4)
    assert error == 0
    assert not found.dense().any()
