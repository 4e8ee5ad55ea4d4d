"""Diagnostics: what the factors and the features' second moments tell about a merge before anybody runs it.

Plain functions from adapters to pandas frames; none builds a dense update.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from ..adapters.adapter import Adapter, number_equal_names
from ..adapters.lowrank import LowRank
from ..errors import MergeError
from ..features.moments import Features
from ..models.layers import linear_layers

ENERGY = 0.99
RANK_KS = (1, 2, 5, 10, 20, 40, 60, 80, 100, 150, 200, 250, 300, 350, 400, 450, 500, 550, 600)
"""Numbers of texts at which rank curves are drawn."""


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


def log_column_norms(adapters: Sequence[Adapter]) -> pd.DataFrame:
    """Return `column_norms` with log10_norm, without the columns that are zero: what a distribution is drawn of."""
    norms = column_norms(adapters)
    alive = norms[norms.norm > 0]
    return alive.assign(log10_norm=np.log10(alive.norm))


def magnitude_variance(adapters: Sequence[Adapter]) -> pd.DataFrame:
    """Return how unequal the adapters' magnitudes are, per module: module, variance, norm_ratio.

    With alpha_ij the norm of column j in adapter i: ``variance`` is the variance across adapters of alpha_.j over its
    squared mean, averaged over the columns that are alive anywhere (0 for equal adapters); ``norm_ratio`` is the
    largest Frobenius norm over the median one. An adapter that lacks a module counts as zero.

    References
    ----------
    Ours. DO-Merging (arXiv 2505.15875) says that larger magnitude variance goes with worse merging; its formula was not
    found.
    """
    rows = []
    for module, updates in _by_module(adapters).items():
        width = next(u for u in updates if u is not None).shape[1]
        alpha = torch.stack(
            [torch.zeros(width, dtype=torch.float64) if u is None else u.column_norms() for u in updates]
        )
        mean = alpha.mean(0)
        alive = mean > 0
        variance = float((alpha.var(0, correction=0)[alive] / mean[alive] ** 2).mean()) if alive.any() else 0.0
        norms = torch.linalg.vector_norm(alpha, dim=1)
        median = float(norms.quantile(0.5))
        rows.append((module, variance, float(norms.max()) / median if median else math.inf))
    return pd.DataFrame(rows, columns=["module", "variance", "norm_ratio"])


def subspace_overlap(adapters: Sequence[Adapter], side: str = "A") -> pd.DataFrame:
    """Return the overlap of all pairs of adapters per module: adapter_a, adapter_b, module, overlap.

    ||Q_a^T Q_b||_F^2 / min(r_a, r_b) with Q an orthonormal basis of the true row space of B A (side "A") or its column
    space (side "B"): the mean squared cosine of the principal angles. 1 = the smaller one lies in the larger, 0 =
    orthogonal; two random subspaces have max(r_a, r_b) / n on average (`chance_overlap`). Pairs come in both orders and
    with themselves; modules that one of them lacks are left out.

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


def interference(adapters: Sequence[Adapter], features: Features, model: nn.Module | None = None) -> pd.DataFrame:
    """Return how strongly each adapter acts on another task's inputs: source, target, module, ratio.

    sqrt(tr(B_j A_j S_i A_j^T B_j^T) / tr(B_i A_i S_i A_i^T B_i^T)): the size of source j's update on the texts of
    target i over the size of i's own update there, from second moments only. 1 = as loud as the own adapter.

    Parameters
    ----------
    model : the base; with it, a column ``to_base`` gives the same size over that of the layer's own output, ||W0 h||

    References
    ----------
    The last term of W h = (W0 + B_1 A_1) h + B_2 A_2 h in Zhang & Zhou (OSRM), arXiv 2505.22934.
    """
    rows = []
    named = number_equal_names(list(adapters))
    layers = linear_layers(model, {m for a in named for m in a.deltas}) if model is not None else {}
    for target in named:
        for module, own in target.deltas.items():
            S = features.second_moment(target.task, module)
            base = dense_energy(dense_weight(layers[module]), S) if layers else math.nan
            energy = {
                source.name: update_energy(source.deltas[module], S) for source in named if module in source.deltas
            }
            own_energy = update_energy(own, S)
            for source, value in energy.items():
                ratio = math.sqrt(value / own_energy) if own_energy else (0.0 if not value else math.inf)
                rows.append((source, target.name, module, ratio, math.sqrt(value / base) if base else math.inf))
    frame = pd.DataFrame(rows, columns=["source", "target", "module", "ratio", "to_base"])
    return frame if layers else frame.drop(columns="to_base")


