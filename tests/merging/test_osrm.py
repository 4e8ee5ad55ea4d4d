"""OSRM's A: orthonormal, least energy of the others' features (Ky Fan), and a deliberate choice where that is not
unique.
"""

from __future__ import annotations

import pytest
import torch
from builders import (
    HIDDEN,
    QUERY,
    distance,
    generator,
    random_update,
    sentences,
    tiny_model,
    tiny_tokenizer,
    token_rows,
)

from merging import Features, MergeError, collect_features
from merging.osrm import erase, official_init, osrm_init, osrm_subspace, random_orthonormal

TEXTS = {name: sentences(i, 40) for i, name in enumerate(("mine", "one", "two"))}
HELD_OUT = {name: sentences(10 + i, 40) for i, name in enumerate(("mine", "one", "two"))}


@pytest.fixture(scope="module")
def collected() -> Features:
    return collect_features(tiny_model(), tiny_tokenizer(), TEXTS, k=40, modules=[QUERY])


def others_moment(features: Features, pooling: str = "token", **weights: float) -> torch.Tensor:
    """Return S = sum_j w_j S_j / tr(S_j), the other tasks' second moment."""
    moments = {name: features.second_moment(name, QUERY, pooling) for name in weights}
    return sum(weight * moments[name] / moments[name].trace() for name, weight in weights.items())


@pytest.mark.parametrize("rank", [1, 4, HIDDEN])
@pytest.mark.parametrize("pooling", ["token", "mean", "task_mean"])
def test_the_rows_of_a_are_orthonormal(rank: int, pooling: str, collected: Features) -> None:
    A = osrm_init(collected, "mine", rank, QUERY, pooling=pooling)
    assert A.shape == (rank, HIDDEN)
    assert A.dtype == torch.float32
    assert torch.allclose(A @ A.T, torch.eye(rank), atol=1e-5)


@pytest.mark.parametrize("rank", [1, 4, 16])
@pytest.mark.parametrize("weights", [{"one": 1.0, "two": 1.0}, {"one": 3.0, "two": 0.5}, {"two": 1.0}])
def test_the_energy_is_the_sum_of_the_smallest_eigenvalues(
    rank: int, weights: dict[str, float], collected: Features
) -> None:
    S = others_moment(collected, **weights)
    subspace = osrm_subspace(collected, "mine", rank, QUERY, others=weights)
    A = subspace.A.double()
    least = float(torch.linalg.eigvalsh(S)[:rank].sum())
    assert float((A @ S @ A.T).trace()) == pytest.approx(least, rel=1e-4, abs=1e-7 * float(S.trace()))
    assert subspace.energy == pytest.approx(least / float(S.trace()), rel=1e-4, abs=1e-7)


def test_by_default_all_other_tasks_count_alike(collected: Features) -> None:
    assert torch.equal(
        osrm_init(collected, "mine", 4, QUERY), osrm_init(collected, "mine", 4, QUERY, others=["one", "two"])
    )
    assert torch.equal(
        osrm_init(collected, "mine", 4, QUERY), osrm_init(collected, "mine", 4, QUERY, others={"one": 1.0, "two": 1.0})
    )
    assert distance(osrm_init(collected, "one", 4, QUERY), osrm_init(collected, "mine", 4, QUERY)) > 0.1


@pytest.mark.parametrize("texts", [TEXTS, HELD_OUT], ids=["collected", "held out"])
def test_the_others_see_far_less_of_it_than_of_a_random_subspace(
    texts: dict[str, list[str]], collected: Features, model
) -> None:
    H = torch.cat([row for name in ("one", "two") for row in token_rows(model, texts[name], QUERY)])
    A = osrm_init(collected, "mine", 4, QUERY).double()
    control = random_orthonormal(4, HIDDEN, generator(0)).double()
    assert float((H @ A.T).norm()) < 0.2 * float((H @ control.T).norm())


def test_with_mean_pooling_the_energy_is_the_papers_objective(collected: Features) -> None:
    A = osrm_init(collected, "mine", 4, QUERY, others=["one"], pooling="mean").double()
    H = collected.samples("one", QUERY).double()
    S = collected.second_moment("one", QUERY, "mean")
    assert float((A @ S @ A.T).trace()) == pytest.approx(float((A @ H.T).square().sum()) / len(H), rel=1e-9, abs=1e-12)
    squares = torch.linalg.svdvals(H) ** 2
    round_off = (
        HIDDEN * float(torch.finfo(torch.float32).eps) * float(squares[0])
    )  # directions below it count as silent
    assert float((A @ H.T).square().sum()) == pytest.approx(float(squares[-4:].sum()), abs=4 * round_off)


