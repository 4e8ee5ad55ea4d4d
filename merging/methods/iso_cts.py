"""Iso-CTS: Iso-C, with some of the directions kept for what each task has of its own."""

from __future__ import annotations

import torch

from ..adapters.lowrank import RANK_TOLERANCE, LowRank
from .base import SCALING, Method, Param, Stack
from .subspaces import Thin, polar, svd_of_sum, thin_svds


def iso_cts(stack: Stack, scaling: float, common: float) -> LowRank:
    """Isotropic merging in common and task-specific subspaces: Iso-C, with room for what each task has alone.

    The sum of the updates has R singular directions. Of these the strongest k, about the share c of them, are the
    common space. From each task the common output directions U are projected out, (I - U U^T) B A, and the strongest
    (R - k) / T directions of the rest are added. All these directions are made orthogonal as in TSV-M and get the same
    strength, the mean of their singular values. With c = 1 it is Iso-C. It is meant for many tasks, of which weak ones
    hardly show in the sum. As with Iso-C one adapter does not merge to itself.

    Dialect: R is the numerical rank of the sum, where the published code takes min(out, in), which for LoRA leaves most
    of the directions to the null space; weights scale the updates before everything.

    On the default pool it is behind a plain sum, on that of the papers ahead of it.

    References
    ----------
    Marczak et al., "No Task Left Behind: Isotropic Model Merging", ICML 2025, arXiv 2502.04959.
    """
    thin = [part for part in thin_svds(stack.weighted()) if len(part.S)]
    if not thin:
        return LowRank.zero(stack.shape)
    total = svd_of_sum(thin)
    R, tasks = len(total.S), len(thin)
    if not R:
        return LowRank.zero(stack.shape, stack.dtype)
    # each task gets the same number of directions, so what does not divide is common
    own = min(round((R - int(R * common)) / tasks), R // tasks)
    k = R - own * tasks
    U, S, Vh = total.U[:, :k], total.S[:k], total.Vh[:k]
    parts = [Thin(U, S, Vh), *(_rest(part, U, own) for part in thin)]
    mean = torch.cat([part.S for part in parts]).mean()
    left = polar(torch.cat([part.U for part in parts], dim=1))
    right = polar(torch.cat([part.Vh.T for part in parts], dim=1))
    return LowRank(left * (mean * scaling), right.T).to(stack.dtype)


def _rest(part: Thin, U: torch.Tensor, count: int) -> Thin:
    """Return the ``count`` strongest directions of an update outside the common output directions U (out, k).

    What is left below 1e-6 of the update's largest singular value is round-off.
    """
    outside = part.U - U @ (U.T @ part.U)
    left, S, Vh = LowRank(outside * part.S, part.Vh).svd(tolerance=0.0)
    count = min(count, int((S / part.S[0] > RANK_TOLERANCE).sum()))
    return Thin(left[:, :count], S[:count], Vh[:count])


ISO_CTS = Method(
    "iso_cts",
    "Iso-CTS",
    "Marczak et al., ICML 2025, arXiv 2502.04959",
    "core",
    iso_cts,
    (
        SCALING,
        Param(
            "common",
            "Common share c",
            default=0.8,
            help="Share of the sum's directions that are common; the others are shared out among the tasks.",
        ),
    ),
)
