"""SSR: RegMean inside the few input directions that the adapters read."""

from __future__ import annotations

import torch

from ..adapters.lowrank import LowRank
from ..errors import MergeError
from .base import SCALING, Method, Stack
from .regmean import reduced
from .subspaces import span, thin_svds


def ssr(stack: Stack, scaling: float) -> LowRank:
    """Regress in rank space: RegMean's closed form, with inputs projected on what the adapters read at all.

    Q are orthonormal directions of all A_t together, as many as their ranks add up to, and S_t = Q^T G_t Q the second
    moment of task t's inputs there. ΔW = λ sum_t w_t B_t A_t Q [S_t (sum_j S_j)^-1] Q^T minimises sum_t E_t ||(W -
    W_t) h||^2 over all W whose rows stay in that space: what the merge answers never depends on directions that no
    adapter looks at. Each S_t is (sum of ranks) wide, for a wide model a thousand times smaller than G_t. A ridge of
    1e-6 of the mean eigenvalue is in numerator and denominator. Adapters that start from the same A read few
    directions, and there is little to choose from. On the default pool and on that of the papers it is ahead of a
    plain sum.

    Dialect: an orthonormal Q takes the place of the stacked A, so that the ridge does not depend on how an update is
    split into B and A; the moments are the base model's, the original's those with adapter t loaded.

    References
    ----------
    "SSR-Merge", ICML 2026, arXiv 2606.10617.
    """
    assert stack.features is not None
    thin = thin_svds([update for update in (stack.updates[i] for i in stack.present) if update is not None])
    alive = [(i, part) for i, part in zip(stack.present, thin, strict=True) if len(part.S)]
    if not alive:
        return LowRank.zero(stack.shape)
    Q = span([part.Vh.T for _, part in alive])
    moments = {t: reduced(Q.T @ stack.features.second_moment(t, stack.module) @ Q, 1.0) for t in {*stack.tasks}}
    total = torch.stack([moments[task] for task in stack.tasks]).sum(0)
    if not bool(torch.isfinite(total).all()):
        raise MergeError(f"ssr: the second moments at {stack.module} are not finite.")
    Bs = [part.U * (part.S * stack.weights[i] * scaling) for i, part in alive]
    As = [torch.linalg.solve(total, moments[stack.tasks[i]] @ (part.Vh @ Q).T).T for i, part in alive]
    return LowRank(torch.cat(Bs, dim=1), torch.cat(As) @ Q.T).to(stack.dtype).compress()


SSR = Method("ssr", "SSR", "ICML 2026, arXiv 2606.10617", "factor", ssr, (SCALING,), needs=frozenset({"data"}))
