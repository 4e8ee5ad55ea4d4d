"""PEFT's adapter files: which keys and options they have, which of them we treat exactly, and what scaling they mean."""

from __future__ import annotations

import math
import re
import reprlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from ..errors import MergeError
from ..io.untrusted import read_object

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
ROOT = "base_model.model."
LANGUAGE_MODELS = ("CAUSAL_LM", "SEQ_2_SEQ_LM")

ARCHITECTURE_PREFIXES = (
    *("bert.", "roberta.", "distilbert.", "deberta.", "electra.", "albert.", "mpnet.", "modernbert."),
    *("model.", "transformer.", "gpt_neox.", "vit.", "deit.", "dinov2.", "swin.", "beit."),
)
"""What a model with a head puts before the names of its bare encoder (transformers' base_model_prefix)."""

REFUSED_OPTIONS = {
    "use_dora": "DoRA, whose update is not scaling * B A (it rescales the merged columns)",
    "lora_bias": "lora_bias, a bias beside B A",
    "use_qalora": "QA-LoRA, which pools its inputs",
    "layer_replication": "layer replication",
    "alora_invocation_tokens": "activated LoRA, which acts on some tokens only",
    "trainable_token_indices": "trained token embeddings",
    "target_parameters": "LoRA on bare parameters",
    "use_bdlora": "block-diagonal LoRA",
    "arrow_config": "Arrow routing",
    "kasa_config": "KaSA",
    "monteclora_config": "MonteCLoRA",
    "velora_config": "VeLoRA",
}
IGNORED_OPTIONS = {
    *(
        "peft_type",
        "auto_mapping",
        "base_model_name_or_path",
        "revision",
        "task_type",
        "inference_mode",
        "peft_version",
    ),
    *("r", "lora_alpha", "lora_dropout", "target_modules", "exclude_modules", "modules_to_save", "rank_pattern"),
    *("alpha_pattern", "use_rslora", "fan_in_fan_out", "bias", "init_lora_weights", "layers_to_transform"),
    *("layers_pattern", "megatron_config", "megatron_core", "loftq_config", "eva_config", "corda_config"),
    *("lora_ga_config", "qalora_group_size", "runtime_config", "ephemeral_gpu_offload", "ensure_weight_tying"),
}
"""Options that do not change what the stored A and B mean, or that we read."""

BASE_CHANGING_INITS = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Initialisations that alter the base weights too, so that B A alone is not the update to the published base."""

MOST_REPEATS = 3
"""Repetitions in one pattern: a stranger's pattern with more, or with a repeated group, could be matched for years."""

HEAD_MODULES = ("classifier", "score")
"""What PEFT adds to modules_to_save by itself for classification tasks."""


class AdapterConfig(BaseModel):
    """Types of the options in ``adapter_config.json`` that we read; the descriptions end the sentence "is not ..".

    Other options are not judged by their type: `check_config` refuses those that could change the update.
    """

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)

    r: int | float = Field(description="a finite number")
    lora_alpha: int | float = Field(description="a finite number")
    rank_pattern: dict[str, int | float] | None = Field(None, description="a mapping of module patterns to finite numbers")
    alpha_pattern: dict[str, int | float] | None = Field(None, description="a mapping of module patterns to finite numbers")
    use_rslora: bool | None = Field(None, description="true or false")
    fan_in_fan_out: bool | None = Field(None, description="true or false")
    modules_to_save: list[str] | None = Field(None, description="a list of module names")
    target_modules: list[str] | str | None = Field(None, description="a list of module names or one pattern")
    bias: str = Field("none", description="a text")
    init_lora_weights: bool | str | None = Field(None, description="true, false or a text")
    task_type: str | None = Field(None, description="a text")
    base_model_name_or_path: str | None = Field(None, description="a text")


def read_config(path: Path, where: str) -> dict[str, Any]:
    """Return the configuration of the adapter that messages call ``where``, after refusing what we cannot treat exactly."""
    config = read_object(path, f"{where}: {CONFIG_FILE}")
    check_config(config, where)
    return config


