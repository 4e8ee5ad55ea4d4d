"""merge(): checks, plug-ins and weights around one merging method."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from .adapters.adapter import Adapter, number_equal_names
from .adapters.same_base import problems_of
from .errors import MergeError
from .features.moments import Features
from .merged import Merged
from .plugins.base import Updates
from .plugins.decouple import Decouple, decouple
from .plugins.norm_cap import norm_cap as capped
from .plugins.orthogonalize import Orthogonalize, orthogonalize
from .plugins.pico import pico as calmed
from .plugins.soft_osrm import SoftOSRM, soft_osrm
from .recipes.recipe import Recipe
from .recipes.spec import MergeSpec, Weight, checked_weight

OnModule = Callable[[str, Tensor, int, int], None]


def merge(
    adapters: Sequence[Adapter],
    method: str,
    weights: Sequence[Weight] | None = None,
    seed: int = 0,
    features: Features | None = None,
    on_module: OnModule | None = None,
    soft_osrm: float | SoftOSRM | None = None,
    orthogonalize: str | Orthogonalize | None = None,
    decouple: float | Decouple | None = None,
    norm_cap: float | None = None,
    pico: bool = False,
    **params: Any,
) -> Merged:
    """Merge LoRA adapters of one base model.

    Order: soft OSRM, orthogonalize, Pico, norm cap, decouple, then the weights, then the method.

    Parameters
    ----------
    adapters : their order never changes the result
    method : a name in `merging.METHODS`
    weights : one per adapter: a number, or {module pattern: number} (shell patterns on full module names, the first
        match counts, 1 where none does); None = 1 each
    seed : of the random masks of methods that have some
    features : second moments of the tasks' texts, for what needs data
    on_module : ``on_module(name, delta, done, total)`` gets every dense (out, in) result in turn, which is not kept;
        raising `Cancelled` from it stops the merge
    soft_osrm : None (off), mu, or SoftOSRM(mu, ridge)
    orthogonalize : None (the method's own), "off", "balanced", "raw", or Orthogonalize(mode, penalty, steps)
    decouple : None (the method's own), a strength from 0 to 1, or Decouple(strength, granularity, max_up, renormalise)
    norm_cap : None (off), or how many MADs above the adapters' median norm an update is capped, 3 as published
    pico : whether the output directions that adapters share are damped
    **params : the method's parameters, see ``METHODS[method].params``

    Raises
    ------
    MergeError
        For incompatible adapters, an unknown method or parameter, a value out of range, missing data.
    """
    if isinstance(adapters, Adapter):
        raise MergeError("merge takes a list of adapters, also for a single one.")
    if isinstance(weights, Sequence) and not isinstance(weights, str):
        if len(weights) != len(adapters):
            raise MergeError(f"{len(weights)} weights for {len(adapters)} adapters: give one each.")
        weights = [checked_weight(w, f"the weight of {a.name}") for a, w in zip(adapters, weights, strict=True)]
    spec = MergeSpec.of(method, params, soft_osrm, orthogonalize, decouple, weights, seed, norm_cap=norm_cap, pico=pico)
    return merge_spec(adapters, spec, features, on_module)


def merge_spec(
    adapters: Sequence[Adapter],
    spec: MergeSpec,
    features: Features | None = None,
    on_module: OnModule | None = None,
    updates: Updates | None = None,
) -> Merged:
    """Merge as `merge` does, from a merge that is one value.

    Parameters
    ----------
    features : of at least ``spec.k`` texts per task, where ``spec.needs_data``; they decide how many are looked at
    updates : what `plugged` made of these adapters and these plug-ins, by who keeps it

    Raises
    ------
    MergeError
        See `merge`.
    """
    adapters = list(adapters)
    _require_compatible(adapters)
    spec.check()
    _check_patterns(adapters, spec)
    if features is None and spec.needs_data:
        raise MergeError(
            f"{'soft_osrm' if spec.soft_osrm else spec.method} needs data: give features=collect_features(..)."
        )
    if features is not None and spec.needs_data:
        spec = replace(spec, k=features.k)
    merged = Merged(adapters, spec, features, plugged(adapters, spec, features) if updates is None else updates)
    if on_module is not None:
        for done, module in enumerate(merged.modules, 1):
            on_module(module, merged.delta(module), done, len(merged.modules))
    return merged


def merge_recipe(recipe: Recipe, features: Features | None = None) -> Merged:
    """Do the merge of a recipe with the adapters that it names, see `merging.recipes.recipe.Recipe.load_adapters`."""
    return merge_spec(recipe.load_adapters(), recipe.spec, features)


def plugged(adapters: Sequence[Adapter], spec: MergeSpec, features: Features | None) -> Updates:
    """Return the adapters' updates after the plug-ins of ``spec``."""
    updates: Updates = [dict(adapter.deltas) for adapter in adapters]
    if spec.soft_osrm is not None and features is not None:
        updates = soft_osrm(updates, features, [adapter.task for adapter in adapters], spec.soft_osrm)
    if spec.orthogonalize.mode != "off":
        updates = orthogonalize(updates, spec.orthogonalize)
    if spec.pico:
        updates = calmed(updates)
    return decouple(capped(updates, spec.norm_cap), spec.decouple)


def _require_compatible(adapters: Sequence[Adapter]) -> None:
    if not adapters:
        raise MergeError("No adapters given: a merge needs at least one.")
    empty = [adapter.name for adapter in adapters if not adapter.deltas]
    if empty:
        raise MergeError(f"{empty[0]} has no updates: leave it out.")
    problems = problems_of(number_equal_names(list(adapters)))
    if problems:
        raise MergeError(problems[0])


def _check_patterns(adapters: Sequence[Adapter], spec: MergeSpec) -> None:
    for adapter, weight in zip(adapters, spec.weights_for(len(adapters)), strict=True):
        for pattern in weight if isinstance(weight, Mapping) else ():
            if pattern not in adapter.deltas and not fnmatch.filter(adapter.deltas, pattern):
                raise MergeError(f"The weight pattern {pattern!r} matches no module of {adapter.name}.")
