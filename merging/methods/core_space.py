"""Core Space: merge small matrices between the tasks' shared bases of B and A."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from ..adapters.lowrank import LowRank, numerical_rank
from .base import SCALING, Method, Param, Stack, density_param
from .sparsify import agreeing_mean, drop, kept, trim_to, weighted_total
from .subspaces import SUM_TOLERANCE

COINCIDE = 1e-9

INNER_CORE = Param(
    "inner", "Merge inside by", default="sum", choices=("sum", "ties", "dare_ties"),
    help="What merges the core matrices; sum without Isotropic is Task Arithmetic and ignores the density.",
)  # fmt: skip


def core_space(stack: Stack, scaling: float, density: float, inner: str, isotropic: bool) -> LowRank:
    """Merge in the Core Space: small matrices M_t = U_B^T B_t A_t V_A between bases that all tasks share.

    U_B are the left singular vectors of [B_1 .. B_T], V_A the right ones of the stacked A_t; no update loses anything
    in them. The M_t (sum of ranks on each side) are merged by a sum, TIES or DARE-TIES to M, if wanted made isotropic
    (all singular values equal to their mean); W = W0 + λ U_B M V_A^T. The sum is Task Arithmetic exactly; the others
    depend on the basis, which is the paper's: from the factors as they are stored, scaling in B.

    References
    ----------
    Panariello et al., "Accurate and Efficient Low-Rank Model Merging in Core Space", NeurIPS 2025, arXiv 2509.17786.
    """
    updates = [stack.updates[i] for i in stack.present]
    lows = [update.to(torch.float64) for update in updates if update is not None and update.rank]
    if not lows:
        return LowRank.zero(stack.shape)
    present = [i for i in stack.present if stack.updates[i].rank]  # type: ignore[union-attr]
    U_B = _basis(torch.cat([low.B for low in lows], dim=1), stack.module, inner)
    V_A = _basis(torch.cat([low.A for low in lows]).T, stack.module, inner)
    cores = torch.stack([(U_B.T @ low.B) @ (low.A @ V_A) for low in lows])
    M = merged_cores(stack, present, cores, inner, density)
    if isotropic:
        U, S, Vh = torch.linalg.svd(M, full_matrices=False)
        rank = numerical_rank(S, SUM_TOLERANCE)
        M = S[:rank].mean() * U[:, :rank] @ Vh[:rank] if rank else M
    return LowRank(U_B @ M * scaling, V_A.T).to(stack.dtype)


def merged_cores(stack: Stack, present: Sequence[int], cores: Tensor, inner: str, density: float) -> Tensor:
    """Merge small matrices (adapters, p, q) of the adapters ``present``, times their weights, by ``inner``: "sum",
    "ties" or "dare_ties".
    """
    weights = torch.tensor([stack.weights[i] for i in present], dtype=torch.float64)
    if inner == "sum":
        return weighted_total(cores, weights)
    numel = cores[0].numel()
    prune = [
        trim_to(core, kept(density, numel))(core) if inner == "ties" else drop(core, density, stack.generator(i))
        for i, core in zip(present, cores, strict=True)
    ]
    return agreeing_mean(torch.stack(prune), weights, "unweighted")


def _basis(stacked: Tensor, module: str, inner: str) -> Tensor:
    """Left singular vectors (n, min(n, columns)) of stacked columns, by QR and a small SVD."""
    Q, R = torch.linalg.qr(stacked)
    U, S, _ = torch.linalg.svd(R, full_matrices=False)
    rank = numerical_rank(S)
    if inner != "sum" and bool((S[: rank - 1] - S[1:rank] <= COINCIDE * S[0]).any()):
        warnings.warn(
            f"core_space: singular values coincide at {module}; within them the basis, and so the result of {inner}, "
            "is arbitrary.",
            stacklevel=2,
        )
    basis: Tensor = Q @ U
    return basis


CORE_SPACE = Method(
    "core_space",
    "Core Space",
    "Panariello et al., NeurIPS 2025, arXiv 2509.17786",
    "core",
    core_space,
    (
        SCALING,
        density_param(0.2, "Share of core entries that survive (ties), or the probability of being kept (dare_ties)."),
        INNER_CORE,
        Param(
            "isotropic",
            "Isotropic",
            default=False,
            help="Make all singular values of the merged core equal, as Iso-C does.",
        ),
    ),
    random=True,
)