def check_config(config: Mapping[str, Any], where: str) -> None:
    """Raise MergeError for a configuration whose update is not exactly scaling * B A."""
    kind = str(config.get("peft_type", "missing"))
    if kind.upper() != "LORA":
        raise MergeError(f"{where} is a {kind} adapter; only LoRA adapters (peft_type LORA) can be merged here.")
    for option, reason in REFUSED_OPTIONS.items():
        if config.get(option):
            raise MergeError(f"{where} uses {reason} (option {option}); merging it as plain LoRA would be wrong.")
    unknown = sorted(key for key, value in config.items() if value and key not in IGNORED_OPTIONS and key not in REFUSED_OPTIONS)
    if unknown:
        raise MergeError(f"{where}: the option {unknown[0]!r} of {CONFIG_FILE} is unknown here and might change the update.")
    try:
        AdapterConfig.model_validate(config)
    except ValidationError as error:
        option = str(error.errors()[0]["loc"][0])
        expected = AdapterConfig.model_fields[option].description
        raise MergeError(f"{where}: {option} = {reprlib.repr(config.get(option))} in {CONFIG_FILE} is not {expected}.") from error
    for option in ("rank_pattern", "alpha_pattern"):
        for pattern in config.get(option) or {}:
            if re.search(r"\)[*+{]", pattern) or len(re.findall(r"[*+{]", pattern)) > MOST_REPEATS:
                raise MergeError(
                    f"{where}: {option} in {CONFIG_FILE} has a pattern that may take forever to match, {reprlib.repr(pattern)}: name the "
                    f"modules plainly, with at most {MOST_REPEATS} repetitions and none of a group."
                )
    if config.get("bias", "none") != "none":
        raise MergeError(f"{where} trains biases (bias = {config['bias']!r}), which are not part of a low-rank update.")
    init = str(config.get("init_lora_weights", True)).lower()
    if init.startswith(BASE_CHANGING_INITS):
        raise MergeError(
            f"{where} was initialised with {init}, which changes the base weights too; "
            "save it with path_initial_model_for_weight_conversion first."
        )


def split_keys(
    tensors: Mapping[str, Tensor], config: Mapping[str, Any], where: str
) -> tuple[str, dict[str, tuple[Tensor, Tensor]], dict[str, Tensor]]:
    """Return (architecture prefix, {module with prefix: (A, B)}, {parameter: head tensor}).

    Raises
    ------
    MergeError
        For a key that is neither a LoRA factor of a linear layer nor part of the head, a factor without its partner,
        a prefix that PEFT would not find, or modules with different architecture prefixes.
    """
    halves: dict[str, dict[str, Tensor]] = {}
    head: dict[str, Tensor] = {}
    saved = {*(config.get("modules_to_save") or ()), *HEAD_MODULES}
    for key, tensor in tensors.items():
        if not key.startswith(ROOT) or key.startswith((ROOT + "base_model.", ROOT + ROOT)):
            raise MergeError(f"{where}: {key} does not start with {ROOT!r} once; PEFT would load it and do nothing.")
        name = key.removeprefix(ROOT)
        if "lora_magnitude_vector" in name:
            raise MergeError(f"{where}: {key} belongs to DoRA, whose update is not scaling * B A.")
        if name.endswith((".lora_A.bias", ".lora_B.bias")):
            raise MergeError(f"{where}: {key} belongs to lora_bias, a bias beside B A.")
        if "lora_embedding_" in name:
            raise MergeError(f"{where}: {key} is LoRA on an embedding, which is not handled; only linear layers are.")
        side = next((s for s in ("A", "B") if name.endswith(f".lora_{s}.weight")), None)
        if side:
            if tensor.ndim != 2:
                raise MergeError(f"{where}: {key} has {tensor.ndim} dimensions (a convolution); only linear layers are handled.")
            halves.setdefault(name.removesuffix(f".lora_{side}.weight"), {})[side] = tensor
        elif any(part.endswith(saved_name) for part in name.split(".") for saved_name in saved):  # as PEFT matches them
            head[name] = tensor
        else:
            raise MergeError(
                f"{where}: the key {key} is neither a LoRA factor nor in modules_to_save; nothing known to do with it."
            )
    factors = {}
    for name, sides in sorted(halves.items()):
        if len(sides) != 2:
            raise MergeError(f"{where}: {name} has only lora_{next(iter(sides))}, its partner is missing.")
        A, B = sides["A"], sides["B"]
        if A.shape[0] != B.shape[1]:
            raise MergeError(f"{where}: {name} has A {tuple(A.shape)} and B {tuple(B.shape)}, whose ranks differ.")
        factors[name] = (A, B)
    if not factors:
        raise MergeError(f"{where}: {WEIGHTS_FILE} holds no LoRA factors.")
    prefixes = {_prefix(name) for name in factors}
    if len(prefixes) > 1:
        raise MergeError(f"{where}: its modules carry different prefixes {sorted(prefixes)}; they cannot be of one model.")
    return prefixes.pop(), factors, head


