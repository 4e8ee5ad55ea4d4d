"""How far training moved what an adapter reads."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor


def drift(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> tuple[float, float]:
    """Return how far training moved A, over all modules: (Frobenius, Procrustes), both relative to the start.

    ||A_T - A_0|| / ||A_0||, and min over orthogonal Q of ||A_T - Q A_0|| / ||A_0||, which is 0 where the rows only
    turned among themselves (the subspace is the same). The smallest distance is sqrt(||A_T||^2 + ||A_0||^2 - 2 ||A_T
    A_0^T||_*), * the nuclear norm.

    Parameters
    ----------
    before, after : {module: A (rank, in)}

    References
    ----------
    The OSRM paper's figure 3 reports a drift of A; its metric was not found, so both are given by name.
    """
    moved = turned = start = 0.0
    for module, A_0 in before.items():
        first, last = A_0.double(), after[module].double()
        moved += float((last - first).square().sum())
        U, _, Vh = torch.linalg.svd(last @ first.T)
        turned += float((last - U @ Vh @ first).square().sum())
        start += float(first.square().sum())
    return math.sqrt(moved / start), math.sqrt(turned / start)
