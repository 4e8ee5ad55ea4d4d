"""What a full model needs beside an architecture's own head: the class that has it, as many labels, and no layer left
at random.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import nn

from ..adapters.adapter import Adapter
from ..errors import MergeError
from ..models.checkpoint import Checkpoint

AUTO_CLASSES = {
    "SEQ_CLS": ("AutoModelForSequenceClassification", "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES"),
    "TOKEN_CLS": ("AutoModelForTokenClassification", "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES"),
    "QUESTION_ANS": ("AutoModelForQuestionAnswering", "MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES"),
    "CAUSAL_LM": ("AutoModelForCausalLM", "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES"),
    "SEQ_2_SEQ_LM": ("AutoModelForSeq2SeqLM", "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES"),
    "None": ("AutoModelForImageClassification", "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES"),
}
"""transformers' classes by PEFT's task type, which images have none of."""


def head_options(config: Mapping[str, Any], owner: Adapter) -> dict[str, Any]:
    """Return what the configuration must say for transformers to build the head: its class, and as many labels as it
    has rows.
    """
    _, names = _classes(owner)
    name = names.get(str(config.get("model_type")))
    options: dict[str, Any] = {"architectures": [name if isinstance(name, str) else name[0]]} if name else {}
    rows = owner.head.classes if owner.head is not None else None
    if rows is not None and len(config.get("id2label") or "01") != rows:  # two labels unless it says otherwise
        labels = [f"LABEL_{i}" for i in range(rows)]
        options |= {
            "id2label": {str(i): label for i, label in enumerate(labels)},
            "label2id": {label: i for i, label in enumerate(labels)},
        }
    return options


def check_complete(checkpoint: Checkpoint, owner: Adapter, written: Collection[str]) -> None:
    """Raise MergeError if the class with the head has a layer that neither the base nor the head supplies: it would be
    random.

    Parameters
    ----------
    written : keys of the full model
    """
    auto, names = _classes(owner)
    config: Any = copy.deepcopy(checkpoint.skeleton.config)
    if config.model_type not in names:  # no class to ask: what is loaded is the caller's choice
        return
    if owner.head is not None and (rows := owner.head.classes) is not None:
        config.num_labels = rows
    with torch.device("meta"):
        wrapper: nn.Module = auto.from_config(config, trust_remote_code=False)
    prefix = f"{wrapper.base_model_prefix}."
    tied: Mapping[str, str] = wrapper.all_tied_weights_keys  # type: ignore[assignment]
    supplied = {*written, *(owner.head.tensors if owner.head else ()), *tied}
    supplied |= {prefixed for name in checkpoint.keys for prefixed in (name, f"{prefix}{name}")}
    for name, _ in wrapper.named_parameters():
        if name not in supplied:
            raise MergeError(
                f"The head of {owner.task!r} lacks {name}, which {type(wrapper).__name__} needs and the base does not "
                f"have: train with modules_to_save that has {name.removeprefix(prefix).split('.')[0]} in it too."
            )


def _classes(owner: Adapter) -> tuple[Any, Mapping[str, str | tuple[str, ...]]]:
    import transformers  # noqa: PLC0415 - takes seconds
    from transformers.models.auto import modeling_auto  # noqa: PLC0415

    known = AUTO_CLASSES.get(str(owner.config.get("task_type")))
    return (None, {}) if known is None else (getattr(transformers, known[0]), getattr(modeling_auto, known[1]))
