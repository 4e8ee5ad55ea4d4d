"""Workbench: the shipped pools and what the app asks of them. Caches over pure functions; sessions share it
read-only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from ..adapters.adapter import Adapter
from ..diagnostics.compatibility import compatibility
from ..diagnostics.leave_out import Step, leave_one_adapter_out, leave_one_layer_out, merging_with
from ..diagnostics.linked import Diagnosis, Known, diagnose, know
from ..diagnostics.measures import chance_overlap, log_column_norms, magnitude_variance, subspace_overlap
from ..engine import merge_spec, plugged
from ..errors import MergeError
from ..evaluation.accuracy import EncodedTask, Estimate, encode_task, evaluate, own_head
from ..features.moments import Features
from ..features.progress import READ_LENGTH, Progress
from ..features.store import TextsOf
from ..merged import Merged
from ..models.apply import add_update, check_fits
from ..models.layers import linear_layers, working_copy
from ..plugins import PLUGINS
from ..plugins.base import Updates
from ..plugins.decouple import decouple
from ..plugins.orthogonalize import nudges
from ..recipes.recipe import Recipe
from ..recipes.spec import NOT_DECOUPLED, MergeSpec
from .doctor import device_title
from .results import Results
from .settings import Settings

NO_TEXTS = (
    "needs texts of the tasks, and these adapters were opened without tasks: give each its task on the Adapters tab."
)


@dataclass(frozen=True, eq=False)
class MergeView:
    """What a merge shows before it is evaluated.

    Attributes
    ----------
    magnitude : task, module, column, log10_norm (after plug-ins and weights); None until the texts that soft OSRM needs
        are read
    magnitude_variance : module, variance, norm_ratio (likewise)
    """

    recipe_yaml: str
    notes: list[str]
    magnitude: pd.DataFrame | None
    magnitude_variance: pd.DataFrame | None


@dataclass(frozen=True, eq=False)
class Described:
    """The part of a `MergeView` that neither the method nor its λ changes."""

    magnitude: pd.DataFrame
    magnitude_variance: pd.DataFrame
    notes: list[str]


class Workbench(Results):
    """The shipped pools and those of visitors, their bases and tasks, and measurements on them.

    Nothing heavy happens before it is asked for. Every evaluation runs on its own copy of the layers that it changes.
    """

    def __init__(self, root: Path | None = None) -> None:
        super().__init__(root)
        self.overlaps = self._per_pool(self._overlaps)
        self._pool_warnings = self._per_pool(lambda pool: compatibility(self.published(pool)).warnings)
        # the updates after the plug-ins, of settings that a moving slider comes back to
        self._separated = self._per_pool(self._before_decouple, 32)
        self._updates = self._per_pool(self._decoupled, 32)
        self._described = self._per_pool(self._describe, 32)
        self._known = self._per_pool(self._know, 16)
        self._tokenised = self._per_pool(self._encoded)

    @property
    def device(self) -> str:
        """Where evaluation runs, for people."""
        return device_title()

    def warm_up(self, settings: Settings) -> None:
        """Load and compute what the first look at ``settings`` and their evaluation need."""
        self.update(settings)
        for task in self.tasks(settings.pool):
            self.encoded(settings.pool, task, "test")

    # -- merging -------------------------------------------------------------------------------------------------------

    def _before_decouple(self, pool: str, plugins: MergeSpec) -> Updates:
        return plugged(self.adapters(pool), plugins, self.texts(pool, plugins.k) if plugins.soft_osrm else None)

    def _decoupled(self, pool: str, plugins: MergeSpec) -> Updates:
        return decouple(self._separated(pool, replace(plugins, decouple=NOT_DECOUPLED)), plugins.decouple)

    def merged(self, settings: Settings) -> Merged:
        """Merge; what needs texts that nobody has read yet reads them first.

        What does not depend on the moving slider comes from the caches.
        """
        features = self.texts(settings.pool, settings.spec.k) if settings.spec.needs_data else None
        updates = self._updates(settings.pool, settings.spec.plug_ins)
        return merge_spec(self.adapters(settings.pool), settings.spec, features, updates=updates)

    def merged_for_others(self, settings: Settings) -> Merged:
        """Return the merge with the names of `published`, for files that leave this machine."""
        merged = self.merged(settings)
        names = {task: self.public_name(task) for task in self.tasks(settings.pool)}
        features = merged.features.renamed(names) if merged.features is not None else None
        return replace(merged, adapters=self.published(settings.pool), features=features)

    def recipe(self, settings: Settings) -> str:
        """Return the recipe of a merge, before any text has been read."""
        return Recipe.of(settings.spec, self.published(settings.pool)).to_yaml()

    def update(self, settings: Settings) -> MergeView:
        """Describe the merge; milliseconds where only λ, weights or strength moved.

        No text is read here: what soft OSRM changes is left out until `read` has been through.
        """
        pool, soft = settings.pool, settings.spec.soft_osrm
        if soft and not self.measured(pool):
            raise MergeError(f"Soft OSRM {NO_TEXTS}")
        if soft and not self.texts_read(settings):
            waiting = "Soft OSRM reads training texts first; the magnitudes follow."
            return MergeView(self.recipe(settings), [*self._pool_warnings(pool), waiting], None, None)
        weights = settings.spec.weights_for(len(self.adapters(pool)))
        described = self._described(pool, settings.spec.plug_ins, weights)
        notes = [*self._pool_warnings(pool), *described.notes]
        return MergeView(self.recipe(settings), notes, described.magnitude, described.magnitude_variance)

    def _describe(self, pool: str, plugins: MergeSpec, weights: Sequence[Any]) -> Described:
        """Return what plug-ins and weights decide, whatever the method and its λ."""
        updates, adapters = self._updates(pool, plugins), self.adapters(pool)
        shown = [
            replace(adapter, deltas={m: u * abs(weight) for m, u in update.items()})
            for adapter, update, weight in zip(adapters, updates, weights, strict=True)
        ]
        magnitude = log_column_norms(shown)[["task", "module", "column", "log10_norm"]]
        notes = self._moved(adapters, updates) if plugins.plugged else []
        return Described(magnitude, magnitude_variance(shown), notes)

    def _moved(self, adapters: Sequence[Adapter], updates: Updates) -> list[str]:
        moved = dict(zip((a.task for a in adapters), nudges([a.deltas for a in adapters], updates), strict=True))
        most = max(moved, key=moved.__getitem__)
        return [
            f"The plug-ins moved the adapters by {min(moved.values()):.0%} to {moved[most]:.0%} of their norm, "
            f"{self.title(most)} most."
        ]

    # -- measurements --------------------------------------------------------------------------------------------------

    def _overlaps(self, pool: str, side: str) -> pd.DataFrame:
        return subspace_overlap(self.adapters(pool), side)

    def overlap(self, settings: Settings, side: str, modules: list[str]) -> tuple[pd.DataFrame, float]:
        """Return (adapter_a, adapter_b, overlap averaged over ``modules``; the chance level)."""
        frame = self.overlaps(settings.pool, side)
        mean = frame[frame.module.isin(modules)].groupby(["adapter_a", "adapter_b"], sort=False).overlap.mean()
        return mean.reset_index(), chance_overlap(self.adapters(settings.pool), side)

    def diagnosis(self, settings: Settings) -> Diagnosis:
        """Return all diagnostics of a merge; those on data only once `read_moments` has been through."""
        spec = settings.spec
        features = self.texts(settings.pool, spec.k) if self.texts_read(settings) else None
        if spec.needs_data and features is None:
            raise MergeError("This merge needs texts that nobody has read yet.")
        unscaled = replace(settings, spec=spec.with_params(scaling=1.0)) if spec.scaling is not None else settings
        merged = self.merged(unscaled)
        pool, plugins = settings.pool, spec.plug_ins
        known = self._known(pool, plugins, spec.k if features is not None else None)
        before = replace(plugins, decouple=NOT_DECOUPLED)
        separated = self._separated(pool, before) if spec.decouple.follows_strength else merged.updates
        return diagnose(merged.adapters, merged, separated, features, known=known)

    def _know(self, pool: str, plugins: MergeSpec, data_k: int | None) -> Known:
        updates = self._updates(pool, plugins)
        features = self.texts(pool, data_k) if data_k else None
        reader = self._base_reader(*self.base_of(pool))[0] if data_k else None
        return know(self.adapters(pool), updates, features, reader)

    @cached_property
    def _rank_curves(self) -> pd.DataFrame:
        return pd.read_csv(self.tables / "rank_curves.csv")

    def leave_out(self, settings: Settings, part: str, limit: int) -> Iterator[Step]:
        """Leave each adapter or each layer out in turn, on the first ``limit`` test rows of each task.

        Parameters
        ----------
        part : "adapter" or "layer"
        """
        pool, spec = settings.pool, settings.spec
        if not self.measured(pool):
            raise MergeError(f"Leaving one out {NO_TEXTS}")
        adapters = self.adapters(pool)
        features = self.texts(pool, spec.k) if spec.needs_data else None
        plugins = {name: getattr(spec, name) for name in PLUGINS}
        options = {**plugins, **spec.values, "seed": spec.seed, "features": features}
        merge_of = merging_with(adapters, spec.method, spec.weights_for(len(adapters)), **options)
        base, tokenizer = self.base(*self.base_of(pool))
        tasks = [self.encoded(pool, adapter.task, "test").first(limit) for adapter in adapters]
        measure = {"adapter": leave_one_adapter_out, "layer": leave_one_layer_out}[part]
        yield from measure(working_copy(base, self.modules(pool)), tokenizer, adapters, merge_of, tasks)

    def rank_curve(self, pool: str, task: str, module: str, k: int) -> pd.DataFrame:
        """Return k, rank, energy_rank of a module's inputs on a task's training texts, up to ``k`` texts (shipped
        table).
        """
        table = self._rank_curves
        layer_input = table[(table.task == task) & (table.module == module) & (table.k <= k)]
        return layer_input[["k", "rank", "energy_rank"]].reset_index(drop=True)

    # -- features ------------------------------------------------------------------------------------------------------

    def read(self, settings: Settings) -> Iterator[Progress]:
        """Load the base and read the texts that a merge needs, as far as nobody has; closing the iterator stops between
        two batches.
        """
        if not self.bases.loaded(*self.base_of(settings.pool)):
            # here, and not first where a GPU is only borrowed
            yield Progress("loading", 0, 1)
            self.base(*self.base_of(settings.pool))
            yield Progress("loading", 1, 1)
        if settings.spec.needs_data:
            if not self.measured(settings.pool):
                raise MergeError(f"{settings.spec.data_user} {NO_TEXTS}")
            yield from self.read_moments(settings)

    def read_moments(self, settings: Settings) -> Iterator[Progress]:
        """Read the texts of a pool's tasks, as far as nobody has, whether the merge needs them or only its
        diagnosis."""
        if self.texts_read(settings) or not self.measured(settings.pool):
            return
        for step in self.lab.store.reading(self._texts_of(settings.pool), settings.spec.k):
            yield Progress("reading", *step)

    def texts_read(self, settings: Settings) -> bool:
        """Tell whether the texts that a merge of this pool, or its diagnosis, may need have been read."""
        if not self.measured(settings.pool):
            return False
        return self.lab.store.ready(self._texts_of(settings.pool), settings.spec.k)

    def _texts_of(self, pool: str) -> TextsOf:
        """Return whose texts a pool's methods and diagnostics read; pools of the same tasks and modules share them."""
        if pool not in self.pools:
            return self._own_pool(pool).texts
        return TextsOf(tuple(self.tasks(pool)), tuple(self.modules(pool)), *self.base_of(pool), READ_LENGTH)

    def texts(self, pool: str, k: int) -> Features:
        """Return the features of the first ``k`` texts of each of a pool's tasks."""
        return self.lab.store.features(self._texts_of(pool), k)

    # -- evaluation ----------------------------------------------------------------------------------------------------

    def encoded(self, pool: str, task: str, split: str) -> EncodedTask:
        """Return a split of a task as the pool's base reads it, tokenised once."""
        return self._tokenised(task, split, *self.base_of(pool))

    def _encoded(self, task: str, split: str, source: str, dtype: str) -> EncodedTask:
        return encode_task(self.base(source, dtype)[1], self.lab.task(task), split)

    def evaluate(self, settings: Settings, limit: int, split: str = "test") -> Iterator[Progress | Estimate]:
        """Yield how far reading and merging are, then estimates, task after task in turn.

        Closing the iterator stops between two batches or modules.
        """
        if not self.measured(settings.pool):
            raise MergeError(f"An evaluation {NO_TEXTS}")
        yield from self.read(settings)
        merged = self.merged(settings)
        total = len(merged.modules)
        yield Progress("merging", 0, total)
        base, tokenizer = self.base(*self.base_of(settings.pool))
        tasks = [self.encoded(settings.pool, task, split).first(limit) for task in self.tasks(settings.pool)]
        model = working_copy(base, merged.modules)
        if "task_id" in merged.needs or merged.parts:  # other weights for each task, or more than the modules' updates
            yield from evaluate(model, tokenizer, merged, tasks)
            return
        for adapter in merged.adapters:
            check_fits(model, {m: u.shape for m, u in adapter.deltas.items()}, adapter.base_fingerprint)
        for done, (module, layer) in enumerate(linear_layers(model, merged.modules, True).items(), 1):
            add_update(layer, merged.result(module))
            yield Progress("merging", done, total)
        heads = {adapter.task: head for adapter in merged.adapters if (head := own_head(adapter)) is not None}
        yield from evaluate(model, tokenizer, None, tasks, heads=heads)
