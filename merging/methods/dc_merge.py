"""DC-Merge: TSV-M with the tasks' singular values evened out, and with what tasks do in each other's space removed."""

from __future__ import annotations

import torch
from torch import Tensor

from ..adapters.lowrank import LowRank
from .base import SCALING, Method, Param, Stack
from .sparsify import agreeing_mean
from .subspaces import polar, thin_svds

RHO = 5.0
"""The largest singular value over the smallest after "linear", at most; as published."""
EQUAL = 1e-9


def dc_merge(stack: Stack, scaling: float, smoothing: str, entries: int) -> LowRank:
    """Directional-consistency merging: even out each task's energy, and merge where the directions of all tasks lie.

    With w_t B_t A_t = U_t S_t V_t^T: the singular values of a task become their mean, or fall linearly by at most 5 to
    1, their sum kept ("smoothing"); a few strong directions decide no more alone. U⊥ and V⊥ are TSV-M's bases, the
    polar factors of [U_1 .. U_T] and [V_1 .. V_T]. The cores M_t = U⊥^T U_t S'_t V_t^T V⊥ keep their largest entries,
    so many for each of the task's directions, and become one by TIES. Of that only each task's own block on the
    diagonal stays: W = W0 + λ U⊥ M V⊥^T. Orthogonal tasks give the sum of the evened updates. One adapter does not
    merge to itself.

    On the pool of the papers it is, with TSV-M, the best of those that make one model and look at no texts; on the
    default pool it is behind a plain sum at that one's best λ, and far ahead of it at λ = 1.

    Dialect: the published code keeps 0.1 % of a core's entries, for its 8 tasks of rank 16 one a direction, which is
    the default here whatever the ranks are; each task has a block as wide as its update's numerical rank.

    References
    ----------
    "DC-Merge: Improving Model Merging with Directional Consistency", CVPR 2026, arXiv 2603.06242.
    """
    thin = [part for part in thin_svds(stack.weighted()) if len(part.S)]
    if not thin:
        return LowRank.zero(stack.shape)
    U = polar(torch.cat([part.U for part in thin], dim=1))
    V = polar(torch.cat([part.Vh.T for part in thin], dim=1))
    cores = [((U.T @ part.U) * smoothed(part.S, smoothing)) @ (part.Vh @ V) for part in thin]
    pruned = [_strongest(core, entries * len(part.S)) for core, part in zip(cores, thin, strict=True)]
    M = agreeing_mean(torch.stack(pruned), torch.ones(len(thin)), "unweighted")
    owner = torch.cat([torch.full((len(part.S),), i) for i, part in enumerate(thin)])
    return LowRank(U @ (M * (owner[:, None] == owner)) * scaling, V.T).to(stack.dtype).compress()


def smoothed(S: Tensor, smoothing: str) -> Tensor:
    """Return singular values (r,) of the same sum that are all equal ("mean") or fall linearly ("linear")."""
    if smoothing == "mean":
        return S.mean().expand_as(S)
    shares = torch.linspace(min(RHO, float(S[0] / S[-1])), 1.0, len(S), dtype=S.dtype)
    return S.sum() * shares / shares.sum()


def _strongest(core: Tensor, count: int) -> Tensor:
    """Keep the ``count`` largest magnitudes, and what is as large as the least of them but for round-off."""
    size = core.abs()
    least = size.flatten().topk(min(count, size.numel())).values[-1]
    return core * (size >= least * (1 - EQUAL))


SMOOTHING = Param(
    "smoothing", "Smoothing", default="mean", choices=("mean", "linear"),
    help="A task's singular values become equal, or fall linearly.",
)  # fmt: skip
ENTRIES = Param(
    "entries", "Entries a direction", 1, 32, 1, 1, integer=True, open_above=True,
    help="How many entries of its small matrix a task keeps for each of its directions.",
)  # fmt: skip

DC_MERGE = Method(
    "dc_merge", "DC-Merge", "CVPR 2026, arXiv 2603.06242", "core", dc_merge, (SCALING, SMOOTHING, ENTRIES)
)
