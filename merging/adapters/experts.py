"""LoRA on bare parameters (PEFT's target_parameters): the experts of a layer share one tensor, and each is a module.

PEFT keeps the factors of all experts of a parameter (experts, .., ..) in two matrices: A (experts * r, in), whose rows
run expert by expert, and B (out, r * experts), whose columns run direction by direction. The update of expert e is
scaling * B_e A_e, and the module is called ``mlp.experts.gate_up_proj[e]`` here. Where a layer has several such
parameters PEFT's wrappers are nested, the first parameter innermost, and their keys carry ``base_layer`` for each
wrapper around them.

References
----------
peft/tuners/lora/layer.py, ParamWrapper.get_delta_weight; peft/tuners/tuners_utils.py, _inject_parameters.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import MergeError
from .base_files import BaseFiles
from .config import rank_at
from .names import BELOW, expert_of

USUAL_ORDER = ("gate_up_proj", "gate_up_proj_bias", "down_proj", "down_proj_bias")
"""Of the parameters of a layer of experts, in every architecture of transformers that has them."""
HOLDER = "experts"
"""What transformers calls such a layer."""
Factors = Mapping[str, tuple[Tensor, Tensor]]


def unstacked(
    factors: Factors, config: Mapping[str, Any], base: BaseFiles | None, where: str
) -> tuple[dict[str, tuple[Tensor, Tensor]], dict[str, str], frozenset[str]]:
    """Take the experts of a file apart.

    Parameters
    ----------
    factors : {module as the keys name it: (A, B)}
    base : the base model where it is at hand, which knows the order of a layer's parameters

    Returns
    -------
    factors : {module, or ``parameter[expert]``: (A, B)}
    patterned : {the same: its name as the configuration's patterns know it}
    bare : the modules whose single matrix PEFT takes as a parameter, such as a router

    Raises
    ------
    MergeError
        If it cannot be said which parameter a key belongs to, or the matrices hold no whole number of experts.
    """
    wrapped = _wrapped(factors, config.get("target_parameters") or (), base, where)
    parts: dict[str, tuple[Tensor, Tensor]] = {}
    patterned: dict[str, str] = {}
    bare: set[str] = set()
    for module, (A, B) in factors.items():
        parameter = wrapped.get(module)
        if parameter is None:
            parts[module], patterned[module] = (A, B), module
            continue
        owner, _, leaf = parameter.rpartition(".")
        rank = int(rank_at(config, parameter, where))
        count = len(A) // max(1, rank)
        shape = base.parameters[parameter].shape if base is not None and parameter in base.parameters else None
        if rank < 1 or count * rank != len(A) or (shape is not None and count != (shape[0] if len(shape) == 3 else 1)):
            raise MergeError(
                f"{where}: {parameter} has {len(A)} directions in the file, which are not {rank} for each expert: its "
                "scaling is unknown."
            )
        if count == 1 and leaf == "weight":
            parts[owner], patterned[owner] = (A, B), parameter
            bare.add(owner)
            continue
        if shape is not None and len(shape) != 3:
            raise MergeError(f"{where} has LoRA on {parameter}, which is neither one matrix nor one per expert.")
        if shape is not None and base is not None:
            turned = getattr(base.model.get_submodule(owner), "is_transposed", False)
            expected = (shape[2], shape[1]) if turned else (shape[1], shape[2])
            if (len(B), A.shape[1]) != expected:
                raise MergeError(
                    f"{where}: an expert of {parameter} is {(len(B), A.shape[1])} in the file but {expected} in the "
                    "base model, so PEFT cannot load it: it is of another base, or an older PEFT wrote A and B the "
                    "other way round."
                )
        each_A = A.reshape(count, rank, A.shape[1])
        each_B = B.reshape(B.shape[0], rank, count)
        for expert in range(count):
            name = f"{parameter}[{expert}]"
            parts[name], patterned[name] = (each_A[expert], each_B[:, :, expert]), parameter
    return parts, patterned, frozenset(bare)


def stacked(
    factors: Factors, bare: Collection[str], base: BaseFiles | None, where: str
) -> tuple[dict[str, tuple[Tensor, Tensor]], list[str]]:
    """Put experts together as PEFT keeps them: the inverse of `unstacked`, for factors of one rank.

    Returns
    -------
    factors : {module as the keys name it: (A, B)}
    parameters : full names, PEFT's target_parameters

    Raises
    ------
    MergeError
        If a layer has several parameters and nothing says in which order.
    """
    experts: dict[str, dict[int, tuple[Tensor, Tensor]]] = {}
    for name, pair in factors.items():
        if (expert := expert_of(name)) is not None:
            experts.setdefault(expert[0], {})[expert[1]] = pair
    result = {name: pair for name, pair in factors.items() if expert_of(name) is None}
    owners: dict[str, set[str]] = {}
    for parameter in experts:
        owner, _, leaf = parameter.rpartition(".")
        owners.setdefault(owner, set()).add(leaf)
    for owner, leaves in owners.items():
        ordered = _ordered(owner, leaves, base, where)
        for place, leaf in enumerate(ordered):
            result[_nested(owner, len(ordered) - 1 - place)] = _together(experts[f"{owner}.{leaf}"])
    return result, sorted([*experts, *(f"{name}.weight" for name in bare if name in factors)])


def _together(experts: Mapping[int, tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    some_A, some_B = next(iter(experts.values()))
    nothing = torch.zeros_like(some_A), torch.zeros_like(some_B)
    each = [experts.get(expert, nothing) for expert in range(max(experts) + 1)]
    return torch.cat([A for A, _ in each]), torch.stack([B for _, B in each], dim=2).flatten(1)


def _nested(owner: str, depth: int) -> str:
    return owner + f".{BELOW}" * depth


def _wrapped(modules: Iterable[str], targets: Collection[str], base: BaseFiles | None, where: str) -> dict[str, str]:
    """Return {module as a key names it: the parameter that its factors are of}, for those of parameters."""
    holders = Counter(_holder(module) for module in modules) if targets else Counter()
    found: dict[str, str] = {}
    for holder, depth in holders.items():
        leaves = _targeted(holder, targets, base)
        if not leaves:  # a module as any other
            continue
        ordered = _ordered(holder, leaves, base, where)
        if len(ordered) != depth:
            raise MergeError(
                f"{where} has {depth} pairs of LoRA factors at {holder}, but its target_parameters name "
                f"{', '.join(ordered)} there: which is which is unknown."
            )
        found |= {_nested(holder, depth - 1 - place): f"{holder}.{leaf}" for place, leaf in enumerate(ordered)}
    return found


def _holder(module: str) -> str:
    while module.endswith(f".{BELOW}"):
        module = module.removesuffix(f".{BELOW}")
    return module


def _targeted(holder: str, targets: Collection[str], base: BaseFiles | None) -> set[str]:
    """Return the names of the holder's own parameters that PEFT would match."""
    if base is not None and (own := base.own_parameters(holder)):
        full = {leaf: f"{holder}.{leaf}" for leaf in own}
        return {leaf for leaf, name in full.items() if any(f".{name}".endswith(f".{target}") for target in targets)}
    named = set()
    for target in targets:
        owner, _, leaf = target.rpartition(".")
        if f".{holder}".endswith(f".{owner or HOLDER}"):
            named.add(leaf)
    return named


def _ordered(holder: str, leaves: Collection[str], base: BaseFiles | None, where: str) -> list[str]:
    own = base.own_parameters(holder) if base is not None else ()
    order = own if set(leaves) <= set(own) else USUAL_ORDER
    if len(leaves) > 1 and not set(leaves) <= set(order):
        raise MergeError(
            f"{where} has LoRA on several parameters of {holder} ({', '.join(sorted(leaves))}), whose order only the "
            "base model tells: give its folder with --base, or base=."
        )
    return sorted(leaves, key=lambda leaf: order.index(leaf) if leaf in order else 0)
