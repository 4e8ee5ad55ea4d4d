"""PEFT's adapter files: which keys they have, and which of them are updates, heads, or other modules that were trained
whole.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..errors import MergeError
from .base_files import BaseFiles
from .config import CONFIG_FILE, LANGUAGE_MODELS
from .experts import unstacked
from .names import BELOW, ROOT, expert_of, outside_of, owner_of, plain_keys, prefix_of, weight_of

WEIGHTS_FILE = "adapter_model.safetensors"
__all__ = ["CONFIG_FILE", "ROOT", "WEIGHTS_FILE", "Parts", "factor_keys", "is_saved", "split_keys"]

ALWAYS_SAVED = ("classifier", "score")
"""What PEFT adds to modules_to_save by itself for classification tasks."""
EMBEDDINGS = ("embed_tokens", "lm_head", "wte", "wpe", "embed_in", "embed_out", "word_embeddings", "shared")
"""What PEFT writes beside the LoRA without modules_to_save, after a change of the vocabulary or because it carries
LoRA.
"""
HEADS = ("classifier", "score", "qa_outputs", "pre_classifier", "classification_head", "pooler", "head", "fc_norm")
"""Layers that turn states into labels, where the task type does not say what a saved module is."""
HEADED = (*LANGUAGE_MODELS, "SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS")
"""Task types for which PEFT wraps a model with a head."""
FOREIGN_KEYS = {
    "lora_unet_": "a kohya LoRA of a diffusion model",
    "lora_te": "a kohya LoRA of a text encoder",
    "unet.": "a diffusers LoRA",
    "transformer.single_transformer_blocks.": "a diffusers LoRA",
    "diffusion_model.": "a LoRA of a diffusion model",
}


FOREIGN_FACTORS = {
    ".lora_a.": "MLX and mistral-finetune",
    ".lora_b.": "MLX and mistral-finetune",
    ".lora_down.": "kohya's scripts",
    ".lora_up.": "kohya's scripts",
    ".lora.down.": "diffusers",
    ".lora.up.": "diffusers",
    "adapter.linear_in.": "NeMo",
    "adapter.linear_out.": "NeMo",
}
"""What other tools call A and B, by a part of the key."""


@dataclass(frozen=True)
class Parts:
    """An adapter file, sorted.

    Attributes
    ----------
    prefix : the architecture's, that names inside the encoder carry
    factors : {module with prefix: (A, B)}
    patterned : {module with prefix: its name as the configuration's patterns know it}; they differ where transformers
        renamed it since
    outside : modules of ``factors`` that lie outside the encoder
    embeddings : those that are embeddings, whose update is of a weight (entries, width)
    bare : those whose matrix PEFT takes as a bare parameter, see `merging.adapters.experts`
    head : {parameter: tensor} of what turns states into labels
    trained : {parameter: tensor} of all other modules that were trained or saved whole (embeddings, norms, a language
        model's head)
    """

    prefix: str
    factors: Mapping[str, tuple[Tensor, Tensor]]
    patterned: Mapping[str, str]
    outside: frozenset[str]
    embeddings: frozenset[str] = frozenset()
    bare: frozenset[str] = frozenset()
    head: dict[str, Tensor] = field(default_factory=dict)
    trained: dict[str, Tensor] = field(default_factory=dict)


def split_keys(
    tensors: Mapping[str, Tensor], config: Mapping[str, Any], where: str, base: BaseFiles | None = None
) -> Parts:
    """Sort an adapter's tensors.

    Parameters
    ----------
    base : the base model where it is at hand; then old names become today's

    Raises
    ------
    MergeError
        For a key that is neither a LoRA factor of a linear layer nor of a module that was saved whole, a factor without
        its partner, an empty tensor, a prefix that PEFT would not find, or modules with different architecture
        prefixes.
    """
    halves: dict[str, dict[str, Tensor]] = {}
    whole: dict[str, Tensor] = {}
    embeddings: set[str] = set()
    saved = {*(config.get("modules_to_save") or ()), *ALWAYS_SAVED}
    for key, original in plain_keys(tensors, where).items():
        tensor = tensors[original]
        name = _below_root(key, original, where)
        module, side, embedding = _factor(name)
        _check_key(name, original, tensor, bool(side), where)
        if side:
            if side in halves.setdefault(module, {}):
                raise MergeError(f"{where}: {module} has LoRA both of a linear layer and of an embedding.")
            halves[module][side] = tensor.T if embedding else tensor
            embeddings |= {module} if embedding else set()
        else:
            whole[name] = tensor
    factors, patterned, bare = unstacked(_paired(halves, where), config, base, where)
    head: dict[str, Tensor] = {}
    trained: dict[str, Tensor] = {}
    names, prefix = _todays(factors, base, bool(config.get("task_type") in HEADED))
    outside = outside_of(names.values(), prefix, where)
    biases = config.get("bias", "none") != "none"  # which PEFT reads by their names, whatever stands there
    for key, tensor in whole.items():
        name = key.replace(f".{BELOW}.", ".")
        bias = biases and name.endswith(".bias") and not is_saved(name, config.get("modules_to_save") or ())
        copy = name != key and name.rpartition(".")[0] in factors
        if not bias and not copy and not is_saved(name, {*saved, *EMBEDDINGS}):
            raise MergeError(
                f"{where}: the key {ROOT}{key} is neither a LoRA factor nor in modules_to_save; nothing known to do "
                "with it."
            )
        name = (base.todays(name) if base and prefix == base.prefix else None) or name
        (head if not bias and _is_head(name, prefix, config) else trained)[name] = tensor
    lacking = missing_part({*head, *trained}, config.get("modules_to_save") or (), base.parameters) if base else None
    if lacking is not None:
        raise MergeError(
            f"{where} lacks {lacking}, a part of a module in modules_to_save: PEFT cannot load it; save it again."
        )
    return Parts(
        prefix,
        {names[old]: pair for old, pair in factors.items()},
        {new: patterned[old] for old, new in names.items()},
        outside,
        frozenset(names[old] for old in embeddings),
        frozenset(names[old] for old in bare),
        head,
        trained,
    )


def factor_keys(name: str, A: Tensor, B: Tensor, embedding: bool) -> dict[str, Tensor]:
    """Return {key: tensor} of the factors of a module with its full ``name``, as `split_keys` reads them."""
    if embedding:
        return {f"{ROOT}{name}.lora_embedding_A": B.T, f"{ROOT}{name}.lora_embedding_B": A.T}
    return {f"{ROOT}{name}.lora_A.weight": A, f"{ROOT}{name}.lora_B.weight": B}


def is_saved(name: str, saved: Collection[str]) -> bool:
    """Tell whether a parameter belongs to one of the modules ``saved``, as PEFT matches them: by the end of a
    component, or whole.
    """
    module = name.rpartition(".")[0]
    return any(part.endswith(entry) for part in name.split(".") for entry in saved) or any(
        f".{module}.".find(f".{entry}.") >= 0 for entry in saved if "." in entry
    )


def _factor(name: str) -> tuple[str, str | None, bool]:
    """Return (module, side of B A, whether it is an embedding's) of a LoRA key below the root; no side for any other
    key.

    The update of an embedding's weight (entries, width) is the transposed product, (B A)^T = A^T B^T: PEFT's A is our
    B.
    """
    for side, other in (("A", "B"), ("B", "A")):
        if name.endswith(f".lora_{side}.weight"):
            return name.removesuffix(f".lora_{side}.weight"), side, False
        if name.endswith(f".lora_embedding_{side}"):
            return name.removesuffix(f".lora_embedding_{side}"), other, True
    return name, None, False


def missing_part(whole: Collection[str], saved: Collection[str], parameters: Collection[str]) -> str | None:
    """Return a parameter that a module of modules_to_save needs and the file lacks, which PEFT then cannot load.

    Parameters
    ----------
    whole : parameters that the file holds
    saved : modules_to_save
    parameters : of the base, named as ``whole`` is
    """
    held: dict[str, set[str]] = {}
    for name in parameters:
        parts = name.split(".")[:-1]
        owners = (".".join(parts[:count]) for count in range(1, len(parts) + 1))
        owner = next((module for module in owners if module.endswith(tuple(saved))), None)
        if owner is not None:
            held.setdefault(owner, set()).add(name)
    lacking = [names - set(whole) for names in held.values() if names & set(whole)]
    return min((min(names) for names in lacking if names), default=None)


def _below_root(key: str, original: str, where: str) -> str:
    foreign = next((kind for start, kind in FOREIGN_KEYS.items() if key.startswith(start)), None)
    if foreign:
        raise MergeError(f"{where} is {foreign} ({original[:100]}), not an adapter in PEFT's format: convert it first.")
    tool = next((tool for part, tool in FOREIGN_FACTORS.items() if part in f"{key}."), None)
    if tool:
        raise MergeError(
            f"{where} names its factors as {tool} do ({original[:100]}), which PEFT does not read: convert it first."
        )
    if not key.startswith(ROOT) or key.startswith((ROOT + "base_model.", ROOT + ROOT)):
        raise MergeError(f"{where}: {original} does not start with {ROOT!r} once; PEFT would load it and do nothing.")
    return key.removeprefix(ROOT)


def _check_key(name: str, key: str, tensor: Tensor, factor: bool, where: str) -> None:
    if not tensor.numel() and (tensor.ndim < 2 or not factor):
        raise MergeError(
            f"{where}: {key} is empty, as DeepSpeed ZeRO-3 and FSDP leave it when the weights are not gathered before "
            "saving: save it again."
        )
    if "lora_magnitude_vector" in name:
        raise MergeError(f"{where}: {key} belongs to DoRA, whose update is not scaling * B A.")
    if name.endswith((".lora_A.bias", ".lora_B.bias")):
        raise MergeError(f"{where}: {key} belongs to lora_bias, a bias beside B A.")
    if factor and tensor.ndim != 2:
        raise MergeError(
            f"{where}: {key} has {tensor.ndim} dimensions (a convolution); only linear layers are handled."
        )


def _paired(halves: Mapping[str, Mapping[str, Tensor]], where: str) -> dict[str, tuple[Tensor, Tensor]]:
    factors = {}
    for name, sides in sorted(halves.items()):
        if len(sides) != 2:
            raise MergeError(f"{where}: {name} has only lora_{next(iter(sides))}, its partner is missing.")
        A, B = sides["A"], sides["B"]
        if A.shape[0] != B.shape[1]:
            raise MergeError(f"{where}: {name} has A {tuple(A.shape)} and B {tuple(B.shape)}, whose ranks differ.")
        factors[name] = (A, B)
    if not factors:
        raise MergeError(f"{where} holds no LoRA factors: it is empty, or of a model that was trained whole.")
    return factors


def _todays(names: Collection[str], base: BaseFiles | None, headed: bool) -> tuple[dict[str, str], str]:
    """Return ({name in the file: today's name}, the architecture's prefix that these carry).

    Parameters
    ----------
    headed : the task needs a model with a head, so names without the prefix are old ones and not those of a bare
        encoder
    """
    same = {name: name for name in names}
    if base is None:
        return same, prefix_of(names)
    as_they_are = _known_prefix(names, base, headed)
    if as_they_are is not None:
        return same, as_they_are
    todays = {name: base.todays(weight_of(name)) for name in names}
    found = {name: _module(new, name) for name, new in todays.items() if new is not None}
    if len(found) < len(names) or len(set(found.values())) < len(
        names
    ):  # of another model, which shows when it meets its base
        return same, prefix_of(names)
    prefix = base.architecture_prefix
    carried = any(name.startswith(prefix) for name in names)
    if carried and not base.prefix:  # renaming has taken the prefix off
        return {name: new if new.startswith(prefix) else prefix + new for name, new in found.items()}, prefix
    if base.prefix and not carried and not headed:
        return {name: new.removeprefix(prefix) for name, new in found.items()}, ""
    return found, base.prefix


def _module(weight: str, like: str) -> str:
    """Return the module with a ``weight``: one expert where the module ``like`` is one."""
    expert = expert_of(like)
    return weight.removesuffix(".weight") if expert is None else f"{weight}[{expert[1]}]"


def _known_prefix(names: Collection[str], base: BaseFiles, headed: bool) -> str | None:
    """Return the prefix of names that are today's already; None if they are not."""
    prefix = base.architecture_prefix
    names = {owner_of(name) for name in names}
    if names <= base.modules:
        return base.prefix
    if not base.prefix and {name.removeprefix(prefix) for name in names if name.startswith(prefix)} & base.modules:
        inside = {name.removeprefix(prefix) for name in names if name.startswith(prefix)}
        return (
            prefix if inside <= base.modules else None
        )  # the base's files are the bare encoder's, the adapter's model had a head
    if base.prefix and not headed and all(base.prefix + name in base.modules for name in names):
        return ""
    return None


def _is_head(name: str, prefix: str, config: Mapping[str, Any]) -> bool:
    """Tell a head (of classification and the like) from any other module that was saved whole."""
    parts = name.split(".")
    if config.get("task_type") in LANGUAGE_MODELS or is_saved(name, EMBEDDINGS):
        return False
    inside = bool(prefix) and name.startswith(prefix)
    if config.get("task_type") and prefix and not inside:
        return True
    return any(part in HEADS for part in parts)
