"""What is said to a picture is what PEFT's own image classifier, or one with the merged weights, says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from builders import (
    _seeded,
    deltas_of,
    dense_added,
    one_sentence,
    peft_folder,
    random_adapter,
    reloaded,
    state,
    unchanged,
)
from PIL import Image
from sklearn.datasets import load_digits
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor, ViTModel

from merging import Adapter, MergeError, merge
from merging.playground import picture_predictions, question_of, weights_by_task, weights_of
from merging.playground.weights import BASE

CLASSES = (10, 2)
SIZE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
PROCESSOR = ViTImageProcessor(size={"height": 8, "width": 8})


def classifier(labels: int) -> ViTForImageClassification:
    """Return an image classifier whose encoder does not depend on the number of labels."""
    config = ViTConfig(image_size=8, patch_size=4, num_labels=labels, **SIZE)
    model = _seeded(lambda: ViTForImageClassification(config), 0, "tiny-vit")
    base = _seeded(lambda: ViTModel(config), 1, "tiny-vit")
    model.vit.load_state_dict(base.state_dict(), strict=False)
    return model


def encoder() -> ViTModel:
    return _seeded(lambda: ViTModel(ViTConfig(image_size=8, patch_size=4, **SIZE)), 1, "tiny-vit")


def digits(count: int = 3) -> list[Image.Image]:
    scans = load_digits().images[:count]
    return [Image.fromarray((scan * 15).astype(np.uint8)).convert("RGB") for scan in scans]


def written(folder: Path) -> list[Adapter]:
    """Let PEFT write two adapters with their classifiers."""
    options = {"r": 4, "target_modules": ["q_proj", "v_proj"], "modules_to_save": ["classifier"]}
    for i, labels in enumerate(CLASSES):
        peft_folder(folder / f"task-{i}", classifier(labels), seed=i, **options)
    return [Adapter.load(folder / f"task-{i}", base="tiny-vit") for i in range(2)]


def table(frame, task: str, source: str) -> torch.Tensor:
    rows = frame[(frame.task == task) & (frame.source == source)]
    return torch.tensor(rows.pivot(index="text", columns="label", values="probability")[rows.label.unique()].to_numpy())


def test_own_adapter_and_merge_say_what_pefts_model_and_the_merged_weights_say(tmp_path: Path) -> None:
    adapters, model, pictures = written(tmp_path), encoder(), digits()
    before = state(model)
    merged = merge(adapters, "ties")
    questions, names = [question_of(adapter) for adapter in adapters], [adapter.task for adapter in adapters]
    assert [len(question.labels) for question in questions] == [*CLASSES]
    sources = {
        "base": dict.fromkeys(names, BASE),
        "own": {adapter.task: weights_of(adapter) for adapter in adapters},
        "merge": weights_by_task(merged, names),
    }
    frame = picture_predictions(model, PROCESSOR, pictures, questions, sources)
    assert unchanged(model, before)
    pixels = PROCESSOR(images=pictures, return_tensors="pt")["pixel_values"]
    for place, adapter in enumerate(adapters):
        own = reloaded(classifier(CLASSES[place]), tmp_path / f"task-{place}")
        plain = classifier(CLASSES[place])
        plain.load_state_dict(dict(adapter.head.tensors), strict=False)
        with torch.no_grad():
            expected = {"own": own(pixel_values=pixels).logits, "base": plain(pixel_values=pixels).logits}
            with dense_added(plain, {f"vit.{m}": u for m, u in deltas_of(merged).items()}) as whole:
                expected["merge"] = whole(pixel_values=pixels).logits
        for source, logits in expected.items():
            assert torch.allclose(table(frame, adapter.task, source).float(), logits.softmax(1), atol=1e-5)
        assert float((expected["own"] - expected["base"]).abs().max()) > 1e-3


def test_an_adapter_without_a_classifier_of_its_own_is_refused() -> None:
    with pytest.raises(MergeError) as refused:
        question_of(random_adapter(0))
    assert one_sentence(refused.value, "no head")
