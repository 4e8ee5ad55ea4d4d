"""Grams: inner products of updates, in weights and on data, from which a merge's diagnostics follow for every λ and all
weights.

The merge of Task Arithmetic, M = λ sum_j w_j U_j, is linear in what enters it, so its error on a task's texts is a
small quadratic form in λ w: no forward pass, no dense update, and cheap enough for a browser while a slider moves. For
a method that is not linear, M itself is measured once and only λ is free.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from ..adapters.adapter import Adapter, number_equal_names
from ..adapters.lowrank import LowRank
from ..features.moments import Features
from ..models.layers import linear_layers
from ..plugins.base import Updates
from .measures import dense_energy, dense_weight

Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, eq=False)
class Grams:
    """Inner products of T adapters at M modules; an adapter that lacks a module is zero there.

    W_i is adapter i's update as trained, U_j adapter j's as it enters the merge (after plug-ins), S_i the second moment
    of the module's inputs on texts of task i.

    Attributes
    ----------
    inner : (M, T, T), <U_j, U_k>
    across : (M, T, T), <W_i, U_j> at [module, i, j]
    own : (M, T), ||W_i||^2
    data : (M, T, T, T), tr(U_j S_i U_k^T) at [module, i, j, k]; None without features, as the other two
    data_across : (M, T, T), tr(W_i S_i U_j^T) at [module, i, j]
    data_before : (M, T, T), tr(W_j S_i W_j^T) at [module, i, j]
    base : (M, T), tr(W0 S_i W0^T); None without the base model
    """

    adapters: tuple[str, ...]
    modules: tuple[str, ...]
    inner: Array
    across: Array
    own: Array
    data: Array | None = None
    data_across: Array | None = None
    data_before: Array | None = None
    base: Array | None = None

    @property
    def data_own(self) -> Array | None:
        """(M, T), tr(W_i S_i W_i^T)."""
        return None if self.data_before is None else np.einsum("mii->mi", self.data_before)


@dataclass(frozen=True, eq=False)
class MergeGrams:
    """Inner products of one merge M, taken at scaling 1, with T adapters as trained, at its modules.

    Attributes
    ----------
    square : (M,), ||M||^2
    across : (M, T), <W_i, M>
    data : (M, T), tr(M S_i M^T); None without features, as data_across
    data_across : (M, T), tr(W_i S_i M^T)
    singular_values : per module, descending
    """

    square: Array
    across: Array
    data: Array | None
    data_across: Array | None
    singular_values: tuple[Array, ...]


def grams(
    adapters: Sequence[Adapter],
    updates: Updates | None = None,
    features: Features | None = None,
    model: nn.Module | None = None,
) -> Grams:
    """Return all inner products, from the factors: O(R^2 n + R n^2) a module and task, R the sum of ranks.

    Parameters
    ----------
    updates : per adapter {module: LowRank}, as plug-ins left them; None = as trained
    features : second moments of every adapter's task
    model : the base, for ``base``
    """
    trained = [adapter.deltas for adapter in adapters]
    modules = tuple(sorted({module for deltas in trained for module in deltas}))
    count = len(adapters)
    layers = linear_layers(model, modules) if model is not None and features is not None else {}
    weight, data, base = [], [], []
    for module in modules:
        W = [deltas.get(module) for deltas in trained]
        U = W if updates is None else [entering.get(module) for entering in updates]
        stack = _Stack(W, U)
        weight.append(stack.products(None))
        if features is not None:
            moments = [features.second_moment(adapter.task, module) for adapter in adapters]
            data.append([stack.products(S) for S in moments])
        if layers and features is not None:
            base.append([dense_energy(dense_weight(layers[module]), S) for S in moments])
    found: dict[str, Any] = {}
    G = np.array(weight)
    if features is not None:
        D, own = np.array(data), np.arange(count)
        found = {
            "data": D[:, :, count:, count:],
            "data_across": D[:, own, own, count:],
            "data_before": np.einsum("mijj->mij", D[:, :, :count, :count]).copy(),
        }
    return Grams(
        adapters=tuple(adapter.name for adapter in number_equal_names(list(adapters))),
        modules=modules,
        inner=G[:, count:, count:],
        across=G[:, :count, count:],
        own=np.einsum("mii->mi", G[:, :count, :count]).copy(),
        base=np.array(base) if base else None,
        **found,
    )


class _Stack:
    """All updates of one module side by side, as trained and as they enter: their products come from two small
    matrices.
    """

    def __init__(self, trained: Sequence[LowRank | None], entering: Sequence[LowRank | None]) -> None:
        everything = [*trained, *entering]
        present = [update for update in everything if update is not None]
        self.A = torch.cat([update.A for update in present]).double()
        B = torch.cat([update.B for update in present], dim=1).double()
        self.outer = B.T @ B
        ranks = torch.tensor([0 if update is None else update.rank for update in everything])
        owner = torch.repeat_interleave(torch.arange(len(everything)), ranks)
        self.member = torch.nn.functional.one_hot(owner, len(everything)).double()

    def products(self, S: Tensor | None) -> Array:
        """Return tr(X S Y^T) for all pairs of updates; without S, <X, Y>."""
        A = self.A if S is None else self.A @ S.double()
        summed: Array = (self.member.T @ (self.outer * (A @ self.A.T)) @ self.member).numpy()
        return summed


def merge_grams(
    adapters: Sequence[Adapter],
    modules: Sequence[str],
    result: Callable[[str], LowRank | Tensor],
    features: Features | None = None,
) -> MergeGrams:
    """Return the inner products of a merge that need not be linear; ``result(module)`` gives it, at scaling 1."""
    square, across, data, data_across, values = [], [], [], [], []
    for module in modules:
        M = result(module)
        own = [adapter.deltas.get(module) for adapter in adapters]
        square.append(_product(M, M))
        across.append([_product(W, M) for W in own])
        S = M.svd()[1] if isinstance(M, LowRank) else torch.linalg.svdvals(M.double())
        values.append(S.double().numpy())
        if features is not None:
            moments = [features.second_moment(adapter.task, module).double() for adapter in adapters]
            data.append([max(0.0, _product(M, M, S_i)) for S_i in moments])
            data_across.append([_product(W, M, S_i) for W, S_i in zip(own, moments, strict=True)])
    on_data = features is not None
    return MergeGrams(
        np.array(square),
        np.array(across),
        np.array(data) if on_data else None,
        np.array(data_across) if on_data else None,
        tuple(values),
    )


def _product(X: LowRank | Tensor | None, Y: LowRank | Tensor, S: Tensor | None = None) -> float:
    """Return tr(X S Y^T), without S <X, Y>; dense only where an argument is."""
    if X is None:
        return 0.0
    if isinstance(X, LowRank):
        B, A = X.B.double(), X.A.double()
        A = A if S is None else A @ S
        if isinstance(Y, LowRank):
            return float(((B.T @ Y.B.double()) * (A @ Y.A.double().T)).sum())
        return float(((B.T @ Y.double()) * A).sum())
    left = X.double() if S is None else X.double() @ S
    right = Y.dense() if isinstance(Y, LowRank) else Y
    return float((left * right.double()).sum())


def merge_error(found: Grams, weights: Sequence[float], scaling: float) -> pd.DataFrame:
    """Return how far M = scaling * sum_j w_j U_j is from each task's own adapter on that task's texts: adapter, module,
    error.

    sqrt(tr((M - W_i) S_i (M - W_i)^T) / tr(W_i S_i W_i^T)): 0 = the merge acts on the task's texts as its own adapter
    does, 1 = as far off as no adapter at all. Rows where the adapter does nothing are left out.

    References
    ----------
    RegMean (Jin et al., ICLR 2023, arXiv 2212.09849, eq. 1) minimises this error, summed over tasks; the relative form
    is ours.
    """
    if found.data is None or found.data_across is None or found.data_own is None:
        raise ValueError("These Grams were made without features.")
    w = scaling * np.asarray(weights, dtype=np.float64)
    gap = (
        np.einsum("mijk,j,k->mi", found.data, w, w) - 2 * np.einsum("mij,j->mi", found.data_across, w) + found.data_own
    )
    return _errors(found, gap)


def merge_error_at(found: Grams, merged: MergeGrams, scaling: float) -> pd.DataFrame:
    """Return `merge_error` of a merge that was measured at scaling 1, at another scaling."""
    if found.data_own is None or merged.data is None or merged.data_across is None:
        raise ValueError("These Grams were made without features.")
    return _errors(found, scaling**2 * merged.data - 2 * scaling * merged.data_across + found.data_own)


def _errors(found: Grams, gap: Array) -> pd.DataFrame:
    assert found.data_own is not None
    rows = [
        (name, module, float(np.sqrt(max(0.0, gap[m, i]) / found.data_own[m, i])))
        for m, module in enumerate(found.modules)
        for i, name in enumerate(found.adapters)
        if found.data_own[m, i] > 0
    ]
    return pd.DataFrame(rows, columns=["adapter", "module", "error"])
