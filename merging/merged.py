"""Merged: what comes out of a merge, module by module, as an adapter, a folder, or in a model."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from .adapters.adapter import Adapter
from .adapters.base_files import base_files
from .adapters.lowrank import LowRank
from .adapters.metadata import AdapterMetadata
from .adapters.peft_format import is_saved
from .adapters.pool import bare_names, common_config, embedding_names, outside_names, prefixes_of, trained_parts
from .adapters.rounding import chosen_dtype, rounded
from .adapters.same_base import base_warnings
from .adapters.truncation import check_rank, truncated
from .errors import MergeError
from .evaluation.heads import named_heads
from .evaluation.intervals import Accuracy
from .methods.trained import check_part, merged_part
from .models.apply import added, check_fits, check_whole
from .module_results import ModuleResults
from .recipes.card import can_have_recipe, fidelity, head_owners, model_card
from .recipes.recipe import Recipe, TunedEntry


@dataclass(eq=False)
class Merged(ModuleResults):
    """Result of a merge: its modules, and as an adapter, a folder, or in a model; see `ModuleResults`."""

    @cached_property
    def parts(self) -> dict[str, bool]:
        """{parameter that an adapter trained whole: whether tied ones come apart}, see
        `merging.adapters.pool.trained_parts`.
        """
        return trained_parts(self.adapters)

    def part(self, name: str, start: Tensor | None, owner: Adapter | None = None) -> Tensor:
        """Return the merged value of a parameter that adapters trained whole.

        Parameters
        ----------
        start : the base's own value; None = the base is not at hand
        owner : takes this adapter's value (or the base's, where it has none) instead of merging

        Raises
        ------
        MergeError
            If the base's value is needed and not at hand, has another shape, or the method cannot merge it.
        """
        if (kept := self.kept_part(name, owner)) is not None:
            return kept
        self.check_part(name, start, owner)
        assert start is not None
        stack = self._stack(next(iter(self.shapes)), at=name)
        values = [adapter.trained.get(name) for adapter in self.adapters]
        return start if owner is not None else merged_part(self.method, self.spec.values, stack, values, start)

    def kept_part(self, name: str, owner: Adapter | None = None) -> Tensor | None:
        """Return the value of a parameter that goes out as an adapter has it: the owner's, or that of the only one."""
        if owner is not None and name in owner.trained:
            return owner.trained[name]
        return self.adapters[0].trained.get(name) if len(self.adapters) == 1 and self._is_identity else None

    def check_part(self, name: str, start: Tensor | None, owner: Adapter | None = None) -> None:
        """Raise what `part` raises, without merging."""
        values = {adapter.name: adapter.trained.get(name) for adapter in self.adapters}
        if start is None and self.kept_part(name, owner) is None:
            holder = next(owner_name for owner_name, value in values.items() if value is not None)
            raise MergeError(
                f"{holder} holds {name} whole (trained, or saved beside the LoRA), and merging it needs the base's "
                "own: name the base's folder with --base (or base=), or take one adapter's as it is with --head TASK."
            )
        if start is not None and owner is None and self.kept_part(name) is None:
            check_part(self.method, self.spec.values, name, list(values.values()), start)

    @cached_property
    def _is_identity(self) -> bool:
        """Whether the merge of one adapter is the adapter itself."""
        alone = self.adapters[0].deltas
        off = [float((self.delta(name) - update.dense()).norm()) for name, update in alone.items()]
        return all(error <= 1e-5 * update.norm() for error, update in zip(off, alone.values(), strict=True))

    def to_adapter(self, rank: int | None = None, owner: Adapter | None = None, exact_svd: bool = False) -> Adapter:
        """Return the merge as one adapter.

        Parameters
        ----------
        owner : see `part`
        rank : None = exact, for methods that are exactly low-rank; a number = an approximation of at most that
            rank per module (min(out, in) is exact); what it loses is in the adapter's ``metadata.truncation``:
            rank, error (relative, over the whole merge), modules (the same per module), and randomised (whether any
            came from a randomised SVD and is not the very best one)
        exact_svd : the best approximation also where that takes minutes, see `LowRank.nearest`

        Raises
        ------
        MergeError
            For rank=None with a method that builds dense updates.
        """
        check_rank(rank)
        config = common_config(self.adapters)
        whole = self._both(config.get("modules_to_save") or ())
        names = [module for module in self.modules if f"{module}.weight" not in whole]
        if rank is None:
            deltas = {module: self._exact(module) for module in names}
            metadata = AdapterMetadata()
        else:
            deltas, lost = truncated(((module, self.result(module)) for module in names), rank, exact_svd)
            metadata = AdapterMetadata(truncation=lost if deltas else None)
        first = self.adapters[0]
        base = base_files(first.base, first.config.get("task_type")) if self.parts else None

        def start(name: str) -> Tensor | None:
            return None if base is None else base.stored(self._full_name(name))

        trained = {name: self.part(name, start(name), owner) for name in self.parts}
        for name in whole:
            module = name.removesuffix(".weight")
            update = self.delta(module)
            turned = config.get("fan_in_fan_out") and module not in embedding_names(self.adapters)
            trained[name] = trained[name].float() + (update.T if turned else update)
        return Adapter(
            name=f"{self.method.name}-{len(self.adapters)}",
            deltas=deltas,
            task=self.task or "merged",
            base=first.base,
            config=config,
            metadata=metadata,
            prefix=prefixes_of(self.adapters)[0],
            outside=outside_names(self.adapters),
            embeddings=embedding_names(self.adapters),
            bare=bare_names(self.adapters),
            trained=trained,
            base_fingerprint=next((a.base_fingerprint for a in self.adapters if a.base_fingerprint), None),
        )

    def save(
        self,
        folder: str | Path,
        rank: int | None = None,
        head: str | Sequence[str] | None = None,
        prefix: str | None = None,
        accuracy: Accuracy | None = None,
        dtype: str = "float32",
        exact_svd: bool = False,
        tuned: TunedEntry | None = None,
    ) -> Path:
        """Write a PEFT adapter with ``recipe.yaml`` and a model card; the folder appears whole or not at all.

        Parameters
        ----------
        rank, exact_svd : see `to_adapter`
        head : task whose head goes into the file; several tasks' heads lie beside it in the folder ``heads``, since
            PEFT's file can hold only one; None = no head, for the bare encoder
        prefix : the architecture's prefix to write, needed if the adapters carry different ones
        accuracy : what was measured of this merge, for the card
        dtype : float32, bfloat16, float16, or "parents"; see `merging.adapters.rounding`
        tuned : the search that chose this merge, for the recipe

        Raises
        ------
        MergeError
            If the prefixes differ and none is given, ``head`` names no task that has a head, or the folder is taken.
        """
        owners = self.check_export(rank, head, prefix)
        owner = owners[0] if len(owners) == 1 else None
        adapter = self.to_adapter(rank, owner if owner and owner.head is None else None, exact_svd)
        if len(owners) > 1:
            adapter = replace(adapter, heads=named_heads(owners))
        if owner is not None:
            config = dict(owner.config) | {
                key: adapter.config[key] for key in ("ensure_weight_tying",) if key in adapter.config
            }
            saved = {*(owner.config.get("modules_to_save") or ()), *(adapter.config.get("modules_to_save") or ())}
            config["modules_to_save"] = sorted(saved) or None
            adapter = replace(adapter, head=owner.head, config=config, prefix=owner.prefix, task=owner.task)
        if prefix is not None:
            adapter = replace(adapter, prefix=prefix)
        adapter = rounded(adapter, stored := chosen_dtype(dtype, self.adapters))
        recipe = None
        if can_have_recipe(self.adapters):
            kept = None if stored == torch.float32 else str(stored).removeprefix("torch.")
            best = True if exact_svd and rank is not None else None
            recipe = Recipe.of(self.spec, self.adapters, rank, head, prefix, kept, best, tuned).to_yaml()
        card = model_card(
            self.spec,
            self.adapters,
            adapter.base,
            fidelity(adapter),
            recipe,
            accuracy,
            notes=base_warnings(self.adapters),
            heads=adapter.heads,
        )
        return adapter.save(folder, {"README.md": card} | ({"recipe.yaml": recipe} if recipe else {}), stored)

    def check_export(self, rank: int | None, head: str | Sequence[str] | None, prefix: str | None) -> list[Adapter]:
        """Return the adapters whose heads go into the file or beside it; raise what `save` raises for these options,
        before anything is merged.
        """
        check_rank(rank)
        if not self.method.low_rank and rank is None:
            raise self._needs_rank
        prefixes = prefixes_of(self.adapters)
        owners = self.owners(head)
        if len(owners) != 1 and prefix is None and len(prefixes) > 1:
            raise MergeError(f"The adapters carry different prefixes {prefixes}: say which one to write with prefix=.")
        return owners

    def owners(self, head: str | Sequence[str] | None) -> list[Adapter]:
        """Return the adapters that bring these tasks' heads, see `merging.recipes.card.head_owners`."""
        owners = head_owners(self.adapters, head)
        if len(owners) > 1 and "task_id" in self.needs:
            raise MergeError(f"{self.method.name} has one result per task, which goes with one head: name one task.")
        return owners

    def _exact(self, module: str) -> LowRank:
        result = self.result(module)
        if not isinstance(result, LowRank):
            raise self._needs_rank
        return result.compress()

    @property
    def _needs_rank(self) -> MergeError:
        exact = max(min(shape) for shape in self.shapes.values())
        return MergeError(
            f"{self.method.name} builds dense updates: choose a rank for the adapter (rank={exact} is exact, a smaller "
            "one an approximation)."
        )

    @property
    def recipe(self) -> Recipe:
        """The recipe that makes this merge again."""
        return Recipe.of(self.spec, self.adapters)

    def applied_to(self, model: nn.Module, left_out: Collection[str] = ()) -> AbstractContextManager[nn.Module]:
        """Return a context in which ``model`` carries the merge; its weights are restored on exit, also after an error.

        Parameters
        ----------
        left_out : modules and parameters that stay as the base has them

        Raises
        ------
        MergeError
            If the model lacks a module, has another shape, or is not the base that an adapter records.
        """
        for adapter in self.adapters:
            check_fits(model, {m: u.shape for m, u in adapter.deltas.items()}, adapter.base_fingerprint)
            check_whole(model, adapter.trained, adapter.config.get("modules_to_save") or ())
        shapes = {module: shape for module, shape in self.shapes.items() if module not in left_out}
        names = {name: (self._full_name(name), apart) for name, apart in self.parts.items() if name not in left_out}
        return added(model, shapes, self.result, names, self.part)

    def _both(self, saved: Collection[str]) -> list[str]:
        """Return the weights that some adapters have updates of and others trained whole: a file holds them whole."""
        weights = {f"{module}.weight" for module in self.modules} & self.parts.keys()
        return sorted(name for name in weights if is_saved(self._full_name(name), saved))

    def _full_name(self, name: str) -> str:
        return next(adapter.full_name(name) for adapter in self.adapters if name in adapter.trained)
