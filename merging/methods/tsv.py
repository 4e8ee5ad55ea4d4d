"""TSV-M and Iso-C: make the singular directions of the tasks orthogonal, or their singular values equal."""

from __future__ import annotations

import torch

from ..adapters.lowrank import LowRank
from .base import SCALING, Method, Stack
from .subspaces import polar, svd_of_sum, thin_svds


def tsv(stack: Stack, scaling: float) -> LowRank:
    """Task Singular Vectors: put all tasks' singular vectors side by side and make them orthogonal to each other.

    With B_i A_i = U_i S_i V_i^T: W = W0 + λ U⊥ diag(w_1 S_1, .., w_T S_T) V⊥^T, where U⊥ is the polar factor of [U_1 ..
    U_T] (the nearest orthonormal columns) and V⊥ that of [V_1 .. V_T]. Orthogonal tasks give Task Arithmetic; it helps
    where tasks share directions, and usually lets λ near 1 work.

    Dialect: each task keeps the r_i directions that its update has. The published code keeps min(out, in) / T of the
    dense matrix, which for LoRA fills up with arbitrary null-space directions.

    References
    ----------
    Gargiulo et al., "Task Singular Vectors", CVPR 2025, arXiv 2412.00081.
    """
    present = [i for i in stack.present if _alive(stack.updates[i])]
    if not present:
        return LowRank.zero(stack.shape)
    thin = thin_svds([update for update in (stack.updates[i] for i in present) if update is not None])
    S = torch.cat([part.S * stack.weights[i] for i, part in zip(present, thin, strict=True)])
    U = polar(torch.cat([part.U for part in thin], dim=1))
    V = polar(torch.cat([part.Vh.T for part in thin], dim=1))
    return LowRank(U * (S * scaling), V.T).to(stack.dtype).compress()


def iso_c(stack: Stack, scaling: float) -> LowRank:
    """Isotropic merging: add the updates up, then give all directions of the sum the same strength.

    sum_i w_i B_i A_i = U S V^T; W = W0 + λ mean(S) U V^T. Weak directions, often those of the less dominant tasks, come
    up to the strength of the strong ones. One adapter does not merge to itself: it becomes isotropic too.

    Dialect: the mean goes over the numerical rank of the sum. The published code takes it over all min(out, in)
    singular values, which for LoRA are mostly zeros with arbitrary directions.

    References
    ----------
    Marczak et al., "No Task Left Behind: Isotropic Model Merging", ICML 2025, arXiv 2502.04959.
    """
    thin = thin_svds([update for update in stack.weighted() if _alive(update)])
    if not thin:
        return LowRank.zero(stack.shape)
    total = svd_of_sum(thin)
    if not len(total.S):
        return LowRank.zero(stack.shape, stack.dtype)
    root = (total.S.mean() * abs(scaling)).sqrt()
    sign = -1.0 if scaling < 0 else 1.0
    return LowRank(sign * root * total.U, root * total.Vh).to(stack.dtype)


def _alive(update: LowRank | None) -> bool:
    return update is not None and update.norm() > 0


TSV = Method("tsv", "TSV-M", "Gargiulo et al., CVPR 2025, arXiv 2412.00081", "core", tsv, (SCALING,))
ISO_C = Method("iso_c", "Iso-C", "Marczak et al., ICML 2025, arXiv 2502.04959", "core", iso_c, (SCALING,))
