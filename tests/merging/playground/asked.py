"""What the playground's tests share: classification adapters that PEFT wrote on one encoder, and their questions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from builders import (
    HIDDEN,
    QUERY_AND_VALUE,
    gaussian,
    made_up_task,
    peft_folder,
    random_adapter,
    reloaded,
    sentences,
    tiny_classifier,
)

from merging import Adapter, Task
from merging.adapters.head import Head
from merging.models.layers import bare

SAVED = {
    "bert": ["classifier"],
    "roberta": ["classifier"],
    "distilbert": ["pre_classifier", "classifier"],
    "deberta": ["pooler", "classifier"],
    "llama": ["score"],
}
CLASSES = (2, 3, 4)
TEXTS = tuple(sentences(5, 4))


def tasks_of(count: int = 3) -> list[Task]:
    return [made_up_task(f"task-{i}", 60, CLASSES[i], seed=i) for i in range(count)]


def classifier(kind: str, labels: int):
    """Return a classification model whose encoder does not depend on the number of labels."""
    model = tiny_classifier(kind, labels)
    bare(model).load_state_dict(bare(tiny_classifier(kind, 2)).state_dict())
    model.config.pad_token_id = 0
    return model


def written(folder: Path, kind: str) -> list[Adapter]:
    """Let PEFT write three classification adapters of one encoder."""
    options = {"task_type": "SEQ_CLS", "r": 4, "target_modules": QUERY_AND_VALUE[kind], "modules_to_save": SAVED[kind]}
    for i, labels in enumerate(CLASSES):
        peft_folder(folder / f"task-{i}", classifier(kind, labels), seed=i, **options)
    return [Adapter.load(folder / f"task-{i}", base="tiny") for i in range(3)]


@torch.no_grad()
def peft_probabilities(folder: Path, kind: str, place: int, tokenizer) -> torch.Tensor:
    """Return what PEFT's own model says to `TEXTS`, one at a time."""
    model = reloaded(classifier(kind, CLASSES[place]), folder / f"task-{place}")
    return torch.cat([model(**tokenizer(text, return_tensors="pt")).logits.softmax(1) for text in TEXTS])


def with_head(adapter: Adapter, seed: int, labels: int = 3) -> Adapter:
    """Return an adapter with a random head of ours."""
    names = tuple(f"label {place}" for place in range(labels))
    weight = gaussian(seed, labels, HIDDEN).float()
    return replace(adapter, head=Head("pooled", {"weight": weight, "bias": torch.zeros(labels)}, names))


def pooled_adapters(count: int = 3) -> list[Adapter]:
    return [with_head(random_adapter(i, scale=0.05), i) for i in range(count)]
