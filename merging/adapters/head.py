"""The head that an adapter brings to classify with."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..errors import MergeError
from ..io.untrusted import check_safetensors
from .fetch import HEAD_FILE, HEADS_FOLDER, AdapterFiles
from .weights import all_finite

LAST_LAYERS = ("classifier.weight", "classifier.out_proj.weight", "classification_head.out_proj.weight", "score.weight")
"""Where classifiers have a row per label."""


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

    @property
    def classes(self) -> int | None:
        """How many labels it tells apart; None for a model's own head whose last layer is not known."""
        places = ("weight",) if self.kind == "pooled" else LAST_LAYERS
        return next((len(self.tensors[name]) for name in places if name in self.tensors), None)

    def logits(self, pooled: Tensor) -> Tensor:
        """Return the logits (batch, labels) of mean-pooled states (batch, hidden); for kind "pooled" only."""
        weight, bias = (self.tensors[key].to(pooled) for key in ("weight", "bias"))
        # a classifier in bfloat16 would round its logits to three digits
        with torch.autocast(pooled.device.type, enabled=False):
            return torch.nn.functional.linear(pooled, weight, bias)


def read_head(files: AdapterFiles, labels: tuple[str, ...]) -> Head | None:
    """Return the pooled head that lies beside an adapter, if one does; raises MergeError if it is malformed."""
    if files.head is None:
        return None
    return Head("pooled", _tensors(files.head, f"{files.where}: {HEAD_FILE}", True), labels)


def read_heads(files: AdapterFiles) -> dict[str, Head]:
    """Return the further heads that lie beside an adapter, by task; other files there are passed over.

    Raises
    ------
    MergeError
        If one is malformed, or two are of one task.
    """
    heads: dict[str, Head] = {}
    for path in files.heads:
        where = f"{files.where}: {HEADS_FOLDER}/{path.name}"
        check_safetensors(path, where)
        try:
            with safe_open(path, framework="pt") as opened:
                said = json.loads((opened.metadata() or {}).get("mergescope_head", "null"))
        except (SafetensorError, ValueError) as error:
            raise MergeError(f"{where} is not a readable safetensors file ({error}).") from error
        if said is None:
            continue
        task, kind = (said.get(key) if isinstance(said, dict) else None for key in ("task", "kind"))
        if not isinstance(task, str) or kind not in ("pooled", "model") or not isinstance(said.get("labels", []), list):
            raise MergeError(f"{where} should say in its header whose head it is: task, kind and labels.")
        if task in heads:
            raise MergeError(f"{where} is a second head of the task {task!r}: leave one out.")
        heads[task] = Head(kind, _tensors(path, where, kind == "pooled"), _labels(said))
    return heads


def write_heads(folder: Path, heads: Mapping[str, Head]) -> None:
    """Write each head as a file of `HEADS_FOLDER` below ``folder``, whose header says of which task and kind it is."""
    for number, (task, head) in enumerate(heads.items()):
        place = folder / head_file(task, number)
        place.parent.mkdir(exist_ok=True)
        said = {"task": task, "kind": head.kind, "labels": list(head.labels)}
        tensors = {key: tensor.contiguous() for key, tensor in head.tensors.items()}
        save_file(tensors, place, metadata={"format": "pt", "mergescope_head": json.dumps(said)})


def head_file(task: str, number: int) -> str:
    """Return the file of the ``number``-th further head, relative to the adapter's folder."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", task).strip("-")[:60]
    return f"{HEADS_FOLDER}/{plain if plain == task else f'{plain}-{number + 1}'.lstrip('-')}.safetensors"


def _labels(said: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(map(str, said.get("labels", ())))


def _tensors(path: Path, where: str, pooled: bool) -> dict[str, Tensor]:
    check_safetensors(path, where)
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise MergeError(f"{where} is not a readable safetensors file ({error}).") from error
    if pooled and (set(tensors) != {"weight", "bias"} or tensors["weight"].shape[:1] != tensors["bias"].shape):
        raise MergeError(f"{where} should hold weight (labels, hidden) and bias (labels,), not {sorted(tensors)}.")
    if not all(map(all_finite, tensors.values())):
        raise MergeError(f"{where} holds NaN or infinite values.")
    # copies: the file may be gone in a moment
    return {key: t.to(torch.float32 if pooled else t.dtype, copy=True) for key, t in tensors.items()}
