"""Workbench: the shipped pools and what the app asks of them. Caches over pure functions; sessions share it
read-only."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from ..adapters.adapter import Adapter
from ..diagnostics.compatibility import compatibility
from ..diagnostics.leave_out import Step, leave_one_adapter_out, leave_one_layer_out, merging_with
from ..diagnostics.linked import Diagnosis, Known, diagnose, know
from ..diagnostics.measures import chance_overlap, log_column_norms, magnitude_variance, subspace_overlap
from ..engine import merge_spec, plugged
from ..errors import MergeError
from ..evaluation.accuracy import EncodedTask, Estimate, encode_task, estimate, evaluate, own_head
from ..evaluation.intervals import Recovered, gap_recovered
from ..experiments.sweep import ALONE, BASE, CONTENDERS, averages, best_scalings, marks_of, read_table, unpacked
from ..features.moments import Features
from ..features.progress import READ_LENGTH, Progress
from ..features.store import TextsOf
from ..io.assets import assets_folder
from ..merged import Merged
from ..methods import METHODS
from ..models.apply import add_update, check_fits
from ..models.embedded import EMBEDDED
from ..models.layers import linear_layers, working_copy
from ..models.shared import Bases
from ..plugins.base import Updates
from ..plugins.decouple import Decouple, decouple
from ..plugins.orthogonalize import Orthogonalize, nudges
from ..plugins.soft_osrm import SoftOSRM
from ..recipes.recipe import Recipe
from ..recipes.spec import MergeSpec
from ..shipped import SHIPPED, load_pool
from ..tasks.embedded import SOURCES
from ..tasks.task import DEFAULT_TASKS
from .lab import Lab
from .memory import trim
from .per_pool import P, PerPool, T
from .settings import Settings

KEPT_POOLS = 64
"""Pools of visitors that are kept; the oldest goes."""
FALLBACK_SCALING = 0.5
PLAIN = "task_arithmetic"
"""The plain sum, by which a pool's hardness is told."""
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


@dataclass(frozen=True)
class OwnPool:
    """A set of adapters that a visitor trained or brought along: {task: folder}, and whose texts belong to them.

    Attributes
    ----------
    measured : False if nobody said what their tasks are: they can be merged and written, but no text belongs to them
    """

    title: str
    folders: dict[str, str]
    texts: TextsOf
    measured: bool = True


