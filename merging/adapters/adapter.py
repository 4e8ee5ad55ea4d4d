"""Adapter: a PEFT LoRA folder as {module: LowRank} with its head, and back.

The scaling (alpha / r, or alpha / sqrt(r) for rsLoRA, per module by rank_pattern and alpha_pattern) is folded into B
once, here, so that nothing downstream can forget it. What is not exactly scaling * B A is refused with the reason.
"""

from __future__ import annotations

import hashlib
import json
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
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import pad

from ..errors import MergeError
from ..io.whole import writing
from . import fetch
from .base_files import BaseFiles, base_files
from .config import CONFIG_FILE, export_config, read_config, scaling
from .experts import stacked
from .head import Head, read_head, read_heads, write_heads
from .lowrank import LowRank
from .metadata import AdapterMetadata, read_metadata
from .names import BELOW, ROOT, outside_of
from .peft_format import EMBEDDINGS, WEIGHTS_FILE, factor_keys, is_saved, split_keys
from .weights import all_finite, read_tensors

__all__ = ["HEAD_FILE", "METADATA_FILE", "Adapter", "Head", "number_equal_names"]

HEAD_FILE = fetch.HEAD_FILE
METADATA_FILE = fetch.METADATA_FILE


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
    outside : frozenset of str
        Names in ``deltas`` and ``trained`` that lie outside the encoder (``lm_head``, ``classifier``) and carry no
        prefix.
    embeddings : frozenset of str
        Names in ``deltas`` that are embeddings: their update is (entries, width), as their weight is.
    bare : frozenset of str
        Names in ``deltas`` of modules that are no linear layers, but whose weight PEFT adapts as a bare parameter
        (routers). Experts that share a tensor are modules of their own, ``mlp.experts.down_proj[3]``.
    trained : dict of str to Tensor
        Modules that are no heads and were trained or saved whole (embeddings, norms, a language model's head), by
        parameter name relative to the bare encoder; values, not differences to the base's.
    heads : dict of str to Head
        Further heads by task, which lie in the folder ``heads``.
    scalings : dict of str to float
        LoRA's own scaling by module, which is already folded into B; kept for methods that work on the stored factors.
    dtype : torch.dtype
        What the factors are stored in.
    base_fingerprint : str or None
        See `merging.models.layers.fingerprint`; None when nobody recorded one.
    metadata : AdapterMetadata
        Our own notes from ``mergescope.json``.
    path : Path or None
        The folder or zip file that it was read from.
    origin : str, tuple of str, or None
        What a recipe calls it and `load` takes again: an absolute path, two of them, or ``user/name@commit``; None in
        memory.
    """

    name: str
    deltas: Mapping[str, LowRank]
    task: str = ""
    base: str = ""
    head: Head | None = None
    heads: Mapping[str, Head] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    prefix: str = ""
    outside: frozenset[str] = frozenset()
    embeddings: frozenset[str] = frozenset()
    bare: frozenset[str] = frozenset()
    trained: Mapping[str, Tensor] = field(default_factory=dict)
    dtype: torch.dtype = torch.float32
    base_fingerprint: str | None = None
    base_vouched: bool = False
    scalings: Mapping[str, float] = field(default_factory=dict)
    metadata: AdapterMetadata = field(default_factory=AdapterMetadata)
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
        for name, tensor in sorted(self.trained.items()):
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().float().cpu().contiguous().numpy().reshape(-1).view(np.uint8).data)
        return digest.hexdigest()

    @property
    def source(self) -> dict[str, str]:
        """What the hub said when the adapter came from there (repo, commit, license, as far as known), else nothing."""
        return {key: value for key, value in self.metadata.source.items() if value is not None}

    @classmethod
    def load(
        cls,
        source: fetch.Source,
        name: str | None = None,
        task: str | None = None,
        base: str | None = None,
        local_base: bool = True,
    ) -> Adapter:
        """Read a PEFT LoRA adapter (``adapter_config.json`` and ``adapter_model.safetensors``).

        Parameters
        ----------
        source : a folder, a zip file with the two files in it, a list of the two files, or a hub id
            ``user/name[@revision]`` (see `merging.adapters.fetch.opened`)
        name, task : override what the files say; without them the name is the last component of the source. A task
            that has a head in the folder ``heads`` gets that one
        base : vouches for the base model where the file names none, or another one
        local_base : look into a folder of this machine that the file names as its base; a server does not for strangers

        Raises
        ------
        MergeError
            With one sentence, for what cannot be reached and for everything that is not exactly a sum of scaling * B A
            on linear layers: DoRA, lora_bias, other PEFT types, pickled weights, unknown keys, wrong prefix, NaN, ranks
            that contradict the config.
        """
        with fetch.opened(source) as files:
            where = files.where
            config = read_config(files.config, where)
            recorded = str(config.get("base_model_name_or_path") or "")
            looked_into = base or (recorded if local_base or not Path(recorded).exists() else "")
            known = base_files(looked_into, config.get("task_type"))
            parts = split_keys(read_tensors(files.weights, where), config, where, known)
            deltas, scalings = {}, {}
            short = {full: full if full in parts.outside else full.removeprefix(parts.prefix) for full in parts.factors}
            for full_name, (A, B) in parts.factors.items():
                module = short[full_name]
                scalings[module] = scaling(config, parts.patterned[full_name], A.shape[0], where)
                # copies, so that no tensor keeps the whole file mapped into memory beside the scaled factors
                update = LowRank(B.float() * scalings[module], A.to(torch.float32, copy=True).contiguous())
                deltas[module] = update.trimmed()
                if update.may_overflow():
                    raise MergeError(
                        f"{where}: {full_name} holds numbers so large that its update is infinite; the adapter is "
                        "broken, train or save it again."
                    )
            saved = config.get("modules_to_save") or ()
            kept = (key for key, t in parts.trained.items() if is_saved(key, saved) or not _unchanged(key, t, known))
            whole = {key: parts.trained[key].clone() for key in kept}
            beyond = outside_of(whole, parts.prefix, where)
            trained = {key if key in beyond else key.removeprefix(parts.prefix): t for key, t in whole.items()}
            own_head = parts.head
            metadata = read_metadata(files.metadata, f"{where}: {METADATA_FILE}", files.provenance)
            head = read_head(files, metadata.labels)
            if head is None and own_head:
                head = Head("model", {key: t.clone() for key, t in own_head.items()})
            heads = read_heads(files)
        name = name or files.name
        recorded_task = metadata.task or name
        if task is not None and task in heads:
            heads |= {} if head is None else {recorded_task: head}
            head = heads.pop(task)
        return cls(
            name=name,
            task=task or recorded_task,
            base=base or recorded,
            deltas=deltas,
            head=head,
            heads=heads,
            config=config,
            prefix=parts.prefix,
            outside=parts.outside | beyond,
            embeddings=frozenset(short[full_name] for full_name in parts.embeddings),
            bare=frozenset(short[full_name] for full_name in parts.bare),
            trained=trained,
            dtype=next(iter(parts.factors.values()))[1].dtype,
            base_fingerprint=None if base else metadata.base_fingerprint,
            base_vouched=base is not None,
            scalings=scalings,
            metadata=metadata,
            path=files.path,
            origin=files.origin,
        )

    def full_name(self, module: str) -> str:
        """Return the name of one of the adapter's modules or trained parameters as the whole model has it."""
        return module if module in self.outside else f"{self.prefix}{module}"

    def save(
        self, folder: str | Path, extra_files: Mapping[str, str] | None = None, dtype: torch.dtype = torch.float32
    ) -> Path:
        """Write a PEFT folder of one rank whose own scaling is 1 everywhere; `extra_files` maps file names to texts.

        The factors are rounded to ``dtype``. Where the base is at hand, its modules are looked up first.

        The folder appears whole or not at all. A folder that holds something else than an adapter is left alone.

        Raises
        ------
        MergeError
            If ``folder`` exists and is neither empty nor an adapter, the base has no module of that name, or the disk
            is full.
        """
        target = Path(folder)
        if target.exists() and not (target.is_dir() and (not any(target.iterdir()) or (target / CONFIG_FILE).exists())):
            raise MergeError(f"{folder} exists and is not an adapter folder: choose another place.")
        if not self.deltas:
            raise MergeError(f"{self.name} has no updates: there is nothing to save.")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise MergeError(
                f"{target.parent} is a file, so no folder can be made below it: choose another place."
            ) from error
        aside = tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-")
        with writing(target.name), aside as temporary:
            work = Path(temporary) / "adapter"
            work.mkdir()
            self._write(work, dtype)
            for file_name, text in (extra_files or {}).items():
                (work / file_name).write_text(text, encoding="utf-8")
            if target.exists():
                shutil.rmtree(target)
            work.replace(target)
        return target

    def _write(self, work: Path, dtype: torch.dtype) -> None:
        rank = max(1, *(update.rank for update in self.deltas.values()))
        names = {module: self.full_name(module) for module in self.deltas}
        known = base_files(self.base, self.config.get("task_type"))
        if known is not None:
            known.check_modules(names.values(), self.base)
        # one rank everywhere: there are readers that know one r and one lora_alpha, or divide by each tensor's own rank
        padded = {
            names[module]: (
                pad(update.A.to(dtype), (0, 0, 0, rank - update.rank)),
                pad(update.B.to(dtype), (0, rank - update.rank)),
            )
            for module, update in self.deltas.items()
        }
        bare = {names[module] for module in self.bare & names.keys()}
        factors, parameters = stacked(padded, bare, known, self.name)
        embeddings = {names[module] for module in self.embeddings & names.keys()}
        tensors = {
            key: factor.contiguous()
            for name, pair in factors.items()
            for key, factor in factor_keys(name, *pair, name in embeddings).items()
        }
        own_head = self.head.tensors if self.head is not None and self.head.kind == "model" else {}
        with_lora = set(names.values())
        whole = {self.full_name(name): tensor for name, tensor in self.trained.items()} | dict(own_head)
        for key, tensor in whole.items():
            module, _, leaf = key.rpartition(".")
            tensors[f"{ROOT}{module}.{BELOW}.{leaf}" if module in with_lora else f"{ROOT}{key}"] = tensor.contiguous()
        for key, tensor in tensors.items():
            if not all_finite(tensor):
                raise MergeError(
                    f"{key} holds NaN or infinite values, so nothing was written: is a scaling or weight too large, "
                    f"or {dtype} too small?"
                )
        if broken := next((module for module, update in self.deltas.items() if update.may_overflow()), None):
            raise MergeError(
                f"The update of {broken} would be infinite, so nothing was written: is a scaling or weight too large?"
            )
        save_file(tensors, work / WEIGHTS_FILE, metadata={"format": "pt"})
        entries = self.config.get("modules_to_save") or ()
        saved = {entry for entry in entries if any(is_saved(key, [entry]) for key in whole)}
        if both := next((name for name in sorted(with_lora) if is_saved(f"{name}.weight", saved)), None):
            raise MergeError(
                f"{both} has an update and stands in modules_to_save too, which no PEFT file can hold: leave the head "
                "out, or write the whole model."
            )
        modules = factors.keys() & set(names.values()) - bare
        # PEFT ties copies of embeddings only where the file holds both, and cannot load it where one is missing
        tied = bool(self.config.get("ensure_weight_tying")) and sum(is_saved(key, EMBEDDINGS) for key in whole) > 1
        options = {**self.config, "ensure_weight_tying": tied}
        config = export_config(rank, modules, parameters, self.base, options, saved)
        (work / CONFIG_FILE).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        noted: dict[str, Any] = {"task": self.task}
        if self.base_fingerprint:
            noted["base_fingerprint"] = self.base_fingerprint
        if self.head is not None and self.head.kind != "model":
            save_file({key: t.contiguous() for key, t in self.head.tensors.items()}, work / HEAD_FILE)
            noted["labels"] = self.head.labels
        write_heads(work, self.heads)
        (work / METADATA_FILE).write_text(self.metadata.changed(**noted).to_json(), encoding="utf-8")

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


def _unchanged(name: str, tensor: Tensor, base: BaseFiles | None) -> bool:
    """Tell whether a module that was saved whole is the base's own, as far as the base is at hand: PEFT writes copies
    of embeddings.
    """
    stored = base.stored(name) if base is not None else None
    return stored is not None and stored.shape == tensor.shape and torch.equal(stored.to(tensor.dtype), tensor)
