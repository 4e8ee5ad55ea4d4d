"""Diagnosis: everything that the diagnostics say of one merge, as plain arrays; what the Diagnose panel is drawn from.

Nothing here depends on λ, and for methods that add updates up nothing depends on the weights either: both stay free, so
that a browser can follow a slider by itself (`merging.diagnostics.grams`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from ..adapters.adapter import Adapter, number_equal_names
from ..features.moments import Features
from ..merged import Merged
from ..plugins.base import Updates
from ..plugins.decouple import alive_columns
from .grams import Array, Grams, MergeGrams, grams, merge_grams
from .measures import cosines, sign_conflict, subspace_overlap


@dataclass(frozen=True, eq=False)
class Pairs:
    """What two of T adapters share at M modules, each (M, T, T) and symmetric; NaN where one of them lacks the
    module."""

    overlap_A: Array
    overlap_B: Array
    cosine: Array


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """The diagnostics of T adapters and one merge of theirs.

    Attributes
    ----------
    merge : its ``singular_values`` are empty for a method that gives every task a merge of its own (EMR)
    linear : "sum" (λ sum_j w_j U_j), "mean" (sum_j w_j U_j / sum_j w_j) or "" (λ times what ``merge`` measured at λ =
        1)
    before, after : pairs as trained, and as they enter the merge
    norms : per module (T, in), column norms as trained
    separated : the same after all plug-ins but decouple, whose strength thus stays free; after decouple too where its
        options go beyond what column norms tell (`merging.plugins.decouple.Decouple.follows_strength`)
    alive : which columns of these decouple takes for more than round-off
    conflict, lost : (M,), see `merging.diagnostics.measures.sign_conflict`, of what enters, weights included
    singular_values : [module][adapter], of what enters
    """

    linear: str
    grams: Grams
    merge: MergeGrams
    before: Pairs
    after: Pairs
    norms: tuple[Array, ...]
    separated: tuple[Array, ...]
    alive: tuple[np.ndarray[Any, np.dtype[np.bool_]], ...]
    conflict: Array
    lost: Array
    singular_values: tuple[tuple[Array, ...], ...]


def diagnose(
    adapters: Sequence[Adapter],
    merged: Merged,
    separated: Updates,
    features: Features | None = None,
    model: nn.Module | None = None,
    known: Known | None = None,
) -> Diagnosis:
    """Take all diagnostics of a merge at scaling 1.

    Parameters
    ----------
    merged : at scaling 1, of these adapters in this order
    separated : the updates whose column norms are wanted, see `Diagnosis`
    features, model : for what is measured on data, and relative to the base's own output
    known : what does not depend on method and weights, from `know`; None = computed here
    """
    known = known or know(adapters, merged.updates, features, model)
    named = _with(adapters, merged.updates, merged.weights)
    signs = sign_conflict(named)
    norms = _norms(separated, known.grams.modules)
    return Diagnosis(
        linear=merged.method.linear,
        grams=known.grams,
        merge=_merge_grams(merged, known.grams.modules, features),
        before=known.before,
        after=known.after,
        norms=_norms([dict(adapter.deltas) for adapter in adapters], known.grams.modules),
        separated=norms,
        alive=tuple(alive_columns(torch.from_numpy(each)).numpy() for each in norms),
        conflict=signs.conflict.to_numpy(),
        lost=signs.lost.to_numpy(),
        singular_values=known.singular_values,
    )


@dataclass(frozen=True, eq=False)
class Known:
    """The part of a diagnosis that depends on the adapters, the plug-ins and the texts only: kept while method and
    weights change.
    """

    grams: Grams
    before: Pairs
    after: Pairs
    singular_values: tuple[tuple[Array, ...], ...]


def know(
    adapters: Sequence[Adapter], updates: Updates, features: Features | None = None, model: nn.Module | None = None
) -> Known:
    """Return what `diagnose` needs of the updates that enter a merge."""
    found = grams(adapters, updates, features, model)
    plugged = _with(adapters, updates, None)
    values = tuple(
        tuple(np.zeros(0) if (u := deltas.get(module)) is None else u.svd()[1].numpy() for deltas in updates)
        for module in found.modules
    )
    return Known(found, _pairs(list(adapters), found.modules), _pairs(plugged, found.modules), values)


def _with(adapters: Sequence[Adapter], updates: Updates, weights: Sequence[object] | None) -> list[Adapter]:
    """Return the adapters with these updates, times their weights where those are numbers."""
    factors = [w if isinstance(w, float | int) else 1.0 for w in weights] if weights else [1.0] * len(adapters)
    return [
        replace(adapter, deltas={module: update * factor for module, update in deltas.items()})
        for adapter, deltas, factor in zip(adapters, updates, factors, strict=True)
    ]


def _pairs(adapters: Sequence[Adapter], modules: Sequence[str]) -> Pairs:
    names = [adapter.name for adapter in number_equal_names(list(adapters))]
    place = {name: i for i, name in enumerate(names)}
    row = {module: m for m, module in enumerate(modules)}
    found = []
    for side in ("A", "B"):
        table = subspace_overlap(adapters, side)
        values = np.full((len(modules), len(names), len(names)), np.nan)
        values[table.module.map(row), table.adapter_a.map(place), table.adapter_b.map(place)] = table.overlap
        found.append(values)
    table = cosines(adapters)
    cosine = np.full((len(modules), len(names), len(names)), np.nan)
    places = table.module.map(row), table.adapter_a.map(place), table.adapter_b.map(place)
    cosine[places] = table.cosine
    cosine[places[0], places[2], places[1]] = table.cosine
    return Pairs(found[0], found[1], cosine)


def _norms(updates: Updates, modules: Sequence[str]) -> tuple[Array, ...]:
    norms = []
    for module in modules:
        present = [deltas.get(module) for deltas in updates]
        width = next(u.shape[1] for u in present if u is not None)
        rows = [torch.zeros(width, dtype=torch.float64) if u is None else u.column_norms().double() for u in present]
        norms.append(torch.stack(rows).numpy())
    return tuple(norms)


def _merge_grams(merged: Merged, modules: Sequence[str], features: Features | None) -> MergeGrams:
    if "task_id" not in merged.needs:
        return merge_grams(merged.adapters, modules, merged.result, features)
    # every task has a merge of its own: each is compared with its own adapter only
    own = [merge_grams([a], modules, merged.for_task(a.task).result, features) for a in merged.adapters]
    return MergeGrams(
        square=np.mean([each.square for each in own], axis=0),
        across=np.concatenate([each.across for each in own], axis=1),
        data=np.concatenate([each.data for each in own], axis=1) if features is not None else None,
        data_across=np.concatenate([each.data_across for each in own], axis=1) if features is not None else None,
        singular_values=(),
    )
