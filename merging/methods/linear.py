"""Average and Task Arithmetic: weighted sums of updates, exact in low-rank form by concatenating the factors."""

from __future__ import annotations

import torch

from ..adapters.lowrank import LowRank
from ..errors import MergeError
from .base import SCALING, Method, Stack


def weighted_sum(stack: Stack, scaling: float) -> LowRank:
    """Return scaling * sum_i w_i B_i A_i, compressed to min(out, in) where the ranks add up to more."""
    terms = [update for update in stack.updates if update is not None]
    if not terms:
        return LowRank.zero(stack.shape)
    total = LowRank.concat(terms)
    factors = [scaling * stack.weights[i] for i in stack.present]
    if any(factor != 1.0 for factor in factors):
        # concat has made a new B: scaling it in place saves a copy of the whole pool
        ranks = torch.tensor([term.rank for term in terms])
        total.B.mul_(torch.repeat_interleave(torch.tensor(factors, dtype=total.B.dtype), ranks))
    return total.compress()


def average(stack: Stack) -> LowRank:
    """Take the weighted mean of the updates: W = W0 + sum_i w_i B_i A_i / sum_i w_i.

    The simplest merge: every task gets 1/T of its update. It rarely breaks anything and rarely keeps much. An adapter
    that lacks a module counts in the denominator, as the zero update that it is.

    References
    ----------
    Wortsman et al., "Model soups", ICML 2022, arXiv 2203.05482.
    """
    total = sum(stack.weights)
    if abs(total) < 1e-8:
        raise MergeError(
            f"average: the weights at {stack.module} sum to {total:g}; a mean needs a sum that is not zero."
        )
    return weighted_sum(stack, 1.0 / total)


def task_arithmetic(stack: Stack, scaling: float) -> LowRank:
    """Add the updates up and scale the sum: W = W0 + λ sum_i w_i B_i A_i.

    The reference that every other method is measured against. With T tasks that do not touch each other λ = 1 would be
    right; interference makes the best λ smaller, often near 0.3 for six to eight tasks. Exact: the factors are put side
    by side, rank sum_i r_i.

    References
    ----------
    Ilharco et al., "Editing models with task arithmetic", ICLR 2023, arXiv 2212.04089.
    """
    return weighted_sum(stack, scaling)


def do_merging(stack: Stack, scaling: float) -> LowRank:
    """Nudge the adapters to be mutually orthogonal, split each update into magnitude and direction, merge the two
    apart.

    W = W0 + λ sum_i w_i B_i' A_i' diag(ᾱ / α_i), where A', B' are the nudged factors, α_i holds the column norms of
    B_i' A_i' and ᾱ is their mean over the adapters. It is Task Arithmetic with both plug-ins on: Orthogonalize (see its
    page for the loss) and Decouple at strength 1. It helps where adapters differ much in magnitude or share directions.

    A reconstruction: no official code was published. Ours are the balanced gauge, the penalty, the solver in core
    coordinates, the scale ᾱ (with equal magnitudes the result is Task Arithmetic with the same λ), and what Decouple
    lets you choose: the strength γ, one magnitude per column or per module (granularity), a limit on what is amplified
    (max_up), and whether the sum of the directions is brought to length 1 before it gets its magnitude (renormalise,
    off by default).

    References
    ----------
    Zheng et al., "Decouple and Orthogonalize: A Data-Free Framework for LoRA Merging", arXiv 2505.15875.
    """
    return weighted_sum(stack, scaling)


TASK_ARITHMETIC_PAPER = "Ilharco et al., ICLR 2023, arXiv 2212.04089"

AVERAGE = Method("average", "Average", "Wortsman et al., ICML 2022, arXiv 2203.05482", "factor", average, linear="mean")
TASK_ARITHMETIC = Method(
    "task_arithmetic", "Task Arithmetic", TASK_ARITHMETIC_PAPER, "factor", task_arithmetic, (SCALING,), linear="sum"
)
DO_MERGING = Method(
    "do_merging",
    "DO-Merging (reconstruction)",
    "Zheng et al., 2025, arXiv 2505.15875",
    "factor",
    do_merging,
    (SCALING,),
    orthogonalize="balanced",
    decouple=1.0,
    linear="sum",
)
