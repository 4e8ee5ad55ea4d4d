"""Heads of classification models: the task's own classifier (PEFT's modules_to_save) around the encoder that all tasks
share.

transformers' class for sequence classification is built without weights, takes the shared encoder as it is, and gets
only the tensors of the head. So updates that are put into the encoder are seen by every task's model, and no task's
head by another's.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..adapters.adapter import Adapter
from ..adapters.head import Head
from ..errors import MergeError
from ..models.layers import bare


def classification_model(
    model: nn.Module, head: Head, classes: int, task: str = "", pad_token_id: int | None = None
) -> nn.Module:
    """Return transformers' sequence- or image-classification model that shares the encoder of ``model`` and has
    ``head`` of kind "model".

    Parameters
    ----------
    model : the bare encoder, or a model with a head, which then supplies what ``head`` does not carry
    classes : how many labels the task has
    task : how messages call it
    pad_token_id : for decoders, which read the last token that is none

    Raises
    ------
    MergeError
        If the architecture has no such class, the head has another number of labels, is of another model, or lacks a
        layer that the class has beside its encoder and the model does not supply.
    """
    encoder = bare(model)
    wrapper = _empty_classifier(encoder, classes, pad_token_id, task)
    inner = str(wrapper.base_model_prefix)
    prefix = f"{inner}."
    expected = {name: tuple(parameter.shape) for name, parameter in wrapper.named_parameters()}
    _check_tensors(head, expected | _shapes(encoder, prefix), classes, task)
    shared = {f"{prefix}{name}" for name, _ in encoder.named_parameters()}
    supplied = dict(model.named_parameters()) if model is not encoder else {}
    untrained = {f"{prefix}{name}" for name in getattr(encoder, "untrained", ())}
    tensors = dict(head.tensors)
    for name, shape in expected.items():
        if name in tensors or (name in shared and name not in untrained):
            continue
        if name not in supplied or tuple(supplied[name].shape) != shape or name in untrained:
            layer = name.removeprefix(prefix).split(".")[0]
            raise MergeError(
                f"The head of {task!r} lacks {name}, which {type(wrapper).__name__} needs and the base does not have: "
                f"train with modules_to_save that has {layer} in it too."
            )
        tensors[name] = supplied[name].detach()
    like = next(encoder.parameters())
    tensors = {name: tensor.to(like.device, like.dtype) for name, tensor in tensors.items()}
    own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    setattr(wrapper, inner, _with_own(encoder, own, bare(wrapper)))
    wrapper.load_state_dict(
        {name: t for name, t in tensors.items() if not name.startswith(prefix)}, strict=False, assign=True
    )
    return wrapper


def label_order(head: Head, names: Sequence[str], task: str) -> list[int] | None:
    """Return which output of the head belongs to each of the task's labels; None where the head does not say, and the
    order is the task's.

    Raises
    ------
    MergeError
        If the head names other labels than the task.
    """
    if not head.labels or not names or unnamed(head.labels):
        return None
    outputs = {_key(label): place for place, label in enumerate(head.labels)}
    if {*outputs} != {*map(_key, names)}:
        raise MergeError(
            f"The head of {task!r} has the labels {', '.join(head.labels)}, the task {', '.join(names)}: call them "
            "alike, or give the head without labels if their order is the same."
        )
    return [outputs[_key(name)] for name in names]


def with_recorded_labels(adapter: Adapter) -> Head | None:
    """Return an adapter's head with the label names that its files record, as far as they do."""
    head = adapter.head
    if head is None or head.labels:
        return head
    recorded = adapter.metadata.labels or _in_order(adapter.config.get("id2label"))
    return Head(head.kind, head.tensors, tuple(map(str, recorded))) if recorded else head


def named_heads(adapters: Sequence[Adapter]) -> dict[str, Head]:
    """Return the adapters' heads by task, with the label names that their files record."""
    return {adapter.task: head for adapter in adapters if (head := with_recorded_labels(adapter)) is not None}


