"""Full fine-tuning of the weights that a LoRA would adapt: the reference that adapters' magnitudes are compared with.

Everything but what is trained is `merging.training.trainer.fine_tune`'s: loop, schedule, seed and order of the rows,
start of the classifier, choice of the epoch. The learning rate is the exception by necessity: one that suits two thin
factors is too large for a whole matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..adapters.head import Head
from ..adapters.lowrank import LowRank
from ..errors import MergeError
from ..models.layers import linear_layers, target_names
from ..tasks.task import Task
from .lora import Attached
from .settings import Progress, TrainingSettings
from .trainer import train_attached


def full_fine_tune(
    model: nn.Module,
    tokenizer: Any,
    task: Task,
    settings: TrainingSettings,
    head: Head | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Progress]:
    """Fine-tune the weights of the target modules and a pooled head; yields as `fine_tune` does, the update comes with
    the last.

    Biases and every other parameter stay as they are. Closing the generator is a clean cancel that keeps nothing; the
    base model is restored bit for bit in any case.

    Parameters
    ----------
    model : bare encoder or decoder in float32; its weights move while the generator runs and are themselves again
        afterwards
    settings : what concerns LoRA's factors alone (init, rank, alpha, k, pooling, freeze_A) has no effect
    head, stop : see `fine_tune`

    Returns
    -------
    Iterator of Progress
        The last one's adapter holds B = W - W_0 (out, in) and A = 1 (in, in) per module, so that whatever takes
        adapters takes it; ``metadata.full`` is True. ``drift`` is None: there is no A that could move.

    Raises
    ------
    MergeError
        If a module is missing, is no linear layer, or is not float32, in which small steps would be rounded away.
    """
    names = target_names(model, settings.modules)
    for name, layer in linear_layers(model, names).items():
        if layer.weight.dtype != torch.float32:
            raise MergeError(f"{name} is {layer.weight.dtype}: load the base in float32 to train its weights.")
    with closing(train_attached(model, tokenizer, task, settings, lambda: _weights(model, names), head, stop)) as run:
        for progress in run:
            if progress.adapter is None:
                yield progress
            else:
                metadata = progress.adapter.metadata.changed(full=True)
                yield replace(progress, adapter=replace(progress.adapter, metadata=metadata))


@contextmanager
def _weights(model: nn.Module, names: Sequence[str]) -> Iterator[Attached]:
    """Let the weights of these modules and nothing else be trained; put values and flags back whatever happens."""
    layers = linear_layers(model, names)
    weights: dict[str, nn.Parameter] = {name: layer.weight for name, layer in layers.items()}  # type: ignore[misc]
    start = {name: weight.detach().clone() for name, weight in weights.items()}
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        model.requires_grad_(False)
        for weight in weights.values():
            weight.requires_grad_(True)
        yield Attached([*weights.values()], lambda: _updates(layers, start))
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(start[name])
                weight.grad = None


@torch.no_grad()
def _updates(layers: Mapping[str, nn.Module], start: Mapping[str, Tensor]) -> dict[str, LowRank]:
    found = {}
    for name, layer in layers.items():
        moved = (layer.weight - start[name]).cpu()  # type: ignore[operator]
        dense = moved if isinstance(layer, nn.Linear) else moved.T.contiguous()
        found[name] = LowRank(dense, torch.eye(dense.shape[1]))
    return found
