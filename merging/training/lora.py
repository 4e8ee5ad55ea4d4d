"""LoRA layers on a model, and how their A starts: PEFT's default, PEFT's gaussian, random orthonormal, or OSRM."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..adapters.lowrank import LowRank
from ..errors import MergeError
from ..features.moments import Features
from ..models.layers import bare, linear_layers, out_in, target_names
from ..osrm import official_init, osrm_init, random_orthonormal
from .drift import drift
from .settings import HEADS, INITS, TrainingSettings


@dataclass(frozen=True, eq=False)
class Attached:
    """What a training changes: LoRA layers, or the weights themselves.

    Attributes
    ----------
    parameters : what the optimiser moves, without the head
    read : returns {module: update (out, in)} as it is now, on the CPU and in memory of its own
    drift : returns how far A has moved (Frobenius, Procrustes); None where there is no A
    """

    parameters: Sequence[nn.Parameter]
    read: Callable[[], dict[str, LowRank]]
    drift: Callable[[], tuple[float, float]] | None = None


def osrm_start(
    features: Features,
    task: str,
    settings: TrainingSettings,
    modules: Sequence[str],
    others: Sequence[str] | None = None,
) -> dict[str, Tensor] | None:
    """Return {module: A} that an OSRM training starts from; None for an init that the trainer draws itself."""
    if settings.init != "osrm":
        return None
    if settings.pooling == "official":
        return {module: official_init(features, task, settings.rank, module, others) for module in modules}
    return {module: osrm_init(features, task, settings.rank, module, others, settings.pooling) for module in modules}


def starting_A(
    model: nn.Module, settings: TrainingSettings, A_init: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Return {module: A (rank, in)} that `fine_tune` would start from; the model is itself again afterwards."""
    names = target_names(model, settings.modules)
    with lora_layers(model, names, settings, initial_A(model, names, settings, A_init)) as attached:
        return {name: update.A for name, update in attached.read().items()}


@contextmanager
def lora_layers(
    model: nn.Module, names: Sequence[str], settings: TrainingSettings, initial: Mapping[str, Tensor]
) -> Iterator[Attached]:
    """Attach LoRA layers, and take them off again whatever happens."""
    from peft import LoraConfig, get_peft_model  # noqa: PLC0415 - takes seconds

    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)  # PEFT draws its A from the global generator
        # a pattern: PEFT shortens a long list of names to suffixes, which may fit more
        targets = rf"(?:.*\.)?(?:{'|'.join(map(re.escape, names))})"
        config = LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,
            target_modules=targets,
            lora_dropout=0.0,
            init_lora_weights="gaussian" if settings.init == "gaussian" else True,
        )
        wrapped = get_peft_model(model, config)
    try:
        layers = {name: layer for name, layer in bare(model).named_modules() if name in names}
        for name, A in initial.items():
            layers[name].lora_A["default"].weight.data.copy_(A)
        for layer in layers.values():
            A = layer.lora_A["default"].weight
            A.data.copy_(with_row_norm(A.data, settings.row_norm))
            A.requires_grad_(not settings.freeze_A)
        start = _read_A(layers)
        trained = [p for layer in layers.values() for p in layer.parameters() if p.requires_grad]
        yield Attached(trained, lambda: _read_lora(layers), lambda: drift(start, _read_A(layers)))
    finally:
        wrapped.unload()


def initial_A(
    model: nn.Module, names: Sequence[str], settings: TrainingSettings, A_init: Mapping[str, Tensor] | None
) -> dict[str, Tensor]:
    """Return {module: A} that takes the place of PEFT's; none where PEFT draws it.

    Raises
    ------
    MergeError
        For an unknown init or head, or an A that is missing or of another shape.
    """
    if settings.init not in INITS:
        raise MergeError(f"Unknown initialisation {settings.init!r}: choose one of {', '.join(INITS)}.")
    if settings.head not in HEADS:
        raise MergeError(f"Unknown head {settings.head!r}: choose one of {', '.join(HEADS)}.")
    if settings.init in ("default", "gaussian"):
        return {}
    if settings.init == "osrm":
        missing = [name for name in names if name not in (A_init or {})]
        if missing or A_init is None:
            raise MergeError(f"Initialisation osrm needs an A for {missing[0] if missing else names[0]}.")
        layers = linear_layers(model, names)
        for name in names:
            expected = (settings.rank, out_in(layers[name])[1])
            if tuple(A_init[name].shape) != expected:
                raise MergeError(f"The A given for {name} is {tuple(A_init[name].shape)}, not (rank, in) = {expected}.")
        return {name: A_init[name] for name in names}
    generator = torch.Generator().manual_seed(settings.seed)
    return {
        name: random_orthonormal(settings.rank, out_in(layer)[1], generator)
        for name, layer in linear_layers(model, names).items()
    }


def with_row_norm(A: Tensor, row_norm: float | Literal["gaussian"] | None) -> Tensor:
    """Return A (rank, in) with every row brought to one length, see `TrainingSettings.row_norm`.

    Raises
    ------
    MergeError
        If the length is not positive.
    """
    if row_norm is None:
        return A
    length = A.shape[1] ** 0.5 / A.shape[0] if row_norm == "gaussian" else row_norm
    if not length > 0:
        raise MergeError(f"row_norm = {row_norm}: give a length above 0, or gaussian.")
    scaled: Tensor = A.double() * (length / A.double().norm(dim=1, keepdim=True))
    return scaled.to(A.dtype)


def _read_A(layers: Mapping[str, Any]) -> dict[str, Tensor]:
    return {name: layer.lora_A["default"].weight.detach().cpu().clone() for name, layer in layers.items()}


def _read_lora(layers: Mapping[str, Any]) -> dict[str, LowRank]:
    As = _read_A(layers)
    Bs = {name: layer.lora_B["default"].weight.detach() * layer.scaling["default"] for name, layer in layers.items()}
    return {name: LowRank(Bs[name].cpu(), As[name]) for name in layers}
