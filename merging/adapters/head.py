"""The head that an adapter brings to classify with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..errors import MergeError
from ..io.untrusted import check_safetensors
from .fetch import HEAD_FILE, AdapterFiles
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


def read_head(files: AdapterFiles, labels: tuple[str, ...]) -> Head | None:
    """Return the pooled head that lies beside an adapter, if one does; raises MergeError if it is malformed."""
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
    return Head("pooled", copies, labels)
