"""PEFT's factor-wise combinations, as PEFT does them: A and B merged apart. Baselines and test oracles, not
recommendations.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..adapters.lowrank import LowRank
from ..errors import MergeError
from .base import SCALING, Method, Stack, density_param
from .sparsify import agreeing_mean, kept, trim_to, weighted_total


def peft_linear(stack: Stack, scaling: float) -> LowRank:
    """PEFT's "linear": A = sum_t sign(w_t) sqrt(|w_t| s_t) A_t, B = sum_t sqrt(|w_t| s_t) B_t, with s_t LoRA's scaling.

    The product holds all cross terms B_i A_j, so it is not Task Arithmetic: on random factors most of it is cross
    terms. Equal ranks only, as in PEFT. Kept because many published merges were made this way.

    References
    ----------
    PEFT, add_weighted_adapter(combination_type="linear").
    """
    A, B, wA, wB = _stored(stack, "peft_linear")
    return LowRank(weighted_total(B, wB) * scaling, weighted_total(A, wA)).to(stack.dtype)


def peft_ties(stack: Stack, scaling: float, density: float) -> LowRank:
    """PEFT's "ties": TIES applied to the A's and to the B's apart, with the weights of "linear".

    Trimming and electing signs on factors is not TIES on the updates: a factor's entries have no meaning of their own.
    Equal ranks only, as in PEFT.

    References
    ----------
    PEFT, add_weighted_adapter(combination_type="ties").
    """
    A, B, wA, wB = _stored(stack, "peft_ties")

    def merged(parts: Tensor, weights: Tensor) -> Tensor:
        trimmed = torch.stack([trim_to(part, kept(density, part.numel()))(part) for part in parts])
        return agreeing_mean(trimmed, weights, "unweighted")

    return LowRank(merged(B, wB) * scaling, merged(A, wA)).to(stack.dtype)


def _stored(stack: Stack, name: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return (A's (T, r, in), B's (T, out, r) without LoRA's scaling, weights of A, weights of B), float64."""
    lows = [update for update in stack.updates if update is not None]
    ranks = {low.rank for low in lows}
    if len(ranks) > 1:
        raise MergeError(
            f"{name} adds factors entry by entry, so all ranks must be equal; at {stack.module} there are ranks "
            f"{sorted(ranks)}. Choose task_arithmetic or svd."
        )
    scalings = [stack.scalings[i] for i in stack.present]
    weights = [stack.weights[i] for i in stack.present]
    roots = torch.tensor([math.sqrt(abs(w * s)) for w, s in zip(weights, scalings, strict=True)], dtype=torch.float64)
    signs = torch.tensor([-1.0 if w < 0 else 1.0 for w in weights], dtype=torch.float64)
    A = torch.stack([low.A.double() for low in lows])
    B = torch.stack([low.B.double() / s for low, s in zip(lows, scalings, strict=True)])
    return A, B, roots * signs, roots


PEFT_LINEAR = Method(
    "peft_linear",
    "Linear, factor-wise (as PEFT)",
    "PEFT add_weighted_adapter, linear",
    "factor",
    peft_linear,
    (SCALING,),
    plugins=False,
)
PEFT_TIES = Method(
    "peft_ties", "TIES, factor-wise (as PEFT)", "PEFT add_weighted_adapter, ties", "factor", peft_ties,
    (SCALING, density_param(0.2, "Share of each factor's entries that survive.")), plugins=False,
)  # fmt: skip