def _prefix(name: str) -> str:
    if name.startswith("transformer.layer."):  # the bare DistilBERT's own name, not GPT-2's prefix
        return ""
    return next((prefix for prefix in ARCHITECTURE_PREFIXES if name.startswith(prefix)), "")


def scaling(config: Mapping[str, Any], module: str, rank: int, where: str) -> float:
    """Return the factor that PEFT puts before B A at ``module`` (with architecture prefix).

    alpha / r, or alpha / sqrt(r) with rsLoRA; patterns are matched by PEFT's own matcher (the first match in dict order).

    Raises
    ------
    MergeError
        If the stored rank is not the configured one: the scaling would be a guess.
    """
    r, alpha = (
        _matched(config, pattern, default, module, where)
        for pattern, default in (("rank_pattern", "r"), ("alpha_pattern", "lora_alpha"))
    )
    if rank < 1:
        raise MergeError(f"{where}: {module} has rank 0; a LoRA factor has at least one direction.")
    if rank != r:
        raise MergeError(f"{where}: {module} has rank {rank} in the file but {r:g} in {CONFIG_FILE}; its scaling is unknown.")
    return alpha / (math.sqrt(r) if config.get("use_rslora") else r)


def _matched(config: Mapping[str, Any], pattern: str, default: str, module: str, where: str) -> float:
    patterns = config.get(pattern) or {}
    if set(patterns.values()) <= {config[default]}:  # whatever matches, the value is the same
        return float(config[default])
    from peft.utils.other import get_pattern_key  # noqa: PLC0415 - takes seconds, and few adapters need it

    try:
        return float(patterns.get(get_pattern_key(patterns.keys(), module), config[default]))
    except re.error as error:
        raise MergeError(f"{where}: {pattern} in {CONFIG_FILE} has a pattern that is no regular expression ({error}).") from error


def export_config(ranks: Mapping[str, int], base: str, original: Mapping[str, Any], own_head: bool) -> dict[str, Any]:
    """Return the configuration of an exported adapter: full module names, alpha = rank everywhere, no rsLoRA.

    Parameters
    ----------
    ranks : by module, without the architecture's prefix (PEFT matches names by their end)
    own_head : the file carries the model's own head, so task_type and modules_to_save are kept; a language model has its head anyway
    """
    from peft import LoraConfig  # noqa: PLC0415 - takes seconds

    rank = Counter(ranks.values()).most_common(1)[0][0]
    config = LoraConfig(
        r=rank,
        lora_alpha=rank,
        target_modules=sorted(ranks),
        rank_pattern=dict(ranks),
        alpha_pattern=dict(ranks),
        lora_dropout=0.0,
        fan_in_fan_out=bool(original.get("fan_in_fan_out", False)),
        task_type=original.get("task_type") if own_head or original.get("task_type") in LANGUAGE_MODELS else None,
        modules_to_save=original.get("modules_to_save") if own_head else None,
        base_model_name_or_path=base or None,
        inference_mode=True,
    ).to_dict()
    return {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