def order_warnings(adapters: Sequence[Adapter]) -> list[str]:
    """Return a warning for every adapter whose classification head does not say which output is which label."""
    heads = [(adapter.name, with_recorded_labels(adapter)) for adapter in adapters]
    return [
        f"{name} does not record the names of its head's labels: its outputs are taken in the order of the task's "
        "labels."
        for name, head in heads
        if head is not None and head.kind == "model" and unnamed(head.labels)
    ]


def unnamed(labels: Sequence[str]) -> bool:
    """Tell whether labels are transformers' placeholders (LABEL_0, LABEL_1 ..) or missing."""
    return all(re.fullmatch(r"LABEL_\d+", label) for label in labels)


def _key(label: str) -> str:
    return re.sub(r"[\s_-]+", " ", label.strip()).casefold()


def _in_order(id2label: Any) -> list[str]:
    return [id2label[key] for key in sorted(id2label, key=int)] if isinstance(id2label, dict) else []


def _empty_classifier(encoder: nn.Module, classes: int, pad_token_id: int | None, task: str) -> nn.Module:
    from transformers import (  # noqa: PLC0415 - takes seconds
        AutoModelForImageClassification,
        AutoModelForSequenceClassification,
    )

    sees = encoder.main_input_name == "pixel_values"
    kind = AutoModelForImageClassification if sees else AutoModelForSequenceClassification
    config: Any = copy.deepcopy(encoder.config)
    config.num_labels = classes
    config.problem_type = None
    if pad_token_id is not None:
        config.pad_token_id = pad_token_id
    try:
        with torch.device("meta"):
            wrapper: nn.Module = kind.from_config(config, trust_remote_code=False)
    except ValueError as error:
        raise MergeError(
            f"The head of {task!r} belongs to a classification model, but transformers has none for "
            f"{config.model_type}."
        ) from error
    if not isinstance(encoder, type(bare(wrapper))):
        raise MergeError(
            f"The head of {task!r} belongs to a {type(wrapper).__name__}, whose encoder is no {type(encoder).__name__}."
        )
    return wrapper.eval().requires_grad_(False)


def _shapes(encoder: nn.Module, prefix: str) -> dict[str, tuple[int, ...]]:
    return {f"{prefix}{name}": tuple(parameter.shape) for name, parameter in encoder.named_parameters()}


def _check_tensors(head: Head, expected: Mapping[str, tuple[int, ...]], classes: int, task: str) -> None:
    for name, tensor in head.tensors.items():
        shape = tuple(tensor.shape)
        if name not in expected:
            raise MergeError(
                f"The head of {task!r} has {name}, which the base's classification model does not: it is of another "
                "model."
            )
        if shape == expected[name]:
            continue
        if shape[1:] == expected[name][1:] and expected[name][:1] == (classes,):
            raise MergeError(f"The head of {task!r} has {shape[0]} labels, the task {classes}.")
        raise MergeError(
            f"The head of {task!r} has {name} {shape}, the base's classification model {expected[name]}: it is of "
            "another model."
        )


def _with_own(module: nn.Module, tensors: Mapping[str, Tensor], template: nn.Module) -> nn.Module:
    """Return ``module`` with some parameters of its own, by name; everything else is shared, ``module`` itself
    unchanged.

    A part that it lacks (an encoder may come without its pooler) is the ``template``'s.
    """
    if not tensors:
        return module
    own = copy.copy(module)
    own._modules, own._parameters, own.training = dict(module._modules), dict(module._parameters), False
    for child in {name.partition(".")[0] for name in tensors if "." in name}:
        inside = {name.partition(".")[2]: tensor for name, tensor in tensors.items() if name.startswith(f"{child}.")}
        part = module._modules.get(child)
        own.__dict__.pop(child, None)  # a part that was left out is None there, and would be found first
        like = template.get_submodule(child)
        own._modules[child] = _with_own(like if part is None else part, inside, like)
    for name, tensor in tensors.items():
        if "." not in name:
            own._parameters[name] = nn.Parameter(tensor, requires_grad=False)
    return own
