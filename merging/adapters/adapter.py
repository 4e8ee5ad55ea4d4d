"""Adapter: a PEFT LoRA folder as {module: LowRank} with its head, and back.

The scaling (alpha / r, or alpha / sqrt(r) for rsLoRA, per module by rank_pattern and alpha_pattern) is folded into B once,
here, so that nothing downstream can forget it. What is not exactly scaling * B A is refused with the reason.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..errors import MergeError
from ..io.untrusted import check_safetensors, read_object
from . import fetch, peft_format
from .lowrank import LowRank

HEAD_FILE = fetch.HEAD_FILE
METADATA_FILE = fetch.METADATA_FILE


@dataclass(frozen=True, eq=False)
class Head:
    """A task's classifier, which is never merged.

    Attributes
    ----------
    kind : "pooled" or "model"
        "pooled" is ours: masked mean pooling and a linear layer, tensors ``weight`` (labels, hidden) and ``bias``
        (labels,). "model" is the base model's own (PEFT's modules_to_save), by full parameter name.
    labels : tuple of str
        Names of the classes, in the order of the rows; empty if unknown.
    """

    kind: str
    tensors: Mapping[str, Tensor]
    labels: tuple[str, ...] = ()

    def logits(self, pooled: Tensor) -> Tensor:
        """Return the logits (batch, labels) of mean-pooled states (batch, hidden); for kind "pooled" only."""
        weight, bias = (self.tensors[key].to(pooled) for key in ("weight", "bias"))
        # a classifier in bfloat16 would round its logits to three digits
        with torch.autocast(pooled.device.type, enabled=False):
            return torch.nn.functional.linear(pooled, weight, bias)


@dataclass(frozen=True, eq=False)
class Adapter:
    """A LoRA adapter: low-rank updates by module, with scaling folded in.

    Attributes
    ----------
    name : str
        How the adapter is called in reports; the folder's name unless told otherwise.
    task : str
        Key for features, heads and evaluation; from our metadata, else the name.
    base : str
        The base model's name as recorded, or as the caller vouches for it.
    deltas : dict of str to LowRank
        By module name relative to the bare encoder (``encoder.layer.0.attention.self.query``), sorted.
    prefix : str
        The architecture's prefix that the names carried in the file (``bert.``), written back by `save`.
    scalings : dict of str to float
        LoRA's own scaling by module, which is already folded into B; kept for methods that work on the stored factors.
    base_fingerprint : str or None
        See `merging.models.layers.fingerprint`; None when nobody recorded one.
    metadata : dict
        Our own notes from ``mergescope.json``; ``metadata["source"]`` is what the hub said (repo, commit, license).
    path : Path or None
        The folder or zip file that it was read from.
    origin : str, tuple of str, or None
        What a recipe calls it and `load` takes again: an absolute path, two of them, or ``user/name@commit``; None in memory.
    """

    name: str
    deltas: Mapping[str, LowRank]
    task: str = ""
    base: str = ""
    head: Head | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    prefix: str = ""
    base_fingerprint: str | None = None
    base_vouched: bool = False
    scalings: Mapping[str, float] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    path: Path | None = None
    origin: str | tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "deltas", dict(sorted(self.deltas.items())))
        object.__setattr__(self, "task", self.task or self.name)

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the updates: the same for the same factors, under any name."""
        digest = hashlib.sha256()
        for module, update in self.deltas.items():
            digest.update(f"{module} {update.shape} {update.rank}".encode())
            for factor in (update.B, update.A):
                digest.update(factor.detach().cpu().contiguous().numpy().reshape(-1).view(np.uint8).data)
        return digest.hexdigest()

    @property
    def source(self) -> dict[str, str]:
        """What the hub said when the adapter came from there (repo, commit, license, as far as known), else nothing."""
        noted = self.metadata.get("source")
        return {key: value for key, value in noted.items() if isinstance(value, str)} if isinstance(noted, dict) else {}

    @classmethod
    def load(cls, source: fetch.Source, name: str | None = None, task: str | None = None, base: str | None = None) -> Adapter:
        """Read a PEFT LoRA adapter (``adapter_config.json`` and ``adapter_model.safetensors``).

        Parameters
        ----------
        source : a folder, a zip file with the two files in it, a list of the two files, or a hub id ``user/name[@revision]``
            (see `merging.adapters.fetch.opened`)
        name, task : override what the files say; without them the name is the last component of the source
        base : vouches for the base model where the file names none, or another one

        Raises
        ------
        MergeError
            With one sentence, for what cannot be reached and for everything that is not exactly a sum of scaling * B A on
            linear layers: DoRA, lora_bias, other PEFT types, pickled weights, unknown keys, wrong prefix, NaN, ranks that
            contradict the config.
        """
        with fetch.opened(source) as files:
            where = files.where
            config = peft_format.read_config(files.config, where)
            tensors = _read_tensors(files.weights, where)
            prefix, factors, own_head = peft_format.split_keys(tensors, config, where)
            deltas, scalings = {}, {}
            for full_name, (A, B) in factors.items():
                module = full_name.removeprefix(prefix)
                scalings[module] = peft_format.scaling(config, full_name, A.shape[0], where)
                # copies, so that no tensor keeps the whole file mapped into memory beside the scaled factors
                deltas[module] = LowRank(B.float() * scalings[module], A.to(torch.float32, copy=True).contiguous())
            metadata = _read_metadata(files)
            head = _read_head(files, metadata)
            if head is None and own_head:
                head = Head("model", {key: t.clone() for key, t in own_head.items()})
        name = name or files.name
        return cls(
            name=name,
            task=task or str(metadata.get("task") or name),
            base=base or str(config.get("base_model_name_or_path") or ""),
            deltas=deltas,
            head=head,
            config=config,
            prefix=prefix,
            base_fingerprint=None if base else metadata.get("base_fingerprint"),
            base_vouched=base is not None,
            scalings=scalings,
            metadata=metadata,
            path=files.path,
            origin=files.origin,
        )

    def save(self, folder: str | Path, extra_files: Mapping[str, str] | None = None) -> Path:
        """Write a PEFT folder whose own scaling is 1 everywhere; `extra_files` maps file names to texts.

        The folder appears whole or not at all. A folder that holds something else than an adapter is left alone.

        Raises
        ------
        MergeError
            If ``folder`` exists and is neither empty nor an adapter.
        """
        target = Path(folder)
        if target.exists() and not (
            target.is_dir() and (not any(target.iterdir()) or (target / peft_format.CONFIG_FILE).exists())
        ):
            raise MergeError(f"{folder} exists and is not an adapter folder: choose another place.")
        if not self.deltas:
            raise MergeError(f"{self.name} has no updates: there is nothing to save.")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise MergeError(f"{target.parent} is a file, so no folder can be made below it: choose another place.") from error
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as temporary:
            work = Path(temporary) / "adapter"
            work.mkdir()
            self._write(work)
            for file_name, text in (extra_files or {}).items():
                (work / file_name).write_text(text, encoding="utf-8")
            if target.exists():
                shutil.rmtree(target)
            work.replace(target)
        return target

    def _write(self, work: Path) -> None:
        tensors = {}
        for module, update in self.deltas.items():
            # PEFT knows no rank 0: the zero update is written as one direction of zeros
            stored = update if update.rank else LowRank(torch.zeros(update.shape[0], 1), torch.zeros(1, update.shape[1]))
            key = f"{peft_format.ROOT}{self.prefix}{module}"
            tensors[f"{key}.lora_A.weight"] = stored.A.float().contiguous()
            tensors[f"{key}.lora_B.weight"] = stored.B.float().contiguous()
        own_head = self.head is not None and self.head.kind == "model"
        if self.head is not None and own_head:
            tensors |= {f"{peft_format.ROOT}{key}": t.contiguous() for key, t in self.head.tensors.items()}
        for key, tensor in tensors.items():
            if not _all_finite(tensor):
                raise MergeError(f"{key} holds NaN or infinite values, so nothing was written: is a scaling or weight too large?")
        save_file(tensors, work / peft_format.WEIGHTS_FILE, metadata={"format": "pt"})
        ranks = {module: max(update.rank, 1) for module, update in self.deltas.items()}
        config = peft_format.export_config(ranks, self.base, self.config, own_head)
        (work / peft_format.CONFIG_FILE).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        metadata = dict(self.metadata) | {"task": self.task}
        if self.base_fingerprint:
            metadata["base_fingerprint"] = self.base_fingerprint
        if self.head is not None and not own_head:
            save_file({key: t.contiguous() for key, t in self.head.tensors.items()}, work / HEAD_FILE)
            metadata["labels"] = list(self.head.labels)
        (work / METADATA_FILE).write_text(json.dumps(metadata, indent=2) + "\n", encoding="utf-8")

    def renamed(self, name: str) -> Adapter:
        """Return the same adapter under another name; its task stays."""
        return replace(self, name=name)


