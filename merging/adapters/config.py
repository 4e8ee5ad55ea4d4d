"""adapter_config.json: which options we treat exactly, what scaling they mean, and what an export says."""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..errors import MergeError
from ..io.untrusted import read_object

CONFIG_FILE = "adapter_config.json"
LANGUAGE_MODELS = ("CAUSAL_LM", "SEQ_2_SEQ_LM")
DEFAULT_RANK = DEFAULT_ALPHA = 8
"""PEFT's own, for configurations that leave them out."""

REFUSED_OPTIONS = {
    "use_dora": "DoRA, whose update is not scaling * B A (it rescales the merged columns)",
    "lora_bias": "lora_bias, a bias beside B A",
    "use_qalora": "QA-LoRA, which pools its inputs",
    "layer_replication": "layer replication",
    "alora_invocation_tokens": "activated LoRA, which acts on some tokens only",
    "trainable_token_indices": "trained token embeddings",
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
    *("r", "lora_alpha", "lora_dropout", "target_modules", "target_parameters", "exclude_modules"),
    *("modules_to_save", "rank_pattern"),
    *("alpha_pattern", "use_rslora", "fan_in_fan_out", "bias", "init_lora_weights", "layers_to_transform"),
    *("layers_pattern", "megatron_config", "megatron_core", "loftq_config", "eva_config", "corda_config"),
    *(
        "transformers_version",
        "library_name",
        "tags",
        "unsloth_version",
        "unsloth_fixed",
        "loraplus_lr_ratio",
        "loraplus_lr_embedding",
        "_from_model_config",
        "merge_weights",
        "lora_dtype",
    ),
    *("lora_ga_config", "qalora_group_size", "runtime_config", "ephemeral_gpu_offload", "ensure_weight_tying"),
}
"""Options that do not change what the stored A and B mean, or that we read; some are of other tools, and PEFT passes
them over.
"""

BASE_CHANGING_INITS = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Initialisations that alter the base weights too, so that B A alone is not the update to the published base."""

MOST_REPEATS = 3
"""Repetitions in one pattern: a stranger's pattern with more, or with a repeated group, could be matched for years."""


class AdapterConfig(BaseModel):
    """Types of the options in ``adapter_config.json`` that we read; the descriptions end the sentence "is not ..".

    Other options are not judged by their type: `check_config` refuses those that could change the update.
    """

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)

    r: int | float = Field(DEFAULT_RANK, description="a finite number")
    lora_alpha: int | float = Field(DEFAULT_ALPHA, description="a finite number")
    rank_pattern: dict[str, int | float] | None = Field(
        None, description="a mapping of module patterns to finite numbers"
    )
    alpha_pattern: dict[str, int | float] | None = Field(
        None, description="a mapping of module patterns to finite numbers"
    )
    use_rslora: bool | None = Field(None, description="true or false")
    fan_in_fan_out: bool | None = Field(None, description="true or false")
    modules_to_save: list[str] | None = Field(None, description="a list of module names")
    target_modules: list[str] | str | None = Field(None, description="a list of module names or one pattern")
    target_parameters: list[str] | None = Field(None, description="a list of parameter names")
    bias: str = Field("none", description="a text")
    init_lora_weights: bool | str | None = Field(None, description="true, false or a text")
    task_type: str | None = Field(None, description="a text")
    base_model_name_or_path: str | None = Field(None, description="a text")


