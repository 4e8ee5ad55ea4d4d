"""What a merge gives, module by module, from the updates after the plug-ins."""

from __future__ import annotations

import fnmatch
import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor

from .adapters.adapter import Adapter, number_equal_names
from .adapters.lowrank import LowRank
from .errors import MergeError
from .features.moments import Features
from .methods import METHODS, Method, Stack
from .methods.base import Result
from .plugins.base import Updates, modules_of
from .plugins.orthogonalize import nudges
from .recipes.spec import MergeSpec, Weight


@dataclass(eq=False)
class ModuleResults:
    """Merged updates of modules. Low-rank ones are computed once and kept; dense ones when they are asked for.

    Attributes
    ----------
    adapters : list of Adapter, as given
    spec : MergeSpec, defaults filled in
    updates : after the plug-ins, one {module: LowRank} per adapter
    task : whose merge it is, for a method that has one per task
    """

    adapters: list[Adapter]
    spec: MergeSpec
    features: Features | None
    updates: Updates = field(repr=False)
    task: str | None = None
    _results: dict[str, LowRank] = field(default_factory=dict, repr=False)
    _prepared: Mapping[str, Any] | None = field(default=None, repr=False)

    @property
    def method(self) -> Method:
        """The method."""
        return METHODS[self.spec.method]

    @property
    def weights(self) -> tuple[Weight, ...]:
        """One per adapter: a number, or {module pattern: number}."""
        return self.spec.weights_for(len(self.adapters))

    @cached_property
    def modules(self) -> list[str]:
        """Names of all modules that any adapter changes, sorted."""
        return modules_of(self.updates)

    @property
    def needs(self) -> frozenset[str]:
        """What the method needs: "data", "task_id"."""
        return self.method.needs

    @cached_property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """{module: (out, in)}."""
        return {module: update.shape for updates in self.updates for module, update in updates.items()}

    def result(self, module: str) -> Result:
        """Return the merged update of ``module``: LowRank where the method is exactly low-rank, else dense float32.

        Raises
        ------
        MergeError
            If no adapter has the module, or the method needs a task first (`for_task`).
        """
        if module in self._results:
            return self._results[module]
        if module not in self.shapes:
            raise MergeError(f"No adapter changes a module {module!r}.")
        if "task_id" in self.needs and self.task is None:
            raise MergeError(f"{self.method.name} has one result per task: choose one with for_task(task).")
        if self.method.prepare is not None and self._prepared is None:
            self._prepared = self.method.prepare(self._stacks, **self.spec.values)
        extra = dict(self._prepared or {})
        if self.task is not None:
            extra["task"] = self.task
        result = self.method.function(self._stack(module), **self.spec.values, **extra)
        if isinstance(result, LowRank):
            self._results[module] = result
        return result

    def delta(self, module: str) -> Tensor:
        """Return the merged update of ``module``, dense (out, in), float32 (the factors' dtype if that is float64)."""
        result = self.result(module)
        return result.dense() if isinstance(result, LowRank) else result

    def for_task(self, task: str) -> Self:
        """Return the merge as it acts on one task (for EMR; every other method acts the same on all).

        Raises
        ------
        MergeError
            If no adapter, or more than one, is of that task.
        """
        count = sum(adapter.task == task for adapter in self.adapters)
        if count != 1:
            tasks = ", ".join(adapter.task for adapter in self.adapters)
            raise MergeError(f"{count or 'no'} adapters are of the task {task!r}; there are {tasks}.")
        if "task_id" not in self.needs:
            return self
        return replace(self, task=task, _results={})

    def nudges(self) -> dict[str, float]:
        """Return {adapter: ||W' - W|| / ||W||}: how far the plug-ins moved each adapter."""
        names = [adapter.name for adapter in number_equal_names(self.adapters)]
        return dict(zip(names, nudges([a.deltas for a in self.adapters], self.updates), strict=True))

    @cached_property
    def _largest_rank(self) -> int:
        return max(update.rank for adapter in self.adapters for update in adapter.deltas.values())

    def _stacks(self) -> Iterator[Stack]:
        return (self._stack(module) for module in self.modules)

    def _stack(self, module: str, at: str | None = None) -> Stack:
        """Return the stack of a module; ``at`` names a parameter that has weights and masks of its own instead."""
        name = at or module
        return Stack(
            module=name,
            shape=self.shapes[module],
            updates=tuple(updates.get(module) for updates in self.updates),
            weights=tuple(_weight_at(weight, name) for weight in self.weights),
            rank=self._largest_rank,
            tasks=tuple(adapter.task for adapter in self.adapters),
            scalings=tuple(adapter.scalings.get(module, 1.0) for adapter in self.adapters),
            generator=lambda i: self._generator(i, name),
            features=self.features,
        )

    def _generator(self, i: int, module: str) -> torch.Generator:
        """Seed from (seed, content of the adapter, which of equal ones, module): order and sliders do not change a
        mask.
        """
        prints = [adapter.fingerprint for adapter in self.adapters]
        occurrence = Counter(prints[:i])[prints[i]]
        digest = hashlib.sha256(f"{self.spec.seed}|{prints[i]}|{occurrence}|{module}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def _weight_at(weight: Weight, module: str) -> float:
    if not isinstance(weight, Mapping):
        return weight
    # the brackets of an expert's own name are no pattern
    matching = (v for pattern, v in weight.items() if module == pattern or fnmatch.fnmatchcase(module, pattern))
    return next(matching, 1.0)
