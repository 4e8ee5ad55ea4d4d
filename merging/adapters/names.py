"""What keys in adapter files are called, without what wrappers, PEFT's bookkeeping and the architecture put around the
names.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from ..errors import MergeError

ROOT = "base_model.model."
WRAPPER = re.compile(r"_\w*mod(ule)?|module")
"""What FSDP, activation checkpointing, torch.compile, DDP and their like put into names: _fsdp_wrapped_module,
_orig_mod, module ..
"""
FACTOR = re.compile(r"lora_(A|B|embedding_A|embedding_B|magnitude_vector)")
ABOVE_ENCODER = (
    "lm_head",
    "embed_out",
    "classifier",
    "score",
    "qa_outputs",
    "pre_classifier",
    "classification_head",
    "cls",
    "head",
)
"""Where the names of a model with a head begin outside its encoder."""
SAVED, ORIGINAL, BELOW = "modules_to_save", "original_module", "base_layer"
EXPERT = re.compile(r"(.+)\[(\d+)\]")


def expert_of(module: str) -> tuple[str, int] | None:
    """Return (parameter, number) of a module that is one expert in the tensor of all, ``mlp.experts.down_proj[3]``."""
    match = EXPERT.fullmatch(module)
    return (match[1], int(match[2])) if match else None


def weight_of(module: str) -> str:
    """Return the name of the parameter that holds a module's weight: its own, or that of all experts."""
    expert = expert_of(module)
    return f"{module}.weight" if expert is None else expert[0]


def owner_of(module: str) -> str:
    """Return the module of the model that a module's weight stands in: itself, or the layer of all experts."""
    return weight_of(module).rpartition(".")[0]


def plain_keys(keys: Iterable[str], where: str) -> dict[str, str]:
    """Return {plain key: key in the file}: without wrappers, adapter names and ``modules_to_save``; PEFT's own copies
    are left out.

    Raises
    ------
    MergeError
        If two keys of the file become one.
    """
    plain: dict[str, str] = {}
    keys = list(keys)
    given = set(keys)
    adapters = {"default"} | {name for key in keys if (name := _adapter_name(key.split(".")))}
    for key in keys:
        parts = [part for part in key.split(".") if not WRAPPER.fullmatch(part)]
        if ORIGINAL in parts:  # the module as it was before the training, which PEFT keeps beside the trained one
            continue
        if _adapter_name(parts):
            parts.pop(-1 if FACTOR.fullmatch(parts[-2]) else -2)
        wrapped = SAVED in parts
        if wrapped:
            place = parts.index(SAVED)
            named = len(parts) > place + 2 and parts[place + 1] in adapters
            parts = parts[:place] + parts[place + (2 if named else 1) :]
        name = ".".join(parts)
        if wrapped and name in given:  # a second copy, of embeddings after a resize: PEFT reads the plain key
            continue
        if name in plain:
            raise MergeError(
                f"{where}: {plain[name]} and {key} are both {name}: it is two adapters in one file, save one alone."
            )
        plain[name] = key
    return plain


def _adapter_name(parts: list[str]) -> str | None:
    """Return the adapter's name inside a LoRA key (lora_A.default.weight), if it has one."""
    if len(parts) >= 3 and FACTOR.fullmatch(parts[-3]) and parts[-1] in ("weight", "bias"):
        return parts[-2]
    return parts[-1] if len(parts) >= 2 and re.fullmatch(r"lora_embedding_[AB]", parts[-2]) else None


@lru_cache(maxsize=1)
def architecture_prefixes() -> frozenset[str]:
    """Return every base_model_prefix of the installed transformers that is the name of an architecture, or the general
    two.

    Read from the sources: importing every architecture would take minutes. What else stands there (encoder,
    vision_model ..) is the name of a part of some model as well.
    """
    spec = find_spec("transformers")
    root = Path(spec.origin).parent / "models" if spec and spec.origin else Path()
    found = {"model", "transformer"}
    for path in root.glob("*/modeling_*.py"):
        found |= set(re.findall(r'base_model_prefix\s*=\s*"([^".]+)"', path.read_text(encoding="utf-8")))
    return frozenset(found & {"model", "transformer", *(path.name for path in root.glob("*"))})


def prefix_of(names: Iterable[str]) -> str:
    """Return the architecture's prefix that most of the module ``names`` carry ("bert.", "model."), or "".

    A bare DistilBERT's names begin like GPT-2's prefix, but go on otherwise.
    """
    counts = Counter(
        first
        for name in names
        if (first := name.partition(".")[0]) not in ABOVE_ENCODER and not name.startswith("transformer.layer.")
    )
    known = [(count, first) for first, count in counts.items() if first in architecture_prefixes()]
    return f"{max(known)[1]}." if known else ""


def outside_of(names: Iterable[str], prefix: str, where: str) -> frozenset[str]:
    """Return the module names that lie outside the encoder: those without its prefix, or with a head's own name where
    it has none.

    Raises
    ------
    MergeError
        If some carry the prefix and others are the same without it: no model has both.
    """
    names = list(names)
    if not prefix:
        return frozenset(name for name in names if name.partition(".")[0] in ABOVE_ENCODER)
    outside = frozenset(name for name in names if not name.startswith(prefix))
    inside = {name.removeprefix(prefix).partition(".")[0] for name in names if name.startswith(prefix)}
    if twice := sorted(name for name in outside if name.partition(".")[0] in inside):
        raise MergeError(
            f"{where}: {twice[0]} lacks the prefix {prefix!r} that others of its modules carry; they cannot be of one "
            "model."
        )
    return outside
