"""Base models: loading them, recognising them, finding their linear layers, pooling their states."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn

from ..errors import MergeError
from .embedded import base_name, model_folder

DTYPES: dict[str, Any] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "auto": "auto",
}
"""What a base can be loaded in; "auto" is what its files are in. Merges are computed in float32 in any case."""
UNREADABLE = (OSError, ValueError, ImportError, SafetensorError, StrictDataclassError)
"""What transformers raises for files that are missing, damaged or of an unknown kind."""


def load_base(source: str | Path, dtype: str = "float32", device_map: Any = None) -> tuple[nn.Module, Any]:
    """Return (bare model in eval mode, tokenizer).

    Parameters
    ----------
    source : an `merging.models.embedded.EMBEDDED` name ("minilm", "smollm2"), a folder in the hub's layout, or a hub id
        with an optional @revision
    dtype : see `DTYPES`
    device_map : as transformers takes it ("auto" spreads a large model over what there is); None = the CPU

    Raises
    ------
    ResourceError
        If an embedded model cannot be reached.
    MergeError
        If transformers finds no model there, or the dtype is none of `DTYPES`.
    """
    from transformers import AutoModel  # noqa: PLC0415 - takes seconds

    return _load(AutoModel, source, dtype, device_map)


def load_language_model(source: str | Path, dtype: str = "float32", device_map: Any = None) -> tuple[nn.Module, Any]:
    """Return (model with its language-model head in eval mode, tokenizer); updates go to the bare model inside, see
    `bare`.

    Parameters
    ----------
    source, dtype, device_map : see `load_base`; the model is a decoder or an encoder-decoder

    Raises
    ------
    ResourceError
        If an embedded model cannot be reached.
    MergeError
        If transformers finds no model there, it is an encoder, or its language-model head is not there.
    """
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM  # noqa: PLC0415 - takes seconds

    kind = AutoModelForSeq2SeqLM if load_config(source).is_encoder_decoder else AutoModelForCausalLM
    model, tokenizer = _load(kind, source, dtype, device_map)
    language_model_kind(model)
    missing = sorted(model.untrained)  # type: ignore[arg-type]
    if missing:
        raise MergeError(
            f"{source} has no {missing[0]}, a random one would make every likelihood meaningless: it is the bare "
            "model, take the one with its language-model head."
        )
    return model, tokenizer


def load_config(source: str | Path) -> Any:
    """Return the transformers config of a base model, see `load_base`; raises MergeError if there is none."""
    from transformers import AutoConfig  # noqa: PLC0415 - takes seconds

    place, options = _place(source)
    try:
        return AutoConfig.from_pretrained(place, trust_remote_code=False, **options)
    except UNREADABLE as error:
        raise MergeError(f"No base model could be loaded from {str(source)!r}: {first_line(error)}.") from error


def _load(kind: Any, source: str | Path, dtype: str, device_map: Any) -> tuple[nn.Module, Any]:
    from transformers import AutoProcessor, AutoTokenizer  # noqa: PLC0415 - takes seconds

    if dtype not in DTYPES:
        raise MergeError(f"dtype = {dtype!r}: choose one of {', '.join(DTYPES)}.")
    place, options = _place(source)
    spread = {"device_map": device_map} if device_map is not None else {}
    try:
        model, found = kind.from_pretrained(
            place,
            dtype=DTYPES[dtype],
            trust_remote_code=False,
            use_safetensors=True,  # a pickle could run anything
            output_loading_info=True,
            **options,
            **spread,
        )
        # what reads pictures or sounds has a processor where a text model has a tokenizer
        reader = AutoTokenizer if model.main_input_name == "input_ids" else AutoProcessor
        tokenizer = reader.from_pretrained(place, trust_remote_code=False, **options)
    except UNREADABLE as error:
        raise MergeError(f"No base model could be loaded from {str(source)!r}: {first_line(error)}.") from error
    if getattr(tokenizer, "pad_token", "") is None:
        # padding is masked everywhere, so any token will do
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    model.name_or_path = base_name(source)
    model.untrained = frozenset(found["missing_keys"])  # random now (a pooler, as a rule): no head may build on them
    return model.eval().requires_grad_(False), tokenizer


def _place(source: str | Path) -> tuple[str | Path, dict[str, str]]:
    """Return what transformers calls a source, and its revision if it names one."""
    place = model_folder(source)
    if isinstance(place, str) and "@" in place and not Path(place).exists():
        name, _, revision = place.partition("@")
        return name, {"revision": revision}
    return place, {}


def first_line(error: Exception) -> str:
    """Return the first line of what a library says, without its full stop."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def language_model_kind(model: Any) -> str:
    """Return "causal" for a decoder with its language-model head, "seq2seq" for an encoder-decoder with one.

    Raises
    ------
    MergeError
        For any other model: an encoder sees the tokens that it should predict.
    """
    from transformers.models.auto import modeling_auto  # noqa: PLC0415 - takes seconds

    kind, name = model.config.model_type, type(model).__name__
    if name in _class_names(modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES, kind):
        return "seq2seq"
    encoder = kind in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(model.config, "is_decoder", False)
    if name in _class_names(modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, kind) and not encoder:
        return "causal"
    raise MergeError(
        f"{name} gives no likelihood of a text: load a decoder or an encoder-decoder with its language-model head "
        "(load_language_model)."
    )


def _class_names(mapping: Mapping[str, str | tuple[str, ...]], kind: str) -> tuple[str, ...]:
    names = mapping.get(kind, ())
    return (names,) if isinstance(names, str) else tuple(names)