def read_config(path: Path, where: str) -> dict[str, Any]:
    """Return the configuration of the adapter that messages call ``where``, after refusing what we cannot treat
    exactly.
    """
    config = {"r": DEFAULT_RANK, "lora_alpha": DEFAULT_ALPHA} | read_object(path, f"{where}: {CONFIG_FILE}")
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
    unknown = sorted(
        key for key, value in config.items() if value and key not in IGNORED_OPTIONS and key not in REFUSED_OPTIONS
    )
    if unknown:
        raise MergeError(
            f"{where}: the option {unknown[0]!r} of {CONFIG_FILE} is unknown here and might change the update."
        )
    try:
        AdapterConfig.model_validate(config)
    except ValidationError as error:
        option = str(error.errors()[0]["loc"][0])
        expected = AdapterConfig.model_fields[option].description
        raise MergeError(
            f"{where}: {option} = {reprlib.repr(config.get(option))} in {CONFIG_FILE} is not {expected}."
        ) from error
    for option in ("rank_pattern", "alpha_pattern"):
        for pattern in config.get(option) or {}:
            if re.search(r"\)[*+{]", pattern) or len(re.findall(r"[*+{]", pattern)) > MOST_REPEATS:
                raise MergeError(
                    f"{where}: {option} in {CONFIG_FILE} has a pattern that may take forever to match, "
                    f"{reprlib.repr(pattern)}: name the modules plainly, with at most {MOST_REPEATS} repetitions and "
                    "none of a group."
                )
    init = str(config.get("init_lora_weights", True)).lower()
    if init.startswith(BASE_CHANGING_INITS):
        raise MergeError(
            f"{where} was initialised with {init}, which changes the base weights too; "
            "save it with path_initial_model_for_weight_conversion first."
        )


def scaling(config: Mapping[str, Any], module: str, rank: int, where: str) -> float:
    """Return the factor that PEFT puts before B A at ``module`` (with architecture prefix).

    alpha / r, or alpha / sqrt(r) with rsLoRA; patterns are matched by PEFT's own matcher (the first match in dict
    order).

    Raises
    ------
    MergeError
        If the stored rank is not the configured one: the scaling would be a guess.
    """
    r, alpha = rank_at(config, module, where), _matched(config, "alpha_pattern", "lora_alpha", module, where)
    if rank < 1:
        raise MergeError(f"{where}: {module} has rank 0; a LoRA factor has at least one direction.")
    if rank != r:
        raise MergeError(
            f"{where}: {module} has rank {rank} in the file but {r:g} in {CONFIG_FILE}; its scaling is unknown."
        )
    return alpha / (math.sqrt(r) if config.get("use_rslora") else r)


def rank_at(config: Mapping[str, Any], module: str, where: str) -> float:
    """Return the rank that the configuration gives a module (with architecture prefix)."""
    return _matched(config, "rank_pattern", "r", module, where)


def _matched(config: Mapping[str, Any], pattern: str, default: str, module: str, where: str) -> float:
    patterns = config.get(pattern) or {}
    if set(patterns.values()) <= {config[default]}:  # whatever matches, the value is the same
        return float(config[default])
    from peft.utils.other import get_pattern_key  # noqa: PLC0415 - takes seconds, and few adapters need it

    try:
        return float(patterns.get(get_pattern_key(patterns.keys(), module), config[default]))
    except re.error as error:
        raise MergeError(
            f"{where}: {pattern} in {CONFIG_FILE} has a pattern that is no regular expression ({error})."
        ) from error


def export_config(
    rank: int,
    modules: Collection[str],
    parameters: Collection[str],
    base: str,
    original: Mapping[str, Any],
    saved: Collection[str],
) -> dict[str, Any]:
    """Return the configuration of an exported adapter: one rank, alpha = rank, no patterns, so that every reader takes
    the factors as they are.

    Parameters
    ----------
    modules, parameters : full names of what carries LoRA
    original : of the adapter; its task_type is kept with the model's own head, and a language model has its head anyway
    saved : modules_to_save that the file carries
    """
    from peft import LoraConfig  # noqa: PLC0415 - takes seconds

    config = LoraConfig(
        r=rank,
        lora_alpha=rank,
        target_modules=sorted(modules),
        target_parameters=sorted(parameters) or None,
        lora_dropout=0.0,
        fan_in_fan_out=bool(original.get("fan_in_fan_out", False)),
        task_type=original.get("task_type") if saved or original.get("task_type") in LANGUAGE_MODELS else None,
        modules_to_save=sorted(saved) or None,
        base_model_name_or_path=base or None,
        ensure_weight_tying=bool(saved and original.get("ensure_weight_tying")),
        inference_mode=True,
    ).to_dict()
    return {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