def number_equal_names(adapters: list[Adapter]) -> list[Adapter]:
    """Return the adapters with ``-2``, ``-3`` .. appended where a name occurs again."""
    seen: Counter[str] = Counter()
    taken = {adapter.name for adapter in adapters}
    result = []
    for adapter in adapters:
        seen[adapter.name] += 1
        name = adapter.name
        if seen[adapter.name] > 1:
            number = seen[adapter.name]
            while (name := f"{adapter.name}-{number}") in taken:
                number += 1
            taken.add(name)
        result.append(adapter if name == adapter.name else adapter.renamed(name))
    return result


def _read_tensors(path: Path, where: str) -> dict[str, Tensor]:
    check_safetensors(path, f"{where}: {peft_format.WEIGHTS_FILE}")
    try:
        with safe_open(path, framework="pt") as opened:
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 - no dict
    except SafetensorError as error:
        raise MergeError(f"{where}: {peft_format.WEIGHTS_FILE} is not a readable safetensors file ({error}).") from error
    for key, tensor in tensors.items():
        if not _all_finite(tensor):
            raise MergeError(f"{where}: {key} holds NaN or infinite values; the adapter is broken, train or save it again.")
    return tensors


def _all_finite(tensor: Tensor) -> bool:
    """Tell whether no entry is NaN or infinite, in one pass and without a mask: extremes carry both."""
    return not tensor.numel() or all(math.isfinite(extreme) for extreme in torch.aminmax(tensor))


