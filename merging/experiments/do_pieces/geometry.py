"""Updates changed on purpose, without training: nudged apart, turned towards each other, scaled, truncated; and how
they lie.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ...adapters.adapter import Adapter
from ...adapters.lowrank import LowRank
from ...diagnostics.measures import cosines, subspace_overlap
from ...errors import MergeError
from ...plugins.base import Updates, modules_of
from ...plugins.orthogonalize import Orthogonalize, nudges, orthogonalize

SIDES = ("A", "B", "both")


def with_updates(adapters: Sequence[Adapter], updates: Updates) -> list[Adapter]:
    """Return the adapters with other updates and the heads they had."""
    return [replace(adapter, deltas=deltas) for adapter, deltas in zip(adapters, updates, strict=True)]


def nudged(adapters: Sequence[Adapter], penalty: float, steps: int) -> list[Adapter]:
    """Return the adapters after so many steps of the orthogonal descent; 0 steps = as they were.

    References
    ----------
    Zheng et al., DO-Merging, arXiv 2505.15875, figure 3; the descent is our reconstruction
    (`merging.plugins.orthogonalize`).
    """
    updates: Updates = [dict(adapter.deltas) for adapter in adapters]
    if steps == 0:
        return with_updates(adapters, updates)
    return with_updates(adapters, orthogonalize(updates, Orthogonalize("balanced", penalty, steps)))


def scaled(adapters: Sequence[Adapter], task: str, factor: float) -> list[Adapter]:
    """Return the adapters with the update of one task times a factor, as another alpha would make it."""
    return [
        replace(adapter, deltas={module: update * factor for module, update in adapter.deltas.items()})
        if adapter.task == task
        else adapter
        for adapter in adapters
    ]


def truncated(adapter: Adapter, rank: int) -> tuple[Adapter, float]:
    """Return (the best approximation of a given rank per module, the share of the energy ||W||_F^2 that it keeps)."""
    deltas, kept, total = {}, 0.0, 0.0
    for module, update in adapter.deltas.items():
        deltas[module], error = LowRank.nearest(update, rank)
        energy = update.norm() ** 2
        kept, total = kept + energy * (1 - error**2), total + energy
    return replace(adapter, deltas=deltas), kept / total if total else 1.0


def aligned(updates: Updates, strength: float, side: str) -> Updates:
    """Turn the adapters' directions towards each other: the opposite of DO-Merging's orthogonalization.

    At every module, U_i are orthonormal columns that span what adapter i writes (side "B") or reads ("A"), C the
    subspace of the largest rank that is nearest to all of them, and Q_i the rotation of C that is nearest to U_i. U_i
    becomes the polar factor of (1 - s) U_i + s C Q_i. Nothing else changes, so that every update keeps its singular
    values and its norm: what a merge loses is due to the directions, not to sizes. An adapter's own task suffers too;
    it is measured beside.

    Parameters
    ----------
    strength : s, from 0 (nothing changes) to 1 (all adapters share one subspace)
    side : "A", "B" or "both"

    Raises
    ------
    MergeError
        For an unknown side or a strength outside 0 to 1.

    References
    ----------
    Zheng et al., DO-Merging, arXiv 2505.15875, figure 4b compares directions made non-orthogonal on purpose; how it
    makes them was not found, this way is ours.
    """
    if side not in SIDES:
        raise MergeError(f"side = {side!r}: choose one of {', '.join(SIDES)}.")
    if not 0 <= strength <= 1:
        raise MergeError(f"strength = {strength}: choose a number from 0 to 1.")
    result: Updates = [dict(update) for update in updates]
    if strength == 0:
        return result
    for module in modules_of(updates):
        present = [i for i, update in enumerate(updates) if module in update and update[module].norm() > 0]
        parts = [updates[i][module].svd() for i in present]
        U = [part[0] for part in parts]
        V = [part[2].T for part in parts]
        U = _turned(U, strength) if side in ("B", "both") else U
        V = _turned(V, strength) if side in ("A", "both") else V
        for i, left, (_, S, _), right in zip(present, U, parts, V, strict=True):
            root, dtype = S.sqrt(), updates[i][module].A.dtype
            result[i][module] = LowRank(left * root, root[:, None] * right.T).to(dtype)
    return result


def _turned(frames: list[Tensor], strength: float) -> list[Tensor]:
    width = max(frame.shape[1] for frame in frames)
    common = torch.linalg.svd(torch.cat(frames, dim=1), full_matrices=False).U[:, :width]
    return [_polar((1 - strength) * frame + strength * common @ _polar(common.T @ frame)) for frame in frames]


def _polar(matrix: Tensor) -> Tensor:
    """Return the matrix with orthonormal columns that is nearest to a tall one."""
    U, _, Vh = torch.linalg.svd(matrix, full_matrices=False)
    product: Tensor = U @ Vh
    return product


def layout_of(adapters: Sequence[Adapter], before: Sequence[Adapter]) -> dict[str, float]:
    """Return how the updates lie to each other, averaged over pairs and modules: cosine, overlap_A, overlap_B, moved.

    ``cosine`` is the mean of the absolute cosines between two updates (0 = orthogonal), ``overlap_*`` see
    `merging.diagnostics.measures.subspace_overlap`, ``moved`` is the mean over adapters of ||W' - W|| / ||W|| against
    ``before``.
    """
    pairs = list(itertools.combinations([adapter.name for adapter in adapters], 2))
    found = {"cosine": float(cosines(adapters).cosine.abs().mean()) if pairs else math.nan}
    for side in ("A", "B"):
        overlap = subspace_overlap(adapters, side)
        found[f"overlap_{side}"] = (
            float(overlap[overlap.adapter_a != overlap.adapter_b].overlap.mean()) if pairs else math.nan
        )
    return found | {"moved": float(np.mean(nudges([a.deltas for a in before], [a.deltas for a in adapters])))}
