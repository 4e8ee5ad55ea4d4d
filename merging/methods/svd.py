"""Truncated SVD of the sum: Task Arithmetic, cut to an adapter's usual rank."""

from __future__ import annotations

from ..adapters.lowrank import LowRank
from .base import SCALING, Method, Param, Stack

RANK = Param(
    "rank", "Rank R", 1, 64, 1, None, "Directions kept; none = the largest adapter's rank, as PEFT does.", integer=True,
    optional=True, open_above=True,
)  # fmt: skip


def svd(stack: Stack, scaling: float, rank: int | None) -> LowRank:
    """Add the updates up and keep the best approximation of rank R: W = W0 + λ trunc_R(sum_i w_i B_i A_i).

    What PEFT calls "svd": a merged adapter that is no larger than its parents. The energy that is cut away is what Task
    Arithmetic's full rank sum_i r_i would keep. Exact from the factors by two thin QRs and a small SVD. CtM chooses the
    directions before it adds up.

    References
    ----------
    PEFT, add_weighted_adapter(combination_type="svd"); Eckart & Young, 1936.
    """
    terms = stack.weighted()
    if not terms:
        return LowRank.zero(stack.shape)
    return LowRank.concat(terms).truncate(rank or max(stack.rank, 1)) * scaling


SVD = Method(
    "svd",
    "Truncated SVD",
    "PEFT; Eckart & Young, 1936",
    "core",
    svd,
    (SCALING, RANK),
)
