"""The layers of a base model: finding them, copying them, recognising a base by them, pooling what comes out."""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from ..adapters.lowrank import LowRank
from ..adapters.names import architecture_prefixes, expert_of
from ..errors import MergeError

NOT_ENCODER = ("pooler", "classifier", "score", "lm_head", "qa_outputs", "pre_classifier", "cls")


FINGERPRINT_SAMPLES = 256

T = TypeVar("T")


class Expert(nn.Linear):
    """One expert of a tensor that holds all experts of a layer, as the linear layer that it is.

    Attributes
    ----------
    weight : view (out, in) of its matrix: what is written there is written into the model
    stack : the model's own parameter, (experts, out, in) or (experts, in, out)
    turned : the latter
    """

    def __init__(self, stack: nn.Parameter, number: int, turned: bool) -> None:
        nn.Module.__init__(self)
        matrix = stack.detach()[number]
        self.weight = matrix.T if turned else matrix
        self.stack, self.turned = stack, turned
        self.out_features, self.in_features = self.weight.shape


def bare(model: nn.Module) -> nn.Module:
    """Return the encoder inside a model with a head, or the model itself."""
    inner = getattr(model, getattr(model, "base_model_prefix", "") or "", model)
    return inner if isinstance(inner, nn.Module) else model


def linear_kinds(model: nn.Module) -> tuple[str, ...]:
    """Return the last parts of the names of the encoder's linear layers, in their order; a pooler or a head does not
    count.
    """
    from transformers.pytorch_utils import Conv1D  # noqa: PLC0415 - takes seconds

    names = [name for name, module in bare(model).named_modules() if isinstance(module, nn.Linear | Conv1D)]
    return tuple(
        dict.fromkeys(name.rsplit(".", 1)[-1] for name in names if not set(name.split(".")) & set(NOT_ENCODER))
    )


def usual_targets(architecture: str) -> Sequence[str]:
    """Return the last parts of the names that PEFT adapts by default in an architecture, if any."""
    from peft.utils import constants  # noqa: PLC0415

    known: dict[str, Sequence[str]] = constants.TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
    return ["q_lin", "v_lin"] if architecture == "distilbert" else known.get(architecture, ())


def named_in(model: nn.Module, names: Mapping[str, T], name: str) -> T | None:
    """Return what ``names`` of a model with a head hold for a name relative to its encoder, outside it, or with the
    architecture's prefix.

    ``names`` are the model's own; inside the encoder they carry the prefix of ``model``, if it has one.
    """
    prefix = str(getattr(model, "base_model_prefix", "") or "")
    inside = f"{prefix}." if bare(model) is not model else ""
    tried = [f"{inside}{name}", name]
    if prefix not in architecture_prefixes():  # one that nobody could have told from a part of some model
        tried.append(name.removeprefix(f"{prefix}."))
    return next((names[place] for place in tried if place in names), None)


def linear_layers(model: nn.Module, names: Iterable[str], embeddings: bool = False) -> dict[str, nn.Module]:
    """Return {name: layer} for module names relative to the bare encoder, or outside it where the model has a head.

    Parameters
    ----------
    embeddings : whatever has a matrix as its weight is as good (nn.Embedding (entries, width), a router), and so is an
        `Expert`: they can take an update, but no inputs of theirs can be looked at

    Raises
    ------
    MergeError
        If the model has no such module, or it is neither nn.Linear nor transformers' Conv1D.
    """
    from transformers.pytorch_utils import Conv1D  # noqa: PLC0415 - takes seconds

    known = dict(model.named_modules(remove_duplicate=False))
    layers: dict[str, nn.Module] = {}
    for name in names:
        if (expert := expert_of(name)) is not None:
            if not embeddings:
                raise MergeError(
                    f"{name} is one of the experts that share a tensor: its inputs cannot be looked at. Choose a "
                    "method that needs no texts, or leave the experts out."
                )
            layers[name] = _expert(model, known, *expert)
            continue
        layer = named_in(model, known, name)
        if layer is None and re.search(r"\.experts\.\d+\.", name):
            raise MergeError(
                f"The model holds no {name!r} of its own (transformers has all experts of a layer in one tensor since "
                "version 5): write the whole model instead, whose files have it."
            )
        if layer is None:
            raise MergeError(
                f"The base model has no module {name!r}: the adapter has a wrong prefix or belongs to another model."
            )
        matrix = getattr(getattr(layer, "weight", None), "ndim", 0) == 2
        if not isinstance(layer, nn.Linear | Conv1D) and not (embeddings and matrix):
            only = "what has a matrix of weights can take an update" if embeddings else "linear layers can be looked at"
            raise MergeError(f"{name} is a {type(layer).__name__} in the base model; only {only}.")
        layers[name] = layer
    return layers


