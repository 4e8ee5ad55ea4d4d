"""Pruning and sign election on tensors: the steps that TIES, DARE, DELLA and Breadcrumbs are made of.

Each function takes and returns plain tensors. Exactly k = int(density * numel) entries survive a trim, also where
magnitudes are equal (then the earlier ones), which is PEFT's count; the official TIES code keeps k + 1 and all equal
ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..adapters.lowrank import LowRank
from .base import Stack

BLOCK_ENTRIES = 1 << 21
"""Entries of all adapters together that are dense at a time: 16 MB of float64."""


@dataclass
class Trim:
    """Keep what exceeds ``threshold`` in magnitude, and the first ``equal`` entries that reach it exactly."""

    threshold: float
    equal: int

    def __call__(self, x: Tensor) -> Tensor:
        """Return ``x`` with the rest set to 0; called on consecutive blocks, ``equal`` is used up from the first on."""
        size = x.abs()
        keep = size > self.threshold
        if self.equal > 0:
            level = size == self.threshold
            found = int(level.sum())
            if found > self.equal:
                level &= (level.flatten().cumsum(0) <= self.equal).view_as(level)
            self.equal -= min(found, self.equal)
            keep |= level
        return x * keep


def kept(density: float, numel: int) -> int:
    """Return how many of ``numel`` entries a density keeps: int(density * numel), as PEFT counts."""
    return int(density * numel)


def trim_to(x: Tensor, k: int) -> Trim:
    """Return the trim that keeps the ``k`` largest magnitudes of ``x``."""
    if k >= x.numel():
        return Trim(-1.0, 0)
    if k <= 0:
        return Trim(float("inf"), 0)
    # numpy partitions in place: torch.kthvalue would copy values and indices, four times the memory
    size = x.abs().flatten().numpy()
    size.partition(len(size) - k)
    threshold = float(size[len(size) - k])
    return Trim(threshold, k - int((size > threshold).sum()))


def elect(parts: Tensor, weights: Tensor) -> Tensor:
    """Return the elected sign of every entry, +1 or -1: of sum_i weights_i parts_i over dim 0, a sum of 0 giving +1."""
    total = torch.tensordot(weights.to(parts), parts, dims=1)
    return torch.where(total >= 0, 1.0, -1.0).to(parts)


def agreeing_mean(parts: Tensor, weights: Tensor, election: str) -> Tensor:
    """Merge (T, ...) parts by TIES' election and disjoint mean.

    Parameters
    ----------
    weights : (T,)
    election : "unweighted" (PEFT, and the official code but for its zeros): the sign of the plain sum; the weighted
        parts that agree are added and divided by their number. "weighted" (mergekit): the sign of the weighted sum;
        divided by the sum of the agreeing weights, so that weights are relative.
    """
    shape = (-1,) + (1,) * (parts.ndim - 1)
    w = weights.to(parts).reshape(shape)
    if election == "unweighted":
        agree = torch.sign(parts) == elect(parts, torch.ones_like(weights))
        return (parts * w * agree).sum(0) / agree.sum(0).clamp(min=1)
    agree = torch.sign(parts * w) == elect(parts, weights)
    share = (w * agree).sum(0)
    return (parts * w * agree).sum(0) / torch.where(share.abs() < 1e-8, 1.0, share)


def drop(x: Tensor, density: float, generator: torch.Generator) -> Tensor:
    """DARE's step: keep each entry with probability ``density`` and divide by it, so that the mean is unchanged."""
    return x * torch.bernoulli(torch.full_like(x, density), generator=generator) / density


def drop_by_rank(x: Tensor, density: float, epsilon: float, generator: torch.Generator) -> Tensor:
    """DELLA's step: as `drop`, but within a row larger entries are kept more often, from density - epsilon to +
    epsilon.

    Each kept entry is divided by its own probability, as in the paper (mergekit rescales to the L1 norm instead). The
    spread is cut where a probability would leave [0, 1]; a row of one entry has no ranks and gets ``density``.
    """
    epsilon = min(epsilon, density, 1.0 - density)
    width = x.shape[-1]
    rank = x.abs().argsort(-1).argsort(-1).to(x) / max(width - 1, 1)
    probability = density + (2.0 * rank - 1.0) * epsilon if width > 1 else torch.full_like(x, density)
    mask = torch.bernoulli(probability.clamp(0.0, 1.0), generator=generator)
    return torch.where(mask > 0, x / probability, 0.0)


def dense_updates(stack: Stack) -> Iterator[Tensor]:
    """Yield the dense update of each adapter that has the module, (out, in) float64, one at a time."""
    for i in stack.present:
        update = stack.updates[i]
        assert update is not None
        yield _dense(update)


def merge_by_rows(
    stack: Stack,
    prunes: Sequence[Callable[[Tensor], Tensor]],
    combine: Callable[[Tensor, Tensor], Tensor],
    scaling: float,
) -> Tensor:
    """Return scaling * combine(pruned updates (T, rows, in), weights (T,)), made block of rows by block of rows.

    All T dense updates never exist at once, so that a large pool streams in little memory. Float64 inside.

    Parameters
    ----------
    prunes : one function per adapter that has the module, called on its consecutive blocks (rows, in)
    """
    updates = [update for update in stack.updates if update is not None]
    weights = torch.tensor([stack.weights[i] for i in stack.present], dtype=torch.float64)
    out, width = stack.shape
    result = torch.empty(out, width, dtype=updates[0].A.dtype)
    rows = max(1, BLOCK_ENTRIES // (width * len(updates)))
    for start in range(0, out, rows):
        block = [_dense(LowRank(update.B[start : start + rows], update.A)) for update in updates]
        parts = torch.stack([prune(x) for prune, x in zip(prunes, block, strict=True)])
        result[start : start + rows] = (scaling * combine(parts, weights)).to(result.dtype)
    return result


def _dense(update: LowRank) -> Tensor:
    # float32 products would flip entries whose magnitudes are nearly equal at a threshold
    return update.B.double() @ update.A.double()


def weighted_total(parts: Tensor, weights: Tensor) -> Tensor:
    """Return sum_i weights_i parts_i over dim 0."""
    total: Tensor = torch.tensordot(weights, parts, dims=1)
    return total