def cosines(adapters: Sequence[Adapter]) -> pd.DataFrame:
    """Return the cosine of all pairs of updates per module: adapter_a, adapter_b, module, cosine.

    <W_a, W_b> / (||W_a|| ||W_b||), from the factors. 0 = Task Arithmetic adds them without loss or gain of length;
    updates of zero length have cosine 0. Each pair comes once, with a before b; modules that one of them lacks are left
    out.

    References
    ----------
    Ilharco et al., "Editing Models with Task Arithmetic", ICLR 2023, arXiv 2212.04089, section 5.
    """
    rows = []
    for a, b in itertools.combinations(number_equal_names(list(adapters)), 2):
        for module in sorted(a.deltas.keys() & b.deltas.keys()):
            length = a.deltas[module].norm() * b.deltas[module].norm()
            rows.append((a.name, b.name, module, a.deltas[module].inner(b.deltas[module]) / length if length else 0.0))
    return pd.DataFrame(rows, columns=["adapter_a", "adapter_b", "module", "cosine"])


def sign_conflict(adapters: Sequence[Adapter]) -> pd.DataFrame:
    """Return how far the updates pull entries in opposite directions, per module: module, conflict, lost.

    ``conflict`` is the share of entries, among those that two adapters or more change, whose signs do not all agree;
    ``lost`` is 1 - ||sum_i W_i||_1 / sum_i ||W_i||_1, the share of all magnitude that cancels in the sum: 0 = nothing,
    1 = everything. Dense, module by module.

    References
    ----------
    Yadav et al., TIES-Merging, NeurIPS 2023, arXiv 2306.01708, section 3 (``conflict``); ``lost`` is ours.
    """
    rows = []
    for module, updates in _by_module(adapters).items():
        parts = torch.stack([update.dense() for update in updates if update is not None])
        size = float(parts.abs().sum())
        changed = (parts != 0).sum(0) >= 2
        mixed = ((parts > 0).any(0) & (parts < 0).any(0))[changed]
        lost = 1.0 - float(parts.sum(0).abs().sum()) / size if size else 0.0
        rows.append((module, float(mixed.double().mean()) if len(mixed) else 0.0, lost))
    return pd.DataFrame(rows, columns=["module", "conflict", "lost"])


def spectra(adapters: Sequence[Adapter]) -> pd.DataFrame:
    """Return the singular values of every update: adapter, module, index (from 1), singular_value, energy.

    ``energy`` is the share of ||W||_F^2 that the first ``index`` directions hold: what a truncation to that rank keeps.
    """
    frames = []
    for adapter in number_equal_names(list(adapters)):
        for module, update in adapter.deltas.items():
            S = update.svd()[1].numpy()
            energy = (S**2).cumsum() / (S**2).sum() if len(S) else S
            columns = {"index": np.arange(1, len(S) + 1), "singular_value": S, "energy": energy}
            frames.append(pd.DataFrame({"adapter": adapter.name, "module": module} | columns))
    return pd.concat(frames, ignore_index=True)


def effective_rank(adapters: Sequence[Adapter]) -> pd.DataFrame:
    """Return the effective rank of every update: adapter, module, effective_rank, rank.

    exp(-sum_i p_i log p_i) with p_i = sigma_i / sum sigma: the rank if all directions are equally strong, 1 if one does
    all; 0 for the zero update.

    References
    ----------
    Roy & Vetterli, "The effective rank", EUSIPCO 2007.
    """
    rows = []
    for adapter in number_equal_names(list(adapters)):
        for module, update in adapter.deltas.items():
            S = update.svd()[1]
            p = S / S.sum()
            rows.append((adapter.name, module, float(torch.exp(-(p * p.log()).sum())) if len(S) else 0.0, len(S)))
    return pd.DataFrame(rows, columns=["adapter", "module", "effective_rank", "rank"])


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


def update_energy(update: LowRank, S: Tensor) -> float:
    """Return tr(B A S A^T B^T), from the factors: the mean of ||B A h||^2 over inputs h of second moment S (in, in)."""
    A, B = update.A.double(), update.B.double()
    return max(0.0, float(((B.T @ B) * (A @ S @ A.T)).sum()))


def dense_energy(W: Tensor, S: Tensor) -> float:
    """Return tr(W S W^T) for a dense W (out, in): the mean of ||W h||^2 over inputs h of second moment S (in, in)."""
    W = W.double()
    return max(0.0, float(((W @ S) * W).sum()))


def dense_weight(layer: nn.Module) -> Tensor:
    """Return a linear layer's weight as (out, in) on the CPU; Conv1D stores it transposed."""
    weight: Tensor = layer.weight.detach().cpu()  # type: ignore[operator]
    return weight if isinstance(layer, nn.Linear) else weight.T


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