def _expert(model: nn.Module, modules: Mapping[str, nn.Module], parameter: str, number: int) -> Expert:
    owner, _, leaf = parameter.rpartition(".")
    layer = named_in(model, modules, owner)
    stack = getattr(layer, leaf, None)
    if not isinstance(stack, nn.Parameter) or stack.ndim != 3 or number >= len(stack):
        raise MergeError(
            f"The base model has no expert {parameter}[{number}]: the adapter has a wrong prefix or belongs to another "
            "model, or to another version of transformers."
        )
    return Expert(stack, number, bool(getattr(layer, "is_transposed", False)))


def is_transposed(layer: nn.Module) -> bool:
    """Tell whether a layer's weight is (in, out), as transformers' Conv1D has it."""
    from transformers.pytorch_utils import Conv1D  # noqa: PLC0415 - takes seconds

    return isinstance(layer, Conv1D)


def out_in(layer: nn.Module) -> tuple[int, int]:
    """Return (out, in) of a linear layer, (entries, width) of an embedding; Conv1D stores its weight transposed."""
    rows, columns = layer.weight.shape  # type: ignore[misc]
    return (columns, rows) if is_transposed(layer) else (rows, columns)


def working_copy(model: nn.Module, modules: Iterable[str]) -> nn.Module:
    """Return a model that shares every weight with ``model`` but those of ``modules``, which are its own copies.

    Two sessions can each change and run theirs at the same time, at the cost of the changed layers only.
    """
    layers = linear_layers(model, modules, embeddings=True).values()
    own = {id(layer.stack if isinstance(layer, Expert) else layer.weight) for layer in layers}
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors if id(tensor) not in own})


def fingerprint(model: nn.Module) -> str:
    """Return a hash that tells base models apart, the same for bfloat16 and float32 copies and under any head.

    Names, shapes and an evenly spaced sample of the bfloat16 values of every encoder parameter: milliseconds instead of
    reading all weights, and fine-tuning any layer changes it. Poolers and heads do not count, they come and go.
    """
    parameters = dict(bare(model).named_parameters())
    return fingerprint_of(parameters, parameters.__getitem__)


def fingerprint_of(names: Iterable[str], parameter_of: Callable[[str], Tensor]) -> str:
    """Return the `fingerprint` of an encoder whose parameters are asked for one by one, by name relative to the bare
    encoder.
    """
    digest = hashlib.sha256()
    for name in sorted(names):
        if any(part in NOT_ENCODER for part in name.split(".")):
            continue
        parameter = parameter_of(name)
        flat = parameter.detach().reshape(-1)
        count = min(len(flat), FINGERPRINT_SAMPLES)
        # whole numbers: a float32 linspace rounds differently on other processors, and past the end of a large tensor
        places = torch.arange(count, device=flat.device) * (len(flat) - 1) // max(count - 1, 1)
        sample = flat[places].to("cpu", torch.bfloat16).view(torch.int16).numpy()
        digest.update(f"{name}{tuple(parameter.shape)}".encode() + sample.tobytes())
    return digest.hexdigest()


def relative_norms(model: nn.Module, updates: Mapping[str, LowRank]) -> dict[str, float]:
    """Return {module: ||ΔW||_F / ||W_0||_F}: the best single sign of how hard adapters will be to merge.

    Raises
    ------
    MergeError
        See `linear_layers`.
    """
    layers = linear_layers(model, updates, embeddings=True)
    return {
        name: updates[name].norm() / float(layer.weight.detach().float().norm())  # type: ignore[operator]
        for name, layer in layers.items()
    }


def mean_pool(states: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over real tokens: states (batch, length, hidden), mask (batch, length) -> (batch, hidden)."""
    weights = mask.to(states).unsqueeze(-1)
    return (states * weights).sum(1) / weights.sum(1).clamp(min=1)


def pooled_states(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Return the mean-pooled last hidden states (batch, hidden) of the bare encoder; an encoder-decoder is refused
    (MergeError).
    """
    if bare(model).config.is_encoder_decoder:  # type: ignore[union-attr]
        raise MergeError(
            "An encoder-decoder has no state of a text that a classifier could read: let it write the labels (a "
            "Verbaliser)."
        )
    return mean_pool(bare(model)(**batch).last_hidden_state, batch["attention_mask"])


def target_names(model: nn.Module, targets: Sequence[str] = ()) -> list[str]:
    """Return the full names of the encoder's linear layers that are in ``targets``, whole or by their last part.

    Parameters
    ----------
    targets : none = what PEFT adapts by default in this architecture (query and value projections)

    Raises
    ------
    MergeError
        If there is none, or PEFT has no default for the architecture.
    """
    if not targets:
        kind = bare(model).config.model_type  # type: ignore[union-attr]
        targets = usual_targets(str(kind))
        if not targets:
            raise MergeError(f"There are no usual target modules for the architecture {kind!r}: name some.")
    # what comes behind the pooled states (a pooler, a head) would never learn
    names = [
        name
        for name, module in bare(model).named_modules()
        if (name in targets or name.rsplit(".", 1)[-1] in targets)
        and hasattr(module, "weight")
        and not set(name.split(".")) & set(NOT_ENCODER)
    ]
    if not names:
        raise MergeError(f"The base model has no module called {' or '.join(targets)}.")
    return names
