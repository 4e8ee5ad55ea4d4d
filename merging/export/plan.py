"""Which tensors a full model has, and where each of them comes from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..adapters.adapter import Adapter
from ..adapters.head import Head
from ..errors import MergeError
from ..models.checkpoint import Checkpoint, Reader
from ..models.expert_files import Piece
from .head import check_complete
from .vocabulary import new_vocabulary

if TYPE_CHECKING:
    from ..merged import Merged


@dataclass(frozen=True)
class Plan:
    """What goes under which key.

    Attributes
    ----------
    sources : {written key: key in the base, or a tensor of the head}
    modules : {written key: what is added there}; one module's update, or those of all experts in the tensor
    parts : {written key: parameter that adapters trained whole}, which takes the place of the base's before an update
        is added
    untied : the configuration must say that embeddings are not tied
    vocabulary : {parameter: rows} of embeddings whose vocabulary an adapter changed, see
        `merging.export.vocabulary`
    repeated : keys in the base that are written under several, which must not share their memory
    """

    checkpoint: Checkpoint
    merged: Merged
    sources: Mapping[str, str | Tensor]
    modules: Mapping[str, Sequence[Piece]]
    parts: Mapping[str, str]
    untied: bool
    repeated: frozenset[str]
    owner: Adapter | None
    dtype: torch.dtype | None
    vocabulary: Mapping[str, int]

    def shape(self, key: str, stored: Tensor) -> tuple[int, ...]:
        """Return the shape of what is written under ``key``, where ``stored`` is the base's."""
        rows = self.vocabulary.get(self.parts.get(key, ""))
        return tuple(stored.shape) if rows is None else (rows, *stored.shape[1:])

    def tensor(self, key: str, reader: Reader) -> Tensor:
        """Return what is written under ``key``.

        Raises
        ------
        MergeError
            If the base's weight is no floating-point matrix, or the sum does not fit into the type.
        """
        source = self.sources[key]
        stored = reader.tensor(source) if isinstance(source, str) else source
        result = stored
        if key in self.modules or key in self.parts:
            if not stored.is_floating_point():
                raise MergeError(
                    f"{source} is stored as {stored.dtype} in {self.checkpoint.name}: take a base that is not "
                    "quantized."
                )
            precise = torch.promote_types(stored.dtype, torch.float32)
            result = stored.to(precise, copy=True)
            if key in self.parts:
                result = self._part(key, stored).to(precise, copy=True)
            for piece in self.modules.get(key, ()):
                piece.of(result).add_(piece.rows(self.merged.delta(piece.module)).to(precise))
            result = result.to(self.dtype or stored.dtype)
            if not torch.isfinite(result).all():
                raise MergeError(
                    f"{source} would hold infinite values as {result.dtype}: choose dtype float32, or a smaller "
                    "scaling."
                )
        elif self.dtype is not None and stored.is_floating_point():
            result = stored.to(self.dtype)
        return result.clone() if isinstance(source, str) and source in self.repeated else result.contiguous()

    def _part(self, key: str, stored: Tensor) -> Tensor:
        name = self.parts[key]
        # a head of another task names no adapter whose embeddings count alone
        owner = self.owner if self.owner is not None and self.owner.head is None else None
        value = self.merged.part(name, stored, owner)
        if value.shape != self.shape(key, stored):
            raise MergeError(
                f"{name} is {tuple(value.shape)} in an adapter but {tuple(stored.shape)} in {self.checkpoint.name}, as "
                "after a change of the vocabulary: resize the base the same way, save it, and give that folder as the "
                "base."
            )
        return value


