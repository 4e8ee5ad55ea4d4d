"""Pools: the shipped sets of adapters and those of visitors, and the bases that they belong to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from ..adapters.adapter import Adapter
from ..errors import MergeError
from ..features.store import TextsOf
from ..io.assets import assets_folder
from ..models.embedded import EMBEDDED
from ..models.shared import FIRST, Bases
from ..shipped import SHIPPED, load_pool
from ..tasks.embedded import SOURCES
from ..tasks.task import DEFAULT_TASKS
from .governor import Governor, Kept, owner_of
from .held import buffers_of
from .lab import Lab
from .limits import LIMITS
from .memory import trim
from .per_pool import P, PerPool, T


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


class Pools:
    """The shipped pools and those of visitors, with their bases and tasks; sessions share them read-only."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or assets_folder()
        self.tables = self.root / "tables"
        present = [name for name in SHIPPED if load_names(self.root / "adapters" / name)]
        self.pools = {name: SHIPPED[name].title for name in present}
        self.bases = Bases(LIMITS.bases, LIMITS.base_bytes)
        self.governor = Governor(self.kept, lambda visitor: visitor.leave(self))
        self._own: dict[str, OwnPool] = {}
        self.lab = Lab(self.base, self._base_reader, self._trained, self.governor.admit)
        # caches belong to the instance, so that a second workbench (another folder) does not share them
        self._caches: list[PerPool[..., Any]] = []
        self.adapters = self._per_pool(self._adapters)

    def _per_pool(
        self, function: Callable[P, T], largest: int = LIMITS.own_pools, size: Callable[[T], int] = lambda value: 1
    ) -> PerPool[P, T]:
        cache = PerPool(function, largest, size)
        self._caches.append(cache)
        return cache

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

    def add_pool(self, key: str, title: str, folders: Mapping[str, str], texts: TextsOf, measured: bool = True) -> None:
        """Make a visitor's own set of adapters {task: folder} a pool under a key that only the visitor knows."""
        self._own[key] = OwnPool(title, dict(folders), texts, measured)
        while len(self._own) > LIMITS.own_pools:
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
        noted, source = adapter.metadata.brought, adapter.source
        task = self.public_name(adapter.task)
        files = noted.files if noted and noted.files else (task,)
        origin: str | tuple[str, ...] = files[0] if len(files) == 1 else files
        if source.get("repo"):
            origin = f"{source['repo']}@{source['commit']}" if source.get("commit") else str(source["repo"])
        if noted and noted.base:
            adapter = replace(adapter, base=noted.base, base_vouched=True)
        return replace(adapter, name=noted.name if noted else task, task=task, origin=origin)

    def public_name(self, task: str) -> str:
        """Return a task's name without the mark of the session that added it."""
        return task if task in SOURCES else self.title(task)

    def kept(self) -> Iterator[Kept]:
        """Yield what is kept of pools, texts and bases, for the governor."""
        for cache in self._caches:
            yield from cache.kept()
        store = self.lab.store
        for read, used, features in store.kept():
            owner = next(filter(None, map(owner_of, read[0].tasks)), "")
            yield Kept(owner, used, buffers_of(features), partial(store.drop, read))
        yield Kept("", 0.0, {id(store.moments): store.moments.nbytes})
        for key, used, base in self.bases.all():
            yield Kept("", used, buffers_of(base), partial(self.bases.drop, key) if key != FIRST else None)
        for owner, task in self.lab.owned():
            yield Kept(owner, 0.0, buffers_of(task))

    def _own_pool(self, pool: str) -> OwnPool:
        self.governor.touch(owner_of(pool))
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

    def help(self, pool: str) -> str:
        """Return what a pool teaches, in a sentence; nothing for a visitor's own."""
        return SHIPPED[pool].help if pool in self.pools else ""

    def starts(self, pool: str) -> set[str]:
        """Return how the A's of a pool's adapters started, as far as they record it: "default", "gaussian", "osrm"
        .."""
        recorded = [adapter.metadata.training for adapter in self.adapters(pool)]
        return {str(training["init"]) for training in recorded if training}


def load_names(folder: Path) -> list[str]:
    """Return the tasks that a pool folder holds, or none."""
    return [task for task in DEFAULT_TASKS if (folder / task / "adapter_config.json").exists()]