def _read_metadata(files: fetch.AdapterFiles) -> dict[str, Any]:
    where = f"{files.where}: {METADATA_FILE}"
    metadata = read_object(files.metadata, where) if files.metadata else {}
    if not isinstance(metadata.get("labels", []), list) or not isinstance(metadata.get("base_fingerprint"), str | None):
        raise MergeError(f"{where} should hold labels as a list and base_fingerprint as a text.")
    if files.provenance is not None:  # what the hub says counts, not what a file in the repository says about itself
        metadata["source"] = dict(files.provenance)
    return metadata


def _read_head(files: fetch.AdapterFiles, metadata: Mapping[str, Any]) -> Head | None:
    if files.head is None:
        return None
    where = f"{files.where}: {HEAD_FILE}"
    check_safetensors(files.head, where)
    try:
        tensors = load_file(files.head)
    except SafetensorError as error:
        raise MergeError(f"{where} is not a readable safetensors file ({error}).") from error
    if set(tensors) != {"weight", "bias"} or tensors["weight"].shape[:1] != tensors["bias"].shape:
        raise MergeError(f"{where} should hold weight (labels, hidden) and bias (labels,), not {sorted(tensors)}.")
    if not all(map(_all_finite, tensors.values())):
        raise MergeError(f"{where} holds NaN or infinite values.")
    copies = {key: t.to(torch.float32, copy=True) for key, t in tensors.items()}  # the file may be gone in a moment
    return Head("pooled", copies, tuple(map(str, metadata.get("labels", ()))))