class Workbench:
    """The shipped pools and those of visitors, their bases and tasks, and measurements on them.

    Nothing heavy happens before it is asked for. Every evaluation runs on its own copy of the layers that it changes.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or assets_folder()
        self.tables = self.root / "tables"
        present = [name for name in SHIPPED if load_names(self.root / "adapters" / name)]
        self.pools = {name: SHIPPED[name].title for name in present}
        self.bases = Bases()
        self._own: dict[str, OwnPool] = {}
        self.lab = Lab(self.base, self._base_reader, self._trained)
        # caches belong to the instance, so that a second workbench (another folder) does not share them
        self._caches: list[PerPool[..., Any]] = []
        self.adapters = self._per_pool(self._adapters)
        self.references = self._per_pool(self._references)
        self.overlaps = self._per_pool(self._overlaps)
        self._pool_warnings = self._per_pool(lambda pool: compatibility(self.published(pool)).warnings)
        self.sweep = self._per_pool(self._sweep)
        self._known_tests = self._per_pool(self._tests)
        self.defaults = self._per_pool(self._defaults, 1024)
        # the updates after the plug-ins, of settings that a moving slider comes back to
        self._separated = self._per_pool(self._orthogonalized, 32)
        self._updates = self._per_pool(self._decoupled, 32)
        self._described = self._per_pool(self._describe, 32)
        self._known = self._per_pool(self._know, 16)
        self._tokenised = self._per_pool(self._encoded)

    def _per_pool(self, function: Callable[P, T], largest: int = KEPT_POOLS) -> PerPool[P, T]:
        cache = PerPool(function, largest)
        self._caches.append(cache)
        return cache

    @property
    def device(self) -> str:
        """Where evaluation runs, for people."""
        if torch.cuda.is_available():
            return f"GPU · {torch.cuda.get_device_name()}"
        return f"CPU · {os.cpu_count()} cores"

    def base(self, source: str = "minilm", dtype: str = "float32") -> tuple[nn.Module, Any]:
        """Return (base model, tokenizer), loaded once and put on the GPU where there is one."""
        base = self.bases.get(source, dtype)
        return base.model, base.tokenizer

    def _base_reader(self, source: str, dtype: str) -> tuple[nn.Module, Any]:
        """Return (base model on the CPU, tokenizer), for reading texts."""
        base = self.bases.get(source, dtype)
        return base.reader, base.tokenizer

    def base_of(self, pool: str) -> tuple[str, str]:
        """Return (source, dtype) of the base that a pool's adapters belong to."""
        if pool in self.pools:
            return SHIPPED[pool].base, "float32"
        texts = self._own_pool(pool).texts
        return texts.base, texts.dtype

    def base_title(self, pool: str) -> str:
        """Return the name of a pool's base for people."""
        source, _ = self.base_of(pool)
        return EMBEDDED[source].title if source in EMBEDDED else source.rstrip("/").rsplit("/", 1)[-1]

    def _trained(self, task: str) -> Adapter | None:
        """Return the first pool's adapter of a task, if it has one."""
        pool = next(iter(self.pools), None)
        return next((a for a in self.adapters(pool) if a.task == task), None) if pool else None

    def warm_up(self, settings: Settings) -> None:
        """Load and compute what the first look at ``settings`` and their evaluation need."""
        self.update(settings)
        for task in self.tasks(settings.pool):
            self.encoded(settings.pool, task, "test")

    # -- pools ---------------------------------------------------------------------------------------------------------

    def add_pool(self, key: str, title: str, folders: Mapping[str, str], texts: TextsOf, measured: bool = True) -> None:
        """Make a visitor's own set of adapters {task: folder} a pool under a key that only the visitor knows."""
        self._own[key] = OwnPool(title, dict(folders), texts, measured)
        while len(self._own) > KEPT_POOLS:
            self.remove_pool(next(iter(self._own)))

    def remove_pool(self, key: str) -> None:
        """Forget a pool that was added, with all that was computed of it and read of its visitor's own tasks."""
        own = self._own.pop(key, None)
        tasks = [task for task in own.folders if task not in SOURCES] if own else []
        for cache in self._caches:
            for gone in (key, *tasks):
                cache.forget(gone)
        self.lab.store.forget(tasks)
        trim()

    def _adapters(self, pool: str) -> tuple[Adapter, ...]:
        if pool in self.pools:
            return tuple(load_pool(pool, self.root / "adapters"))
        return tuple(
            Adapter.load(folder, name=task, task=task) for task, folder in self._own_pool(pool).folders.items()
        )

    def published(self, pool: str) -> list[Adapter]:
        """Return a pool's adapters under the names that their owner gave them: none of a session, no path of this
        machine.
        """
        if pool in self.pools:
            return list(self.adapters(pool))
        return [self._published(adapter) for adapter in self.adapters(pool)]

    def _published(self, adapter: Adapter) -> Adapter:
        noted, source = adapter.metadata.get("brought") or {}, adapter.source
        task = self.public_name(adapter.task)
        files = tuple(noted.get("files") or [task])
        origin: str | tuple[str, ...] = files[0] if len(files) == 1 else files
        if source.get("repo"):
            origin = f"{source['repo']}@{source['commit']}" if source.get("commit") else str(source["repo"])
        base = {"base": noted["base"], "base_vouched": True} if noted.get("base") else {}
        return replace(adapter, name=noted.get("name") or task, task=task, origin=origin, **base)

    def public_name(self, task: str) -> str:
        """Return a task's name without the mark of the session that added it."""
        return task if task in SOURCES else self.title(task)

    def _own_pool(self, pool: str) -> OwnPool:
        if pool not in self._own:
            raise MergeError("This set of adapters is no longer kept: train or bring it again, or choose another pool.")
        return self._own[pool]

    def tasks(self, pool: str) -> list[str]:
        """Return the tasks of a pool, in the order of its weights."""
        return [adapter.task for adapter in self.adapters(pool)]

    def title(self, task: str) -> str:
        """Return a task's name for people."""
        return self.lab.title(task)

    def measured(self, pool: str) -> bool:
        """Tell whether the tasks of a pool's adapters are known, so that there are texts to read and to evaluate."""
        return pool in self.pools or self._own_pool(pool).measured

    def modules(self, pool: str) -> list[str]:
        """Return the modules that the pool's adapters change."""
        return sorted({module for adapter in self.adapters(pool) for module in adapter.deltas})

    def _references(self, pool: str) -> pd.DataFrame:
        table = self._known_tests(pool)
        base, alone = ({r.task: unpacked(r) for r in table[table.method == end].itertuples()} for end in (BASE, ALONE))
        rows: list[tuple[Any, ...]] = []
        for adapter in self.adapters(pool):
            nan, own = float("nan"), dict(adapter.metadata.get("test_marks") or {})
            marks = base.get(adapter.task, own.get("base", "")), alone.get(adapter.task, own.get("adapter", ""))
            measured = dict.fromkeys(("base", "adapter"), nan)
            if self.measured(pool):
                measured = adapter.metadata["test_accuracy"]
            count = adapter.metadata["rows"]["test"] if self.measured(pool) else 0
            rows.append((adapter.task, measured["base"], measured["adapter"], count, *marks))
        return pd.DataFrame(rows, columns=["task", "base", "single", "rows", "base_marks", "single_marks"])

    def _tests(self, pool: str) -> pd.DataFrame:
        """Return the shipped test results of a pool; empty for one that does not ship."""
        return read_table(self.tables / f"test_{pool}.csv")

    def shipped(self, settings: Settings, limit: int) -> list[Estimate]:
        """Return a merge's accuracy from the shipped test results, if it is in them with enough rows; else nothing."""
        point = _contender(settings.spec.canonical())
        if point is None or settings.pool not in self.pools:
            return []
        table = self._known_tests(settings.pool)
        table = table[(table.method == point[0]) & np.isclose(table.scaling, point[1])]
        marks = {str(row.task): unpacked(row) for row in table.itertuples()}
        sizes = {row.task: row.rows for row in self.references(settings.pool).itertuples()}
        if set(marks) != set(sizes) or any(len(marks[task]) < min(limit, rows) for task, rows in sizes.items()):
            return []
        return [estimate(task, marks[task][:limit]) for task in sizes]

    def hardness(self, pool: str) -> Recovered | None:
        """Return the gap that a plain sum (Task Arithmetic) recovers on test at its best λ; None where it was not
        measured.
        """
        test, validation = self._known_tests(pool), read_table(self.tables / f"sweep_{pool}.csv")
        best = best_scalings(validation).get(PLAIN)
        mine = marks_of(test, PLAIN, best) if best is not None and len(test) else {}
        if not mine:
            return None
        rows = max(len(values) for values in mine.values())
        return gap_recovered(marks_of(test, BASE, rows=rows), marks_of(test, ALONE, rows=rows), mine)

    def help(self, pool: str) -> str:
        """Return what a pool teaches, in a sentence; nothing for a visitor's own."""
        return SHIPPED[pool].help if pool in self.pools else ""

    def starts(self, pool: str) -> set[str]:
        """Return how the A's of a pool's adapters started, as far as they record it: "default", "gaussian", "osrm"
        .."""
        recorded = [adapter.metadata.get("training") for adapter in self.adapters(pool)]
        return {str(training["init"]) for training in recorded if training}

    def _sweep(self, pool: str) -> pd.DataFrame:
        """Return the shipped validation sweep: method, scaling, average, low, high; base and adapters alone are methods
        in it.
        """
        measured = averages(read_table(self.tables / f"sweep_{pool}.csv"))
        return measured[measured.method.isin([*METHODS, BASE, ALONE])]

    def _defaults(self, pool: str, method: str) -> MergeSpec:
        """Return the merge that the app starts a method from: the scaling tuned on validation, else a moderate one."""
        spec = MergeSpec.of(method)
        # None ("as PEFT does") has no place on a slider: show what it means for this pool
        largest = max(update.rank for adapter in self.adapters(pool) for update in adapter.deltas.values())
        params = {name: largest if value is None else value for name, value in spec.params}
        if "scaling" in params:
            params["scaling"] = best_scalings(read_table(self.tables / f"sweep_{pool}.csv")).get(
                method, FALLBACK_SCALING
            )
        return spec.with_params(**params)

    # -- merging -------------------------------------------------------------------------------------------------------

    def _orthogonalized(self, pool: str, soft: SoftOSRM | None, k: int, ortho: Orthogonalize) -> Updates:
        plugins = MergeSpec(PLAIN, soft_osrm=soft, orthogonalize=ortho, k=k)
        return plugged(self.adapters(pool), plugins, self.texts(pool, k) if soft else None)

    def _decoupled(
        self, pool: str, soft: SoftOSRM | None, k: int, ortho: Orthogonalize, magnitude: Decouple
    ) -> Updates:
        return decouple(self._separated(pool, soft, k, ortho), magnitude)

    @staticmethod
    def _plugged_by(settings: Settings) -> tuple[str, SoftOSRM | None, int, Orthogonalize, Decouple]:
        """Return what the updates after the plug-ins depend on."""
        spec = settings.spec
        return settings.pool, spec.soft_osrm, spec.k if spec.soft_osrm else 0, spec.orthogonalize, spec.decouple

    def merged(self, settings: Settings) -> Merged:
        """Merge; what needs texts that nobody has read yet reads them first.

        What does not depend on the moving slider comes from the caches.
        """
        features = self.texts(settings.pool, settings.spec.k) if settings.spec.needs_data else None
        updates = self._updates(*self._plugged_by(settings))
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
        described = self._described(*self._plugged_by(settings), weights)
        notes = [*self._pool_warnings(pool), *described.notes]
        return MergeView(self.recipe(settings), notes, described.magnitude, described.magnitude_variance)

    def _describe(self, *key: Any) -> Described:
        """Return what plug-ins and weights decide, whatever the method and its λ."""
        *plugged_by, weights = key
        updates, adapters = self._updates(*plugged_by), self.adapters(plugged_by[0])
        shown = [
            replace(adapter, deltas={m: u * abs(weight) for m, u in update.items()})
            for adapter, update, weight in zip(adapters, updates, weights, strict=True)
        ]
        magnitude = log_column_norms(shown)[["task", "module", "column", "log10_norm"]]
        _, soft, _, ortho, decoupled = plugged_by
        notes = self._moved(adapters, updates) if soft or ortho.mode != "off" or decoupled.strength else []
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
        pool, soft, k, ortho, magnitude = self._plugged_by(settings)
        known = self._known(pool, soft, k, ortho, magnitude, spec.k if features is not None else None)
        separated = self._separated(pool, soft, k, ortho) if magnitude.follows_strength else merged.updates
        return diagnose(merged.adapters, merged, separated, features, known=known)

    def _know(
        self, pool: str, soft: SoftOSRM | None, k: int, ortho: Orthogonalize, magnitude: Decouple, data_k: int | None
    ) -> Known:
        updates = self._updates(pool, soft, k, ortho, magnitude)
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
        plugins = {"soft_osrm": spec.soft_osrm, "orthogonalize": spec.orthogonalize, "decouple": spec.decouple}
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
        for done, (module, layer) in enumerate(linear_layers(model, merged.modules).items(), 1):
            add_update(layer, merged.result(module))
            yield Progress("merging", done, total)
        heads = {adapter.task: head for adapter in merged.adapters if (head := own_head(adapter)) is not None}
        yield from evaluate(model, tokenizer, None, tasks, heads=heads)


def _contender(spec: MergeSpec) -> tuple[str, float] | None:
    """Return (name in `merging.experiments.sweep.CONTENDERS`, scaling) of a merge that is one of them; None for any
    other.
    """
    scaling = 1.0 if spec.scaling is None else spec.scaling
    for name, contender in CONTENDERS.items():
        if contender.method == spec.method and contender.spec(scaling).canonical() == spec:
            return name, scaling
    return None


def load_names(folder: Path) -> list[str]:
    """Return the tasks that a pool folder holds, or none."""
    return [task for task in DEFAULT_TASKS if (folder / task / "adapter_config.json").exists()]