def plan_of(checkpoint: Checkpoint, merged: Merged, dtype: torch.dtype | None, owner: Adapter | None) -> Plan:
    """Return where each tensor of the full model comes from.

    Raises
    ------
    MergeError
        If the checkpoint lacks a module or a parameter that the merge changes.
    """
    sources: dict[str, str | Tensor] = {key: key for key in checkpoint.files}
    modules: dict[str, list[Piece]] = {}
    parts: dict[str, str] = {}
    untied = False
    experts, transposed = checkpoint.pieces(merged.modules), checkpoint.transposed(merged.modules)
    for module in merged.modules:
        for key, piece in experts.get(module, {}).items():
            modules.setdefault(key, []).append(piece)
        if module not in experts:
            key, apart = _separate(checkpoint, sources, f"{module}.weight", True)
            modules[key], untied = [Piece(module, transposed=module in transposed)], untied or apart
    own = {checkpoint.full_name(name) for name in merged.parts}
    brought = owner.head.tensors if owner is not None and owner.head is not None else {}
    for name, alone in merged.parts.items():
        if owner is not None and owner.full_name(name) in brought:
            continue
        whole = [str(checkpoint.full_name(name)), *checkpoint.shared_with(name)]
        key, apart = _separate(checkpoint, sources, name, alone or any(full in own for full in whole[1:]))
        # a copy into tied embeddings changes all that is tied, also where LoRA takes one of them apart
        together = (
            [] if apart or alone else [own_key for full in whole if (own_key := _own_key(checkpoint, full)) in sources]
        )
        parts |= dict.fromkeys([key, *together], name)
        untied = untied or apart
    headless = owner if owner is not None and owner.head is None else None
    vocabulary = new_vocabulary(
        checkpoint, {name: merged.kept_part(name, headless) for name in set(parts.values())}, untied
    )
    if untied:  # the configuration unties all that is tied
        for full in checkpoint.parameters:
            if checkpoint.shared_with(full):
                sources.setdefault(_own_key(checkpoint, full), checkpoint.source(full))
    sources = with_head(checkpoint, sources, modules, owner)
    if (
        owner is not None
        and owner.head is not None
        and owner.head.kind == "model"
        and not checkpoint.prefix
        and owner.prefix
    ):
        modules = {prefixed(checkpoint, owner, key): pieces for key, pieces in modules.items()}
        parts = {prefixed(checkpoint, owner, key): name for key, name in parts.items()}
    uses = Counter(source for source in sources.values() if isinstance(source, str))
    repeated = frozenset(source for source, count in uses.items() if count > 1)
    return Plan(checkpoint, merged, sources, modules, parts, untied, repeated, owner, dtype, vocabulary)


def as_head(owner: Adapter | None, checkpoint: Checkpoint) -> Adapter | None:
    """Return the adapter with what it trained whole as its head, where the base is a bare encoder that has no place for
    it.
    """
    if owner is None or owner.head is not None or all(checkpoint.full_name(name) for name in owner.trained):
        return owner
    return replace(owner, head=Head("model", {owner.full_name(name): tensor for name, tensor in owner.trained.items()}))


def _separate(checkpoint: Checkpoint, sources: dict[str, str | Tensor], name: str, alone: bool) -> tuple[str, bool]:
    """Give a parameter a key of its own in ``sources`` if it is tied to others and they stay as they are; return (key,
    whether it came apart).
    """
    others = checkpoint.shared_with(name)
    if not others or not alone:
        return checkpoint.source(name), False
    checkpoint.check_separable(name)
    stored = checkpoint.source(name)
    keys = {full: _own_key(checkpoint, full) for full in (str(checkpoint.full_name(name)), *others)}
    for key in keys.values():
        sources.setdefault(key, stored)
    return keys[str(checkpoint.full_name(name))], True


def _own_key(checkpoint: Checkpoint, full: str) -> str:
    try:
        return checkpoint.key(full)
    except MergeError:  # the files hold it under the name of one that it is tied to
        return full


def prefixed(checkpoint: Checkpoint, owner: Adapter, key: str) -> str:
    """Return a tensor's key in a model with the owner's head, which has a prefix before the encoder's names."""
    return f"{owner.prefix}{key}" if not checkpoint.prefix and key in set(checkpoint.keys.values()) else key


def with_head(
    checkpoint: Checkpoint, sources: Mapping[str, str | Tensor], modules: Collection[str], owner: Adapter | None
) -> dict[str, str | Tensor]:
    """Return {written key: base key or head tensor}: the base's own keys, but for a head of the architecture's own."""
    if owner is None or owner.head is None or owner.head.kind != "model":
        return dict(sources)
    # a bare encoder gets a head: its keys become those of the model with a head
    added = "" if checkpoint.prefix else owner.prefix
    result = {prefixed(checkpoint, owner, key): source for key, source in sources.items()}
    with checkpoint.opened() as reader:
        first = sources[next(iter(modules))]
        dtype = (reader.tensor(first) if isinstance(first, str) else first).dtype
    inside = dict(checkpoint.skeleton.named_parameters())
    for name, tensor in owner.head.tensors.items():
        parameter = name.removeprefix(owner.prefix) if name.startswith(owner.prefix) else ""
        if parameter in inside and inside[parameter].shape != tensor.shape:
            shapes = tuple(tensor.shape), tuple(inside[parameter].shape)
            raise MergeError(f"{owner.name} brings its own {name} {shapes[0]}, the base's is {shapes[1]}.")
        stored = checkpoint.keys.get(parameter)
        if stored in modules:
            raise MergeError(f"{owner.name} brings its own {name}, which the merge changes too: leave its head out.")
        result[name if stored is None else f"{added}{stored}"] = tensor.to(dtype)
    check_complete(checkpoint, owner, result)
    return result
