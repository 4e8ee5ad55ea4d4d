"""Adapters under the names of older transformers: they become today's where the base is at hand, and single experts
stay exact.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import edit_config, edit_tensors, gaussian, state
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    ViTConfig,
    ViTForImageClassification,
)

from merging import Adapter, merge
from merging.export.full_model import save_full_model

TEXT = {
    "vocab_size": 40, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip


def randomised(model: Any) -> Any:
    for i, (_, parameter) in enumerate(sorted(model.named_parameters())):
        parameter.data.copy_(0.25 * gaussian(i, *parameter.shape) + (1.0 if parameter.ndim == 1 else 0.0))
    return model.eval().requires_grad_(False)


@torch.no_grad()
def answers(model: nn.Module) -> Tensor:
    return model(input_ids=torch.tensor([[3, 7, 9, 11, 5], [4, 8, 12, 6, 10]])).logits


# -- names of older transformers ---------------------------------------------------------------------------------------


def test_old_names_of_a_vision_model_become_todays(tmp_path: Path) -> None:
    config = ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=8, patch_size=4
    )
    model = randomised(ViTForImageClassification(config))
    model.save_pretrained(tmp_path / "base")
    tensors = {}
    for layer in range(2):
        key = f"base_model.model.vit.encoder.layer.{layer}.attention.attention.query"
        tensors |= {
            f"{key}.lora_A.weight": gaussian(layer, 4, 32).float(),
            f"{key}.lora_B.weight": gaussian(9 + layer, 32, 4).float(),
        }
    (tmp_path / "old").mkdir()
    save_file(tensors, tmp_path / "old" / "adapter_model.safetensors")
    options = {
        "peft_type": "LORA",
        "r": 4,
        "lora_alpha": 8,
        "base_model_name_or_path": str(tmp_path / "base"),
        "rank_pattern": {"query": 4},
    }
    (tmp_path / "old" / "adapter_config.json").write_text(json.dumps(options))
    adapter = Adapter.load(tmp_path / "old")
    assert sorted(adapter.deltas) == [f"layers.{layer}.attention.q_proj" for layer in range(2)]
    pixels = gaussian(5, 2, 3, 8, 8).float()
    plain = model(pixel_values=pixels).logits
    for layer in range(2):
        key = f"base_model.model.vit.encoder.layer.{layer}.attention.attention.query"
        update = 2.0 * tensors[f"{key}.lora_B.weight"] @ tensors[f"{key}.lora_A.weight"]
        model.vit.layers[layer].attention.q_proj.weight.data += update
    expected = model(pixel_values=pixels).logits
    assert not torch.allclose(expected, plain, atol=1e-2)
    merged = merge([adapter], "average")
    fresh = ViTForImageClassification.from_pretrained(tmp_path / "base")
    again = PeftModel.from_pretrained(fresh, merged.save(tmp_path / "new")).eval()
    assert torch.allclose(again(pixel_values=pixels).logits, expected, atol=1e-4)
    full = save_full_model(merged, tmp_path / "base", tmp_path / "full")
    assert torch.allclose(
        ViTForImageClassification.from_pretrained(full).eval()(pixel_values=pixels).logits, expected, atol=1e-4
    )


@pytest.mark.parametrize("targets", [["q_proj", "qkv"], ["qkv"]], ids=["text and vision", "vision alone"])
def test_old_names_of_a_vision_language_model_become_todays(targets: list[str], tmp_path: Path) -> None:
    text = TEXT | {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}}
    vision = {
        "depth": 1,
        "embed_dim": 16,
        "hidden_size": 32,
        "num_heads": 2,
        "mlp_ratio": 2,
        "patch_size": 4,
        "spatial_merge_size": 2,
    }
    model = randomised(Qwen2VLForConditionalGeneration(Qwen2VLConfig(text_config=text, vision_config=vision)))
    model.save_pretrained(tmp_path / "base")
    wrapped = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM"))
    for i, (_, parameter) in enumerate(sorted(p for p in wrapped.named_parameters() if p[1].requires_grad)):
        parameter.data.copy_(0.3 * gaussian(i, *parameter.shape))
    wrapped.save_pretrained(tmp_path / "new")
    edit_config(tmp_path / "new", base_model_name_or_path=str(tmp_path / "base"))
    expected = Adapter.load(tmp_path / "new")

    def older(key: str) -> str:
        key = key.replace("model.model.language_model.", "model.model.")
        return key.replace("base_model.model.model.visual.", "base_model.model.visual.")

    edit_tensors(tmp_path / "new", lambda tensors: {older(name): tensor for name, tensor in tensors.items()})
    old = Adapter.load(tmp_path / "new")
    assert (old.fingerprint, old.prefix) == (expected.fingerprint, expected.prefix)


# -- experts -----------------------------------------------------------------------------------------------------------


def test_lora_on_single_experts_is_exact_in_an_adapter_and_a_model(tmp_path: Path) -> None:
    config = MixtralConfig(**TEXT, num_local_experts=3)
    randomised(MixtralForCausalLM(config)).save_pretrained(tmp_path / "base")
    shapes = {"w1": (48, 32), "w3": (48, 32), "w2": (32, 48)}
    for seed in range(2):
        tensors = {}
        for i in range(2 * 3 * 3):
            layer, expert, name = i // 9, i // 3 % 3, list(shapes)[i % 3]
            key = f"base_model.model.model.layers.{layer}.block_sparse_moe.experts.{expert}.{name}"
            out, inn = shapes[name]
            tensors[f"{key}.lora_A.weight"] = 0.3 * gaussian(100 * seed + i, 2, inn).float()
            tensors[f"{key}.lora_B.weight"] = 0.3 * gaussian(7000 + 100 * seed + i, out, 2).float()
        place = tmp_path / f"task-{seed}"
        place.mkdir()
        save_file(tensors, place / "adapter_model.safetensors")
        options = {
            "peft_type": "LORA",
            "r": 2,
            "lora_alpha": 2,
            "task_type": "CAUSAL_LM",
            "target_modules": list(shapes),
        }
        (place / "adapter_config.json").write_text(
            json.dumps(options | {"base_model_name_or_path": str(tmp_path / "base")})
        )

    def alone(place: Path) -> dict[str, Tensor]:
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), place)
        return {name: tensor.clone() for name, tensor in model.merge_and_unload().state_dict().items()}

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base").eval()
    start = state(model)
    ends = [alone(tmp_path / f"task-{seed}") for seed in range(2)]
    model.load_state_dict({name: tensor + sum(end[name] - tensor for end in ends) for name, tensor in start.items()})
    expected = answers(model)
    merged = merge([Adapter.load(tmp_path / f"task-{seed}") for seed in range(2)], "task_arithmetic")
    again = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tmp_path / "base"), merged.save(tmp_path / "adapter")
    )
    assert torch.allclose(answers(again.eval()), expected, atol=1e-4)
    full = save_full_model(merged, tmp_path / "base", tmp_path / "full")
    assert torch.allclose(answers(AutoModelForCausalLM.from_pretrained(full).eval()), expected, atol=1e-4)