def test_inside_a_null_space_the_tasks_own_features_decide(collected: Features) -> None:
    # one mean vector per other task: two directions are seen, thirty are free
    subspace = osrm_subspace(collected, "mine", 4, QUERY, pooling="task_mean")
    assert (subspace.null_dimension, subspace.unique) == (HIDDEN - 2, False)
    A = subspace.A.double()
    assert float((A @ others_moment(collected, "task_mean", one=1.0, two=1.0) @ A.T).trace()) < 1e-6
    means = torch.stack([collected.samples(name, QUERY).double().mean(0) for name in ("one", "two")])
    null = torch.linalg.svd(means).Vh[2:]
    own = null @ collected.second_moment("mine", QUERY, "task_mean") @ null.T
    most = float(torch.linalg.eigvalsh(own)[-4:].sum())
    assert float((A @ collected.second_moment("mine", QUERY, "task_mean") @ A.T).trace()) == pytest.approx(
        most, rel=1e-4
    )


def test_a_moment_of_full_rank_leaves_no_choice(collected: Features) -> None:
    subspace = osrm_subspace(collected, "mine", 4, QUERY)
    assert subspace.unique
    assert bool((subspace.eigenvalues.diff() >= 0).all())
    assert len(subspace.eigenvalues) == HIDDEN


def test_a_random_control_is_orthonormal_and_its_seeds_own() -> None:
    first, again, other = (random_orthonormal(4, HIDDEN, generator(seed)) for seed in (0, 0, 1))
    assert torch.allclose(first @ first.T, torch.eye(4), atol=1e-5)
    assert torch.equal(first, again)
    assert distance(first, other) > 0.1


@pytest.mark.parametrize("rank", [0, -1, HIDDEN + 1])
def test_a_rank_that_the_layer_cannot_have_is_refused(rank: int, collected: Features) -> None:
    with pytest.raises(MergeError, match=str(rank)):
        osrm_init(collected, "mine", rank, QUERY)
    with pytest.raises(MergeError, match=str(rank)):
        random_orthonormal(rank, HIDDEN, generator(0))


def test_one_task_alone_is_refused(collected: Features, model, tokenizer) -> None:
    alone = collect_features(model, tokenizer, {"mine": TEXTS["mine"]}, k=5, modules=[QUERY])
    with pytest.raises(MergeError, match="other"):
        osrm_init(alone, "mine", 4, QUERY)
    with pytest.raises(MergeError, match="other"):
        osrm_init(collected, "mine", 4, QUERY, others=[])
    with pytest.raises(MergeError, match="three"):
        osrm_init(collected, "mine", 4, QUERY, others=["three"])


# -- the released code, and its post-hoc variant -----------------------------------------------------------------------


def test_the_released_start_sees_nothing_of_the_others_means_and_much_of_their_texts(collected: Features) -> None:
    A = official_init(collected, "mine", 4, QUERY).double()
    assert torch.allclose(A @ A.T, torch.eye(4, dtype=torch.float64), atol=1e-5)
    means = torch.stack([collected.samples(name, QUERY).double().mean(0) for name in ("one", "two")])
    assert float((means @ A.T).norm()) < 1e-5 * float(means.norm())
    S = others_moment(collected, one=1.0, two=1.0)
    full = osrm_init(collected, "mine", 4, QUERY).double()
    assert float((A @ S @ A.T).trace()) > 2 * float((full @ S @ full.T).trace())


def test_the_released_start_does_not_know_the_task_itself(collected: Features) -> None:
    # its null space is all that the means leave, whoever asks: the same others give the same A
    assert torch.equal(
        official_init(collected, "mine", 4, QUERY, ["one"]), official_init(collected, "two", 4, QUERY, ["one"])
    )


def test_without_another_task_the_released_start_is_refused(collected: Features) -> None:
    with pytest.raises(MergeError, match="other task"):
        official_init(collected, "mine", 4, QUERY, others=[])
    with pytest.raises(MergeError, match=str(HIDDEN)):
        official_init(collected, "mine", HIDDEN + 1, QUERY)


@pytest.mark.parametrize("rank", [1, 5, HIDDEN])
def test_erasing_projects_the_update_onto_a(rank: int) -> None:
    update = random_update(0, 9, HIDDEN, 4, torch.float64)
    A = random_orthonormal(rank, HIDDEN, generator(1))
    erased, kept = erase(update, A)
    projected = update.dense() @ A.double().T @ A.double()
    assert distance(erased.dense(), projected) < 1e-6
    assert kept == pytest.approx(float(projected.norm() ** 2 / update.dense().norm() ** 2), rel=1e-6)
    assert kept == pytest.approx(1.0, rel=1e-5) or rank < HIDDEN


def test_erasing_a_generic_update_keeps_about_rank_over_width() -> None:
    kept = [erase(random_update(i, 20, 400, 8), random_orthonormal(8, 400, generator(100 + i)))[1] for i in range(20)]
    assert 0.01 < sum(kept) / len(kept) < 0.04


def test_erasing_refuses_an_a_that_is_no_basis_or_does_not_fit() -> None:
    update = random_update(0, 9, HIDDEN, 4)
    with pytest.raises(MergeError, match="orthonormal"):
        erase(update, 2 * random_orthonormal(2, HIDDEN, generator(0)))
    with pytest.raises(MergeError, match="inputs"):
        erase(update, random_orthonormal(2, HIDDEN + 1, generator(0)))
