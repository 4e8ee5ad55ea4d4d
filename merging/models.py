"""Base models: loading them, recognising them, finding their linear layers, pooling their states."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import Tensor, nn

from .embedded_models import base_name, model_folder
from .errors import MergeError
from .lowrank import LowRank

DTYPES: dict[str, Any] = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "auto": "auto"}
"""What a base can be loaded in; "auto" is what its files are in. Merges are computed in float32 in any case."""
UNREADABLE = (OSError, ValueError, ImportError, SafetensorError, StrictDataclassError)
"""What transformers raises for files that are missing, damaged or of an unknown kind."""
FINGERPRINT_SAMPLES = 256
NOT_ENCODER = ("pooler", "classifier", "score", "lm_head", "qa_outputs", "pre_classifier", "cls")


def load_base(source: str | Path, dtype: str = "float32", device_map: Any = None) -> tuple[nn.Module, Any]:
    """Return (bare model in eval mode, tokenizer).

    Parameters
    ----------
    source : an `merging.embedded_models.EMBEDDED` name ("minilm", "smollm2"), a folder in the hub's layout, or a hub id with an optional @revision
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
    """Return (model with its language-model head in eval mode, tokenizer); updates go to the bare model inside, see `bare`.

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


def bare(model: nn.Module) -> nn.Module:
    """Return the encoder inside a model with a head, or the model itself."""
    inner = getattr(model, getattr(model, "base_model_prefix", "") or "", model)
    return inner if isinstance(inner, nn.Module) else model


def linear_kinds(model: nn.Module) -> tuple[str, ...]:
    """Return the last parts of the names of the encoder's linear layers, in their order; a pooler or a head does not count."""
    from transformers.pytorch_utils import Conv1D  # noqa: PLC0415 - takes seconds

    names = [name for name, module in bare(model).named_modules() if isinstance(module, nn.Linear | Conv1D)]
    return tuple(dict.fromkeys(name.rsplit(".", 1)[-1] for name in names if not set(name.split(".")) & set(NOT_ENCODER)))


def usual_targets(architecture: str) -> Sequence[str]:
    """Return the last parts of the names that PEFT adapts by default in an architecture; none where it has no default."""
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as defaults  # noqa: PLC0415, N811

    known: dict[str, Sequence[str]] = {**defaults, "distilbert": ["q_lin", "v_lin"]}
    return known.get(architecture, ())


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
    parameters = dict(bare(model).named_parameters())
    return fingerprint_of(parameters, parameters.__getitem__)


def fingerprint_of(names: Iterable[str], parameter_of: Callable[[str], Tensor]) -> str:
    """Return the `fingerprint` of an encoder whose parameters are asked for one by one, by name relative to the bare encoder."""
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
    layers = linear_layers(model, updates)
    return {name: updates[name].norm() / float(layer.weight.detach().float().norm()) for name, layer in layers.items()}  # type: ignore[operator]


def mean_pool(states: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over real tokens: states (batch, length, hidden), mask (batch, length) -> (batch, hidden)."""
    weights = mask.to(states).unsqueeze(-1)
    return (states * weights).sum(1) / weights.sum(1).clamp(min=1)


def pooled_states(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Return the mean-pooled last hidden states (batch, hidden) of the bare encoder; an encoder-decoder is refused (MergeError)."""
    if bare(model).config.is_encoder_decoder:  # type: ignore[union-attr]
        raise MergeError(
            "An encoder-decoder has no state of a text that a classifier could read: let it write the labels (a Verbaliser)."
        )
    return mean_pool(bare(model)(**batch).last_hidden_state, batch["attention_mask"])
