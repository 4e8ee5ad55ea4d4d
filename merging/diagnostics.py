"""Diagnostics: what the factors and the features' second moments tell about a merge before anybody runs it.

Plain functions from adapters to pandas frames; none builds a dense update.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from .adapter import Adapter, number_equal_names
from .errors import MergeError
from .features import Features

ENERGY = 0.99


def column_norms(adapters: Sequence[Adapter]) -> pd.DataFrame:
    """Return the norm of every column (input feature) of every update: adapter, task, module, column, norm."""
    frames = []
    for adapter in number_equal_names(list(adapters)):
        for module, update in adapter.deltas.items():
            norms = update.column_norms().numpy()
            frames.append(
                pd.DataFrame(
                    {
                        "adapter": adapter.name,
                        "task": adapter.task,
                        "module": module,
                        "column": np.arange(len(norms)),
                        "norm": norms,
                    }
                )
            )
    return pd.concat(frames, ignore_index=True)


def magnitude_variance(adapters: Sequence[Adapter]) -> pd.DataFrame:
    """Return how unequal the adapters' magnitudes are, per module: module, variance, norm_ratio.

    With alpha_ij the norm of column j in adapter i: ``variance`` is the variance across adapters of alpha_.j over its squared
    mean, averaged over the columns that are alive anywhere (0 for equal adapters); ``norm_ratio`` is the largest
    Frobenius norm over the median one. An adapter that lacks a module counts as zero.

    References
    ----------
    Ours. DO-Merging (arXiv 2505.15875) says that larger magnitude variance goes with worse merging; its formula was not found.
    """
    rows = []
    for module, updates in _by_module(adapters).items():
        width = next(u for u in updates if u is not None).shape[1]
        alpha = torch.stack([torch.zeros(width, dtype=torch.float64) if u is None else u.column_norms() for u in updates])
        mean = alpha.mean(0)
        alive = mean > 0
        variance = float((alpha.var(0, correction=0)[alive] / mean[alive] ** 2).mean()) if alive.any() else 0.0
        norms = torch.linalg.vector_norm(alpha, dim=1)
        median = float(norms.quantile(0.5))
        rows.append((module, variance, float(norms.max()) / median if median else math.inf))
    return pd.DataFrame(rows, columns=["module", "variance", "norm_ratio"])


def subspace_overlap(adapters: Sequence[Adapter], side: str = "A") -> pd.DataFrame:
    """Return the overlap of all pairs of adapters per module: adapter_a, adapter_b, module, overlap.

    ||Q_a^T Q_b||_F^2 / min(r_a, r_b) with Q an orthonormal basis of the true row space of B A (side "A") or its column space
    (side "B"): the mean squared cosine of the principal angles. 1 = the smaller one lies in the larger, 0 = orthogonal; two
    random subspaces have max(r_a, r_b) / n on average (`chance_overlap`). Pairs come in both orders and with themselves;
    modules that one of them lacks are left out.

    References
    ----------
    Hu et al., LoRA, arXiv 2106.09685, section 7.2 (the same measure between ranks).
    """
    bases = _bases(adapters, side)
    rows = []
    for a, of_a in bases.items():
        for b, of_b in bases.items():
            for module in of_a.keys() & of_b.keys():
                cosines = torch.linalg.matrix_norm(of_a[module].T @ of_b[module]) ** 2
                smaller = min(of_a[module].shape[1], of_b[module].shape[1])
                rows.append((a, b, module, float(cosines) / smaller if smaller else 0.0))
    frame = pd.DataFrame(rows, columns=["adapter_a", "adapter_b", "module", "overlap"])
    order = {name: position for position, name in enumerate(bases)}
    return frame.sort_values(
        ["adapter_a", "adapter_b", "module"], key=lambda c: c.map(order) if c.name != "module" else c, ignore_index=True
    )


def chance_overlap(adapters: Sequence[Adapter], side: str = "A") -> float:
    """Return the overlap that random subspaces would have: max(r_a, r_b) / n, averaged over pairs and modules."""
    levels = []
    for updates in _by_module(adapters).values():
        present = [u for u in updates if u is not None]
        for i, a in enumerate(present):
            levels += [max(a.rank, b.rank) / a.shape[1 if side == "A" else 0] for b in present[:i]]
    return min(1.0, float(np.mean(levels))) if levels else 0.0


def interference(adapters: Sequence[Adapter], features: Features) -> pd.DataFrame:
    """Return how strongly each adapter acts on another task's inputs: source, target, module, ratio.

    sqrt(tr(B_j A_j S_i A_j^T B_j^T) / tr(B_i A_i S_i A_i^T B_i^T)): the size of source j's update on the texts of target i over the
    size of i's own update there, from second moments only. 1 = as loud as the own adapter.

    References
    ----------
    The last term of W h = (W0 + B_1 A_1) h + B_2 A_2 h in Zhang & Zhou (OSRM), arXiv 2505.22934.
    """
    rows = []
    named = number_equal_names(list(adapters))
    for target in named:
        for module, own in target.deltas.items():
            S = features.second_moment(target.task, module)
            energy = {
                source.name: _energy(source.deltas[module].B, source.deltas[module].A, S)
                for source in named
                if module in source.deltas
            }
            own_energy = _energy(own.B, own.A, S)
            for source, value in energy.items():
                ratio = math.sqrt(value / own_energy) if own_energy else (0.0 if not value else math.inf)
                rows.append((source, target.name, module, ratio))
    return pd.DataFrame(rows, columns=["source", "target", "module", "ratio"])


def rank_curve(samples: Tensor, ks: Sequence[int]) -> pd.DataFrame:
    """Return the rank of the first k samples for every k of ``ks``: k, rank, energy_rank.

    Parameters
    ----------
    samples : (rows, in), for example one mean-pooled text per row
    ks : a k above the number of rows is refused

    Returns
    -------
    DataFrame
        ``rank`` counts singular values above sigma_max * max(k, in) * eps(float32) (numerical rank, uncentred);
        ``energy_rank`` is the smallest number of directions that hold 99 % of the trace of H^T H.

    References
    ----------
    Figure 2 of Zhang & Zhou (OSRM), arXiv 2505.22934; the paper's own definition of rank was not found.
    """
    H = samples.double()
    eps = float(torch.finfo(torch.float32).eps)
    rows = []
    for k in ks:
        if not 1 <= k <= len(H):
            raise MergeError(f"k = {k}: choose between 1 and {len(H)}, the number of samples.")
        S = torch.linalg.svdvals(H[:k])
        rank = int((S[0] * max(k, H.shape[1]) * eps < S).sum())
        share = (S**2).cumsum(0) / (S**2).sum()
        rows.append((k, rank, int((share < ENERGY).sum()) + 1))
    return pd.DataFrame(rows, columns=["k", "rank", "energy_rank"])


def _energy(B: Tensor, A: Tensor, S: Tensor) -> float:
    """tr(B A S A^T B^T) from the factors."""
    A, B = A.double(), B.double()
    return max(0.0, float(((B.T @ B) * (A @ S @ A.T)).sum()))


def _by_module(adapters: Sequence[Adapter]) -> dict[str, list]:  # type: ignore[type-arg]
    modules = sorted({module for adapter in adapters for module in adapter.deltas})
    return {module: [adapter.deltas.get(module) for adapter in adapters] for module in modules}


def _bases(adapters: Sequence[Adapter], side: str) -> dict[str, dict[str, Tensor]]:
    if side not in ("A", "B"):
        raise MergeError(f'side = {side!r}: choose "A" (row space) or "B" (column space).')
    result: dict[str, dict[str, Tensor]] = {}
    for adapter in number_equal_names(list(adapters)):
        result[adapter.name] = {}
        for module, update in adapter.deltas.items():
            U, _, Vh = update.svd()
            result[adapter.name][module] = Vh.T if side == "A" else U
    return result


def drift(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> tuple[float, float]:
    """Return how far training moved A, over all modules: (Frobenius, Procrustes), both relative to the start.

    ||A_T - A_0|| / ||A_0||, and min over orthogonal Q of ||A_T - Q A_0|| / ||A_0||, which is 0 where the rows only turned among
    themselves (the subspace is the same). The smallest distance is sqrt(||A_T||^2 + ||A_0||^2 - 2 ||A_T A_0^T||_*), * the nuclear norm.

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
