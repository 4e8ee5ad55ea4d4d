"""RegMean: the merged layer that best reproduces every adapter's outputs on its own inputs."""

from __future__ import annotations

import torch
from torch import Tensor

from ..adapters.lowrank import LowRank
from ..errors import MergeError
from .base import SCALING, Method, Param, Stack

RIDGE = 1e-6


def regmean(stack: Stack, scaling: float, reduction: float) -> LowRank:
    """Regression mean: minimise sum_t E_t ||(W - W_t) h||^2 over one W for all tasks, in closed form.

    ΔW = λ sum_t w_t B_t [A_t G_t (sum_j G_j)^-1], with G_t the second moment of the layer's inputs on task t's texts (k
    unlabelled texts are enough). Exact low-rank form: B side by side, the bracket stacked; only updates are needed,
    since the base cancels. ``reduction`` shrinks the off-diagonal of G_t; a ridge of 1e-6 of the mean eigenvalue is in
    numerator and denominator.

    Dialect: the moments are the base model's; the original takes those of each fine-tuned model. An adapter that lacks
    the module still counts with its data: there the merge should do nothing.

    References
    ----------
    Jin et al., "Dataless Knowledge Fusion by Merging Weights of Language Models", ICLR 2023, arXiv 2212.09849, eq. 3.
    """
    assert stack.features is not None
    moments = [reduced(stack.features.second_moment(task, stack.module), reduction) for task in stack.tasks]
    total = torch.stack(moments).sum(0)
    if not bool(torch.isfinite(total).all()):
        raise MergeError(f"regmean: the second moments at {stack.module} are not finite.")
    Bs, As = [], []
    for i in stack.present:
        update = stack.updates[i]
        assert update is not None
        Bs.append(update.B.double() * stack.weights[i])
        As.append(torch.linalg.solve(total, moments[i] @ update.A.double().T).T)
    merged = LowRank(torch.cat(Bs, dim=1) * scaling, torch.cat(As))
    return merged.to(stack.dtype).compress()


def reduced(G: Tensor, reduction: float) -> Tensor:
    """Return G with its off-diagonal times ``reduction``, plus the ridge; (in, in) float64."""
    diagonal = torch.diag(G.diagonal())
    G = reduction * G + (1.0 - reduction) * diagonal
    return G + RIDGE * G.trace() / len(G) * torch.eye(len(G), dtype=G.dtype)


REGMEAN = Method(
    "regmean",
    "RegMean",
    "Jin et al., ICLR 2023, arXiv 2212.09849",
    "factor",
    regmean,
    (
        SCALING,
        Param(
            "reduction",
            "Off-diagonal factor",
            0.0,
            1.0,
            0.05,
            0.9,
            "1 uses the full second moment, 0 its diagonal only.",
        ),
    ),
    needs=frozenset({"data"}),
)
