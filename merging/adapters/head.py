"""A task's classifier beside an adapter, and our own notes in ``mergescope.json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..errors import MergeError
from ..io.untrusted import check_safetensors, read_object
from .fetch import HEAD_FILE, METADATA_FILE, AdapterFiles
from .weights import all_finite


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


def read_metadata(files: AdapterFiles) -> dict[str, Any]:
    """Return our own notes beside an adapter, {} where there are none; raise MergeError for what is none of ours."""
    where = f"{files.where}: {METADATA_FILE}"
    metadata = read_object(files.metadata, where) if files.metadata else {}
    if not isinstance(metadata.get("labels", []), list) or not isinstance(metadata.get("base_fingerprint"), str | None):
        raise MergeError(f"{where} should hold labels as a list and base_fingerprint as a text.")
    if files.provenance is not None:  # what the hub says counts, not what a file in the repository says about itself
        metadata["source"] = dict(files.provenance)
    return metadata


def read_head(files: AdapterFiles, metadata: Mapping[str, Any]) -> Head | None:
    """Return the pooled head beside an adapter, if there is one; raise MergeError for a damaged one."""
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
    if not all(map(all_finite, tensors.values())):
        raise MergeError(f"{where} holds NaN or infinite values.")
    copies = {key: t.to(torch.float32, copy=True) for key, t in tensors.items()}  # the file may be gone in a moment
    return Head("pooled", copies, tuple(map(str, metadata.get("labels", ()))))
