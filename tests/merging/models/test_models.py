"""Base models: what is the same base stays the same, what is not does not, and every linear layer is found."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from builders import HIDDEN, KINDS, MODULES, QUERY, hidden, one_sentence, tiny_classifier, tiny_gpt2, tiny_model
from torch import nn

from merging import MergeError
from merging.models.layers import bare, fingerprint, linear_layers, mean_pool, out_in
from merging.models.load import load_base


@pytest.mark.parametrize("kind", KINDS)
def test_a_fingerprint_sees_neither_head_nor_precision_nor_pooler(kind: str) -> None:
    classifier = tiny_classifier(kind)
    encoder = getattr(classifier, classifier.base_model_prefix)
    mark = fingerprint(encoder)
    assert fingerprint(classifier) == mark
    assert fingerprint(copy.deepcopy(encoder).to(torch.bfloat16)) == mark
    assert fingerprint(copy.deepcopy(encoder)) == mark
    assert fingerprint(tiny_model(kind)) == fingerprint(tiny_model(kind))


def test_a_fingerprint_sees_every_layer() -> None:
    model = tiny_model()
    marks = {fingerprint(model), fingerprint(tiny_model(seed=1))}
    trained = [name for name, _ in model.named_parameters() if "pooler" not in name]
    for name in trained:
        changed = copy.deepcopy(model)
        parameter = changed.get_parameter(name)
        parameter.data += 0.01 + 0.05 * parameter.data.abs()
        marks.add(fingerprint(changed))
    assert len(marks) == 2 + len(trained)


def test_a_fingerprint_reads_matrices_beyond_what_float32_can_count() -> None:
    model = nn.Module()
    model.weight = nn.Parameter(torch.zeros(2**24 + 4, dtype=torch.bfloat16))
    mark = fingerprint(model)
    model.weight.data[-1] = 1.0
    assert fingerprint(model) != mark


PRINT_FINGERPRINT = """
import torch
from merging.models import fingerprint
model = torch.nn.Module()
model.weight = torch.nn.Parameter((torch.arange(11_720_448, dtype=torch.int32) % 251).bfloat16())
print(fingerprint(model))
"""


def test_a_fingerprint_does_not_depend_on_the_processor() -> None:
    # PyTorch's kernels round differently with and without vector instructions; the size is that of MiniLM's embeddings
    marks = set()
    for capability in ("default", "avx2"):
        environment = os.environ | {"ATEN_CPU_CAPABILITY": capability}
        run = subprocess.run(
            [sys.executable, "-c", PRINT_FINGERPRINT], env=environment, capture_output=True, text=True, check=True
        )
        marks.add(run.stdout)
    assert len(marks) == 1


def test_linear_layers_are_found_under_a_head_too() -> None:
    for model in (tiny_model(), tiny_classifier()):
        layers = linear_layers(model, MODULES)
        assert {name: out_in(layer) for name, layer in layers.items()} == MODULES
        assert layers[QUERY] is bare(model).get_submodule(QUERY)


def test_transposed_layers_have_their_shape_the_usual_way_round() -> None:
    name = "h.0.attn.c_attn"
    assert out_in(linear_layers(tiny_gpt2(), [name])[name]) == (3 * HIDDEN, HIDDEN)


@pytest.mark.parametrize(
    "name", ["encoder.layer.2.attention.self.query", "embeddings.word_embeddings", "bert." + QUERY, ""]
)
def test_what_is_no_linear_layer_is_refused_by_its_name(name: str) -> None:
    with pytest.raises(MergeError) as caught:
        linear_layers(tiny_model(), [name])
    assert one_sentence(caught.value, name)


def test_the_mean_is_over_real_tokens() -> None:
    states = torch.tensor([[[1.0], [3.0], [100.0]], [[2.0], [100.0], [100.0]]])
    assert mean_pool(states, torch.tensor([[1, 1, 0], [1, 0, 0]])).tolist() == [[2.0], [2.0]]


def test_a_base_is_loaded_from_a_folder(tmp_path: Path, tokenizer) -> None:
    model = tiny_model()
    model.save_pretrained(tmp_path / "my-bert")
    tokenizer.save_pretrained(tmp_path / "my-bert")
    loaded, its_tokenizer = load_base(tmp_path / "my-bert")
    assert torch.allclose(hidden(loaded), hidden(model), atol=1e-6)
    assert its_tokenizer("the red cat")["input_ids"] == tokenizer("the red cat")["input_ids"]
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert fingerprint(loaded) == fingerprint(model)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MergeError) as caught:
        load_base(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)
