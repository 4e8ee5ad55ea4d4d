"""A merge's updates at a chosen rank, and what that loses."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from ..errors import MergeError
from .lowrank import LowRank, sketchable
from .metadata import Truncation


def check_rank(rank: int | None) -> None:
    """Raise MergeError for what is no rank; None = exact."""
    if rank is not None and (isinstance(rank, bool) or int(rank) != rank or rank < 1):
        raise MergeError(f"rank = {rank!r}: a rank is a whole number of at least 1.")


def truncated(
    updates: Iterable[tuple[str, LowRank | Tensor]], rank: int, exact_svd: bool
) -> tuple[dict[str, LowRank], Truncation]:
    """Return ({module: approximation of at most ``rank``}, what is lost), one dense update at a time.

    Parameters
    ----------
    updates : (module, update), asked for one after the other
    exact_svd : see `LowRank.nearest`
    """
    kept, errors, cut, total, randomised = {}, {}, 0.0, 0.0, False
    for module, update in updates:
        kept[module], errors[module] = LowRank.nearest(update, rank, exact_svd)
        if isinstance(update, LowRank):
            norm = update.norm()
        else:  # row by row: one sum of millions of float32 squares is off by a thousandth
            norm = float(torch.linalg.vector_norm(torch.linalg.vector_norm(update, dim=1).double()))
            randomised = randomised or (not exact_svd and sketchable(update.shape, rank))
        cut, total = cut + (errors[module] * norm) ** 2, total + norm**2
    error = math.sqrt(cut / total) if total else 0.0
    return kept, Truncation(rank=rank, error=error, modules=errors, randomised=randomised)
