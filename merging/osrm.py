"""OSRM: start each LoRA's A in the subspace in which the other tasks' features have least energy.

On an input h of another task the update contributes B A h. With the rows of A orthonormal and spanning the eigenvectors
of the others' second moment S with the smallest eigenvalues, E ||A h||^2 = tr(A S A^T) is as small as it can be (Ky
Fan).

References
----------
Zhang & Zhou, "Unraveling LoRA Interference: Orthogonal Subspaces for Robust Model Merging", ACL 2025, arXiv 2505.22934.
The official code uses one mean vector per task (pooling "task_mean"), whose null space is so large that the solution is
arbitrary; the full second moment (pooling "token") does what the paper says and is the default here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .adapters.lowrank import LowRank
from .errors import MergeError
from .features.moments import Features

FLOAT32_EPS = float(torch.finfo(torch.float32).eps)


@dataclass(frozen=True, eq=False)
class Subspace:
    """Solution of OSRM's subspace problem at one module.

    Attributes
    ----------
    A : Tensor, shape (rank, in), float32, orthonormal rows
    eigenvalues : Tensor, shape (in,), ascending, of the others' second moment S (float64)
    energy : float
        tr(A S A^T) / tr(S): the share of the others' feature energy that A sees.
    null_dimension : int
        Number of eigenvalues that are zero up to float32 round-off.
    unique : bool
        False if the null space has room to spare; then the directions with most energy of the task's own features
        are taken inside it.
    """

    A: Tensor
    eigenvalues: Tensor
    energy: float
    null_dimension: int
    unique: bool


def osrm_init(
    features: Features,
    task: str,
    rank: int,
    module: str,
    others: Sequence[str] | Mapping[str, float] | None = None,
    pooling: str = "token",
    k: int | None = None,
) -> Tensor:
    """Return OSRM's A (rank, in) with orthonormal rows, float32, for ``task`` at ``module``; see `osrm_subspace`."""
    return osrm_subspace(features, task, rank, module, others, pooling, k).A


def osrm_subspace(
    features: Features,
    task: str,
    rank: int,
    module: str,
    others: Sequence[str] | Mapping[str, float] | None = None,
    pooling: str = "token",
    k: int | None = None,
) -> Subspace:
    """Solve min tr(A S A^T) subject to A A^T = I, S = sum over the other tasks j of w_j S_j / tr(S_j).

    Parameters
    ----------
    others : the tasks not to disturb, or {task: weight}; None = every other task of ``features``, weight 1
    pooling, k : see `merging.features.moments.Features.second_moment`

    Raises
    ------
    MergeError
        If there is no other task, or the rank is below 1 or above the layer's width.
    """
    names = _other_tasks(features, task, others)
    S = torch.zeros((), dtype=torch.float64)
    for name in names:
        S_j = features.second_moment(name, module, pooling, k)
        weight = others[name] if isinstance(others, Mapping) else 1.0
        S = S + weight * S_j / S_j.trace().clamp(min=torch.finfo(torch.float64).tiny)
    _check_rank(rank, len(S), module)
    eigenvalues, V = torch.linalg.eigh(S)
    null = int((eigenvalues <= len(S) * FLOAT32_EPS * eigenvalues[-1]).sum())
    if null > rank and task in features.tasks:
        own = V[:, :null].T @ features.second_moment(task, module, pooling, k) @ V[:, :null]
        V = V[:, :null] @ torch.linalg.eigh(own).eigenvectors.flip(1)
    A = V[:, :rank].T.contiguous()
    return Subspace(A.float(), eigenvalues, float((A @ S * A).sum() / S.trace()), null, null <= rank)


def random_orthonormal(rank: int, width: int, generator: torch.Generator) -> Tensor:
    """Return a random A (rank, width) with orthonormal rows: the control that has OSRM's norm but no data."""
    _check_rank(rank, width)
    Q, R = torch.linalg.qr(torch.randn(width, rank, generator=generator, dtype=torch.float64))
    A: Tensor = (Q * R.diagonal().sign()).T.float().contiguous()
    return A


def official_init(features: Features, task: str, rank: int, module: str, others: Sequence[str] | None = None) -> Tensor:
    """Return A (rank, in) as OSRM's released code finds it: the last right singular vectors of the others' mean
    features.

    One mean vector per other task gives H (T-1, in); its second moment has a null space of in - T + 1 dimensions, and
    the LAPACK routine decides which part of it is returned. Kept as the control that shows what this costs; padding is
    left out here, the released code averages over it too.

    Raises
    ------
    MergeError
        If there is no other task, or the rank is below 1 or above the layer's width.
    """
    means = [features.samples(name, module).double().mean(0) for name in _other_tasks(features, task, others)]
    H = torch.stack(means)
    _check_rank(rank, H.shape[1], module)
    A: Tensor = torch.linalg.svd(H.T @ H).Vh[-rank:].float().contiguous()
    return A


def erase(update: LowRank, A: Tensor) -> tuple[LowRank, float]:
    """Return (the update seen through A only, the share of its energy ||B A||^2 that is left): OSRM's post-hoc variant.

    ΔW' = ΔW A^+ A for a new A (rank, in) with orthonormal rows, so B' = ΔW A^T. For an adapter that was not trained in
    that subspace nearly everything is lost: about rank / in of a generic update remains.
    `merging.plugins.soft_osrm.soft_osrm` is the alternative.

    Raises
    ------
    MergeError
        If A does not fit the update, or its rows are not orthonormal.
    """
    if A.ndim != 2 or A.shape[1] != update.shape[1]:
        raise MergeError(f"A {tuple(A.shape)} does not fit an update of {update.shape[1]} inputs.")
    gram = A.double() @ A.double().T
    if not torch.allclose(gram, torch.eye(len(A), dtype=torch.float64), atol=1e-4):
        raise MergeError("The rows of A are not orthonormal: take A from osrm_init or random_orthonormal.")
    B = update.B.double() @ (update.A.double() @ A.double().T)
    erased = LowRank(B, A.double())
    norm = update.norm()
    return erased.to(update.A.dtype), (erased.norm() / norm) ** 2 if norm else 1.0


def _other_tasks(features: Features, task: str, others: Sequence[str] | Mapping[str, float] | None) -> list[str]:
    names = [t for t in features.tasks if t != task] if others is None else list(others)
    if not names:
        raise MergeError(f"OSRM needs the features of at least one other task than {task!r}.")
    return names


def _check_rank(rank: int, width: int, module: str = "") -> None:
    if not 1 <= rank <= width:
        place = f" at {module}" if module else ""
        raise MergeError(f"rank = {rank}{place}: an orthonormal A has between 1 and {width} rows, the layer's width.")
