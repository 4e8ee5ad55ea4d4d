"""KnOTS: align the updates in one shared basis before an element-wise method merges them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..adapters.lowrank import LowRank
from .base import SCALING, Method, Param, Stack, density_param
from .sparsify import Trim, agreeing_mean, drop, kept, trim_to, weighted_total
from .subspaces import span, thin_svds
from .ties import TRIM, model_trims

INNER = Param(
    "inner", "Merge inside by", default="ties", choices=("ties", "dare_ties", "sum"),
    help="What merges the aligned parts; sum is Task Arithmetic again and ignores the density.",
)  # fmt: skip


def knots(
    stack: Stack, scaling: float, density: float, inner: str, trim: str, trims: list[dict[str, Trim]] | None = None
) -> LowRank:
    """Knowledge Orientation Through SVD: write all updates in one orthonormal basis, merge their coordinates, map back.

    [B_1 A_1 | .. | B_T A_T] = U diag(s) [V_1^T | .. | V_T^T] (one SVD for all tasks); the parts diag(s) V_t^T (rank x
    in) are merged by TIES, DARE-TIES or a sum to M; W = W0 + λ U M. LoRA updates of different tasks live in different
    subspaces, where element-wise methods compare unlike entries; in the shared basis they compare like with like.

    Exact in low-rank form: thin SVDs of the factors and one small SVD replace the dense (out, T in) one. The trim
    counts entries of the numerical rank x in (exactly k). Sign flips of singular pairs change nothing; with equal
    singular values the basis, and so TIES' result, is arbitrary.

    References
    ----------
    Stoica et al., "Model merging with SVD to tie the KnOTS", ICLR 2025, arXiv 2410.19735.
    """
    U, parts = aligned(stack)
    if not parts:
        return LowRank.zero(stack.shape)
    present = list(parts)
    weights = torch.tensor([stack.weights[i] for i in present], dtype=torch.float64)
    pruned = [_prune(stack, i, parts[i], density, inner, trims) for i in present]
    merged = (
        weighted_total(torch.stack(pruned), weights)
        if inner == "sum"
        else agreeing_mean(torch.stack(pruned), weights, "unweighted")
    )
    return LowRank(U * scaling, merged).to(stack.dtype).compress()


def aligned(stack: Stack) -> tuple[Tensor, dict[int, Tensor]]:
    """Return (U (out, R), {adapter: diag(s) V_t^T (R, in)}), float64, R the numerical rank of all updates together.

    The blocks V_t^T of one adapter are U_t S_t Vh_t seen in the basis, so the singular values of the wide matrix are
    those of the small one [P^T U_1 S_1 | .. | P^T U_T S_T] with P spanning all columns: its rows Vh_t are orthonormal
    and apart.
    """
    alive = {i: update for i, update in enumerate(stack.updates) if update is not None and update.norm() > 0}
    if not alive:
        return torch.empty(0), {}
    thin = dict(zip(alive, thin_svds(list(alive.values())), strict=True))
    P = span([part.U for part in thin.values()])
    cores = {i: (P.T @ part.U) * part.S for i, part in thin.items()}
    rotation = torch.linalg.svd(torch.cat(list(cores.values()), dim=1), full_matrices=False).U
    parts = {i: (rotation.T @ core) @ thin[i].Vh for i, core in cores.items()}
    # an adapter that is zero here has the module all the same: its part is zero, it casts no vote
    for i in stack.present:
        parts.setdefault(i, torch.zeros(P.shape[1], stack.shape[1], dtype=torch.float64))
    return P @ rotation, dict(sorted(parts.items()))


def _prune(
    stack: Stack, i: int, part: Tensor, density: float, inner: str, trims: list[dict[str, Trim]] | None
) -> Tensor:
    if inner == "sum":
        return part
    if inner == "dare_ties":
        return drop(part, density, stack.generator(i))
    if trims is None:
        return trim_to(part, kept(density, part.numel()))(part)
    return replace(trims[i][stack.module])(part)


def prepare_knots(
    stacks: Callable[[], Iterator[Stack]], density: float, inner: str, trim: str, **_: Any
) -> Mapping[str, Any]:
    """Find the whole-model thresholds if they are asked for."""
    return model_trims(stacks, lambda stack: aligned(stack)[1], density, trim if inner == "ties" else "module")


KNOTS = Method(
    "knots",
    "KnOTS",
    "Stoica et al., ICLR 2025, arXiv 2410.19735",
    "core",
    knots,
    (
        SCALING,
        density_param(
            0.2, "Share of the aligned entries that survive (ties), or the probability of being kept (dare_ties)."
        ),
        INNER,
        TRIM,
    ),
    prepare=prepare_knots,
    random=True,
)
