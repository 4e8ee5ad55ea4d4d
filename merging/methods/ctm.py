"""CtM: compress, then merge. One small space for all tasks is found first, and the merging happens in it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..adapters.lowrank import LowRank
from .base import SCALING, Method, Param, Stack, density_param
from .core_space import merged_cores
from .subspaces import span, thin_svds
from .svd import RANK

STILL = 1e-6
"""The alternation stops when the relative error falls by less than this, as published."""
MOST_ROUNDS = 100


def ctm(stack: Stack, scaling: float, rank: int | None, balance: float, inner: str, density: float) -> LowRank:
    """Compress then Merge: find the rank-R space that all tasks share best, and merge the tasks inside it.

    Orthonormal U and V with R columns each are those that keep most of all tasks at once: they maximise the sum over
    tasks of ||U^T D V||^2, where D is a task's update B A, brought to the norm β ||B A|| + (1 - β) (the mean norm) and
    times its weight (a Tucker-2 decomposition, by alternation from the singular vectors of all updates side by side).
    The R x R matrices C = U^T B A V of the updates as they are become one, by a sum or by TIES: W = W0 + λ U C V^T.

    Exporting another merge at rank R is the opposite order: merge, then cut. It loses the least of the sum, and of the
    tasks the small ones first. Here every task has the same say in what the R directions are (β = 0), which is meant
    for a small R and norms that differ. With R at least the sum of all ranks nothing is cut, and a sum is Task
    Arithmetic.

    On the default pool it cannot be told from Truncated SVD of the same rank.

    References
    ----------
    "Compress then Merge: From Multiple LoRAs into One Low-Rank Adapter", ICML 2026, arXiv 2606.03723.
    """
    thin = thin_svds([update for update in (stack.updates[i] for i in stack.present) if update is not None])
    alive = [(i, part) for i, part in zip(stack.present, thin, strict=True) if len(part.S)]
    if not alive:
        return LowRank.zero(stack.shape)
    present, parts = [i for i, _ in alive], [part for _, part in alive]
    P, Q = span([part.U for part in parts]), span([part.Vh.T for part in parts])
    cores = torch.stack([((P.T @ part.U) * part.S) @ (part.Vh @ Q) for part in parts])
    sizes = torch.linalg.matrix_norm(cores)
    wanted = balance * sizes + (1 - balance) * sizes.mean()
    weights = torch.tensor([abs(stack.weights[i]) for i in present], dtype=cores.dtype)
    U, V = shared_space(cores * (weights * wanted / sizes)[:, None, None], rank or max(stack.rank, 1))
    M = merged_cores(stack, present, U.T @ cores @ V, inner, density)
    return LowRank(P @ (U @ M * scaling), (Q @ V).T).to(stack.dtype)


def shared_space(cores: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return orthonormal U (p, R) and V (q, R), R at most ``rank``, that keep most of the sum of ||U^T D_t V||^2.

    Parameters
    ----------
    cores : the D_t, (tasks, p, q)

    References
    ----------
    De Lathauwer, De Moor, Vandewalle, "On the best rank-1 and rank-(R1, .., RN) approximation of higher-order tensors",
    2000 (HOOI).
    """
    total = float(torch.linalg.vector_norm(cores))
    V = _leading(cores.mT, rank)
    before = math.inf
    for _ in range(MOST_ROUNDS):
        U = _leading(cores @ V, rank)
        V = _leading(cores.mT @ U, rank)
        kept = float(torch.linalg.vector_norm(U.T @ cores @ V)) / total if total else 1.0
        error = math.sqrt(max(0.0, 1 - kept**2))
        if before - error < STILL:
            break
        before = error
    return U, V


def _leading(matrices: Tensor, rank: int) -> Tensor:
    """Return the ``rank`` leading left singular vectors of all matrices (tasks, p, n) side by side."""
    vectors: Tensor = torch.linalg.eigh((matrices @ matrices.mT).sum(0)).eigenvectors
    return vectors.flip(1)[:, :rank]


CTM = Method(
    "ctm",
    "CtM",
    "ICML 2026, arXiv 2606.03723",
    "core",
    ctm,
    (
        SCALING,
        RANK,
        Param(
            "balance",
            "Balance β",
            default=0.0,
            help="0: every task has the same say in the choice of the directions; 1: the larger its norm the more.",
        ),
        Param(
            "inner",
            "Merge inside by",
            default="sum",
            choices=("sum", "ties"),
            help="What merges the small matrices; a sum ignores the density.",
        ),
        density_param(0.2, "Share of a small matrix's entries that survive (ties)."),
    ),
)
