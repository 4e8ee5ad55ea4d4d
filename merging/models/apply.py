"""Put updates into a model's weights for a while, and take them out again bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..adapters.lowrank import LowRank
from ..adapters.peft_format import missing_part
from ..errors import MergeError
from .layers import fingerprint, is_transposed, linear_layers, named_in, out_in


def check_fits(model: nn.Module, shapes: Mapping[str, tuple[int, int]], base_fingerprint: str | None) -> None:
    """Raise MergeError unless the model has all modules in these (out, in) shapes and is the recorded base."""
    for name, layer in linear_layers(model, shapes, embeddings=True).items():
        if out_in(layer) != shapes[name]:
            raise MergeError(
                f"{name} is {out_in(layer)} in the base model but {shapes[name]} in the adapters: it is another base."
            )
    if base_fingerprint and fingerprint(model) != base_fingerprint:
        raise MergeError(
            "The model is not the base that the adapters were trained on (its fingerprint differs from theirs)."
        )


def check_whole(model: nn.Module, trained: Collection[str], saved: Collection[str]) -> None:
    """Raise MergeError where an adapter holds a module of modules_to_save only in part, which PEFT cannot load.

    Parameters
    ----------
    trained : parameters relative to the bare encoder
    """
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    paths = {name: name for name in names}
    found = {path for name in trained if (path := named_in(model, paths, name)) is not None}
    if lacking := missing_part(found, saved, names):
        raise MergeError(f"An adapter holds a module of its modules_to_save without its {lacking}: save it again.")


@torch.no_grad()
def add_update(layer: nn.Module, update: LowRank | Tensor) -> None:
    """Add an update (out, in) to a linear layer's weight, whatever its device, dtype and orientation."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    dense = (update.dense() if isinstance(update, LowRank) else update).to(weight.device, torch.float32)
    weight.copy_(weight.float() + (dense.T if is_transposed(layer) else dense))


@contextmanager
def added(
    model: nn.Module,
    modules: Mapping[str, tuple[int, int]],
    update_of: Callable[[str], LowRank | Tensor],
    parts: Mapping[str, tuple[str, bool]] | None = None,
    part_of: Callable[[str, Tensor], Tensor] | None = None,
) -> Iterator[nn.Module]:
    """Add ``update_of(module)`` to every module's weight; restore the saved weights on exit, also after an error.

    Parameters
    ----------
    model : any device and dtype; the sum is taken in float32
    modules : {module relative to the bare encoder: (out, in)}
    update_of : asked module by module, so that dense updates never exist all at once
    parts : {parameter relative to the bare encoder: (full name, whether what shares its tensor keeps the base's)}
    part_of : ``part_of(parameter, the base's value)`` is what takes its place
    """
    layers = linear_layers(model, modules, embeddings=True)
    places, originals = _places(model), dict(model.named_parameters(remove_duplicate=False))
    saved: dict[str, Tensor] = {}
    swapped: list[tuple[nn.Module, str, nn.Parameter]] = []
    try:
        with torch.no_grad():
            paths = {path: path for path in originals}
            for name, (_, apart) in (parts or {}).items():
                path = named_in(model, paths, name)
                if path is None or part_of is None:
                    raise MergeError(
                        f"The model has no {name}, which an adapter trained whole: load it with its head, or another "
                        "base."
                    )
                owner, _, leaf = path.rpartition(".")
                start = originals[path]
                value = part_of(name, start.detach()).to(start.device, start.dtype)
                if value.shape != start.shape:
                    raise MergeError(
                        f"{name} is {tuple(value.shape)} in an adapter but {tuple(start.shape)} in the model: it is of "
                        "another base, or its vocabulary was changed; change the model's the same way first."
                    )
                swapped += _swap([(model.get_submodule(owner), leaf)] if apart else places[id(start)], value)
            places = _places(model)
            for name, layer in layers.items():
                weight = layer.weight
                assert isinstance(weight, Tensor)
                if len(places.get(id(weight), ())) > 1:  # tied: LoRA on one of them leaves the other as it is
                    swapped += _swap([(layer, "weight")], weight.detach().clone())
                else:
                    saved[name] = weight.detach().clone()
                add_update(layer, update_of(name))
        yield model
    finally:
        with torch.no_grad():
            for name, tensor in saved.items():
                layers[name].weight.copy_(tensor)  # type: ignore[operator]
            for module, leaf, original in reversed(swapped):
                setattr(module, leaf, original)


def _places(model: nn.Module) -> dict[int, list[tuple[nn.Module, str]]]:
    """Return {id of a parameter: where it stands}; tied ones stand in several modules."""
    places: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for leaf, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            places.setdefault(id(parameter), []).append((module, leaf))
    return places


def _swap(places: Sequence[tuple[nn.Module, str]], value: Tensor) -> list[tuple[nn.Module, str, nn.Parameter]]:
    """Put a value in the place of parameters; return what to put back."""
    before = [(module, leaf, module._parameters[leaf]) for module, leaf in places]
    new = nn.Parameter(value, requires_grad=False)
    for module, leaf in places:
        setattr(module, leaf, new)
    return [(module, leaf, parameter) for module, leaf, parameter in before if parameter is not None]
