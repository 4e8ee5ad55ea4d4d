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

from . import peft_format
from .errors import MergeError
from .lowrank import LowRank

HEAD_FILE = "head.safetensors"
METADATA_FILE = "mergescope.json"


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
        See `merging.models.fingerprint`; None when nobody recorded one.
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

    @classmethod
    def load(cls, source: str | Path, name: str | None = None, task: str | None = None, base: str | None = None) -> Adapter:
        """Read a PEFT LoRA folder (``adapter_config.json`` and ``adapter_model.safetensors``).

        Parameters
        ----------
        source : path of the folder
        name, task : override what the folder says
        base : vouches for the base model where the file names none, or another one

        Raises
        ------
        MergeError
            With one sentence, for everything that is not exactly a sum of scaling * B A on linear layers: DoRA,
            lora_bias, other PEFT types, pickled weights, unknown keys, wrong prefix, NaN, ranks that contradict the config.
        """
        folder = Path(source)
        if not folder.is_dir():
            raise MergeError(f"{source} is not a folder: give the folder that holds adapter_config.json.")
        config = peft_format.read_config(folder)
        tensors = _read_tensors(folder)
        prefix, factors, own_head = peft_format.split_keys(tensors, config, folder)
        deltas, scalings = {}, {}
        for full_name, (A, B) in factors.items():
            module = full_name.removeprefix(prefix)
            scalings[module] = peft_format.scaling(config, full_name, A.shape[0], folder)
            # copies, so that no tensor keeps the whole file mapped into memory beside the scaled factors
            deltas[module] = LowRank(B.float() * scalings[module], A.to(torch.float32, copy=True).contiguous())
        metadata = _read_metadata(folder)
        name = name or folder.resolve().name
        return cls(
            name=name,
            task=task or str(metadata.get("task") or name),
            base=base or str(config.get("base_model_name_or_path") or ""),
            deltas=deltas,
            head=_read_head(folder, metadata)
            or (Head("model", {key: t.clone() for key, t in own_head.items()}) if own_head else None),
            config=config,
            prefix=prefix,
            base_fingerprint=None if base else metadata.get("base_fingerprint"),
            base_vouched=base is not None,
            scalings=scalings,
            metadata=metadata,
            path=folder.resolve(),
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


def _read_tensors(folder: Path) -> dict[str, Tensor]:
    path = folder / peft_format.WEIGHTS_FILE
    if not path.exists():
        if (folder / "adapter_model.bin").exists():
            raise MergeError(
                f"{folder} holds pickled weights (adapter_model.bin), which can run code when opened: "
                "save the adapter with safetensors."
            )
        raise MergeError(f"{folder} has no {peft_format.WEIGHTS_FILE}: is it a PEFT adapter?")
    try:
        with safe_open(path, framework="pt") as opened:
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 - no dict
    except SafetensorError as error:
        raise MergeError(f"{path} is not a readable safetensors file ({error}).") from error
    for key, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise MergeError(f"{folder}: {key} holds {tensor.dtype}, not floating-point numbers.")
        if not _all_finite(tensor):
            raise MergeError(f"{folder}: {key} holds NaN or infinite values; the adapter is broken, train or save it again.")
    return tensors


def _all_finite(tensor: Tensor) -> bool:
    """Tell whether no entry is NaN or infinite, in one pass and without a mask: extremes carry both."""
    return not tensor.numel() or all(math.isfinite(extreme) for extreme in torch.aminmax(tensor))


def _read_metadata(folder: Path) -> dict[str, Any]:
    path = folder / METADATA_FILE
    if not path.exists():
        return {}
    try:
        metadata = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise MergeError(f"{path} is not valid JSON ({error}).") from error
    if not isinstance(metadata, dict):
        raise MergeError(f"{path} should hold a JSON object.")
    return metadata


def _read_head(folder: Path, metadata: Mapping[str, Any]) -> Head | None:
    path = folder / HEAD_FILE
    if not path.exists():
        return None
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise MergeError(f"{path} is not a readable safetensors file ({error}).") from error
    if set(tensors) != {"weight", "bias"} or tensors["weight"].shape[:1] != tensors["bias"].shape:
        raise MergeError(f"{path} should hold weight (labels, hidden) and bias (labels,), not {sorted(tensors)}.")
    if not all(map(_all_finite, tensors.values())):
        raise MergeError(f"{path} holds NaN or infinite values.")
    return Head("pooled", {key: t.float() for key, t in tensors.items()}, tuple(map(str, metadata.get("labels", ()))))
