"""Put updates into a model's weights for a while, and take them out again bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..adapters.lowrank import LowRank
from ..errors import MergeError
from .layers import fingerprint, linear_layers, out_in


def check_fits(model: nn.Module, shapes: Mapping[str, tuple[int, int]], base_fingerprint: str | None) -> None:
    """Raise MergeError unless the model has all modules in these (out, in) shapes and is the recorded base."""
    for name, layer in linear_layers(model, shapes).items():
        if out_in(layer) != shapes[name]:
            raise MergeError(
                f"{name} is {out_in(layer)} in the base model but {shapes[name]} in the adapters: it is another base."
            )
    if base_fingerprint and fingerprint(model) != base_fingerprint:
        raise MergeError("The model is not the base that the adapters were trained on (its fingerprint differs from theirs).")


@torch.no_grad()
def add_update(layer: nn.Module, update: LowRank | Tensor) -> None:
    """Add an update (out, in) to a linear layer's weight, whatever its device, dtype and orientation."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    dense = (update.dense() if isinstance(update, LowRank) else update).to(weight.device, torch.float32)
    weight.copy_(weight.float() + (dense if isinstance(layer, nn.Linear) else dense.T))


@contextmanager
def added(
    model: nn.Module, modules: Mapping[str, tuple[int, int]], update_of: Callable[[str], LowRank | Tensor]
) -> Iterator[nn.Module]:
    """Add ``update_of(module)`` to every module's weight; restore the saved weights on exit, also after an error.

    Parameters
    ----------
    model : any device and dtype; the sum is taken in float32
    modules : {module relative to the bare encoder: (out, in)}
    update_of : asked module by module, so that dense updates never exist all at once
    """
    layers = linear_layers(model, modules)
    saved: dict[str, Tensor] = {}
    try:
        with torch.no_grad():
            for name, layer in layers.items():
                saved[name] = layer.weight.detach().clone()  # type: ignore[operator]
                add_update(layer, update_of(name))
        yield model
    finally:
        with torch.no_grad():
            for name, original in saved.items():
                layers[name].weight.copy_(original)  # type: ignore[operator]
