"""LoRA on the tensors that hold all experts of a layer (PEFT's target_parameters), with PEFT as the oracle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from builders import edit_config, edit_tensors, gaussian, one_sentence, state
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    GptOssConfig,
    Llama4TextConfig,
    MixtralConfig,
    Qwen3MoeConfig,
)

from merging import Adapter, MergeError, compatibility, merge
from merging.diagnostics.quantisation import quantisation
from merging.export.full_model import save_full_model
from merging.models.layers import working_copy

TEXT = {
    "vocab_size": 40, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "num_experts_per_tok": 2,
}  # fmt: skip
FULL = ["full_attention"] * 2
CONFIGS = {
    "mixtral": lambda: MixtralConfig(**TEXT, num_local_experts=4),
    "qwen3": lambda: Qwen3MoeConfig(**TEXT, num_experts=4, moe_intermediate_size=24, head_dim=8),
    "gpt-oss": lambda: GptOssConfig(**TEXT, num_local_experts=4, head_dim=8, layer_types=FULL),
    "llama4": lambda: Llama4TextConfig(
        **TEXT, num_local_experts=4, head_dim=8, intermediate_size_mlp=40, interleave_moe_layer_step=1
    ),
}
EXPERTS = ["experts.gate_up_proj", "experts.down_proj"]
OPTIONS: dict[str, dict[str, Any]] = {
    "both": {"target_modules": ["q_proj"], "target_parameters": EXPERTS},
    "one alone": {"target_modules": [], "target_parameters": ["down_proj"]},
    "patterns": {
        "target_modules": [],
        "target_parameters": EXPERTS,
        "rank_pattern": {"gate_up_proj": 3},
        "alpha_pattern": {r"layers\.1\..*down_proj": 9},
        "use_rslora": True,
    },
}
KINDS = [("mixtral", "both"), ("mixtral", "patterns"), ("qwen3", "one alone"), ("qwen3", "both"), ("gpt-oss", "both")]
KINDS += [("gpt-oss", "patterns"), ("llama4", "both")]


def base(kind: str, place: Path) -> Path:
    model = AutoModelForCausalLM.from_config(CONFIGS[kind]())
    for i, (_, parameter) in enumerate(sorted(model.named_parameters())):
        parameter.data.copy_(0.25 * gaussian(i, *parameter.shape) + (1.0 if parameter.ndim == 1 else 0.0))
    model.save_pretrained(place)
    return place


def trained(model: Path, place: Path, seed: int, **options: Any) -> Path:
    """Write an adapter with random factors as PEFT does."""
    config = LoraConfig(r=2, lora_alpha=4, task_type="CAUSAL_LM", **options)
    wrapped = get_peft_model(AutoModelForCausalLM.from_pretrained(model), config)
    for i, (_, parameter) in enumerate(sorted(p for p in wrapped.named_parameters() if p[1].requires_grad)):
        parameter.data.copy_(0.3 * gaussian(1000 * seed + i, *parameter.shape))
    wrapped.save_pretrained(place)
    edit_config(place, base_model_name_or_path=str(model))
    return place


@torch.no_grad()
def answers(model: nn.Module) -> Tensor:
    return model.eval()(input_ids=torch.tensor([[3, 7, 9, 11, 5], [4, 8, 12, 6, 10]])).logits


def as_peft(model: Path, folders: list[Path]) -> nn.Module:
    """Return the base with the sum of what PEFT makes of each adapter."""
    result = AutoModelForCausalLM.from_pretrained(model)
    start = state(result)
    total = {name: tensor.clone() for name, tensor in start.items()}
    for folder in folders:
        alone = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), folder).merge_and_unload()
        for name, tensor in alone.state_dict().items():
            total[name] += tensor - start[name]
    result.load_state_dict(total)
    return result


@pytest.mark.parametrize(("kind", "options"), KINDS, ids=[f"{kind}, {options}" for kind, options in KINDS])
def test_the_sum_is_pefts_as_an_adapter_a_model_and_applied(kind: str, options: str, tmp_path: Path) -> None:
    model = base(kind, tmp_path / "base")
    folders = [trained(model, tmp_path / f"task-{seed}", seed, **OPTIONS[options]) for seed in range(2)]
    expected = answers(as_peft(model, folders))
    fresh = AutoModelForCausalLM.from_pretrained(model)
    assert not torch.allclose(answers(fresh), expected, atol=1e-2)
    merged = merge([Adapter.load(folder) for folder in folders], "task_arithmetic")
    module = next(module for module in merged.modules if module.endswith("experts.down_proj[2]"))
    before = {name: tensor.clone() for name, tensor in fresh.state_dict().items()}
    own = working_copy(fresh, merged.modules)
    with merged.applied_to(own):
        assert torch.allclose(answers(own), expected, atol=1e-4)
        assert all(torch.equal(tensor, before[name]) for name, tensor in fresh.state_dict().items())
    assert all(torch.equal(tensor, before[name]) for name, tensor in own.state_dict().items())
    saved = merged.save(tmp_path / "adapter")
    again = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), saved)
    assert torch.allclose(answers(again), expected, atol=1e-4)
    read = Adapter.load(saved)
    assert read.deltas.keys() == set(merged.modules)
    assert all(torch.allclose(read.deltas[m].dense(), merged.delta(m), atol=1e-5) for m in merged.modules)
    full = save_full_model(merged, model, tmp_path / "full")
    assert torch.allclose(answers(AutoModelForCausalLM.from_pretrained(full)), expected, atol=1e-4)
    sizes = quantisation(merged, model).set_index("module")["size"]
    stack = next(tensor for name, tensor in before.items() if name.endswith(module.removesuffix("[2]")))
    assert float(sizes[module]) == pytest.approx(float(merged.delta(module).norm() / stack[2].norm()), rel=1e-5)


def test_without_the_base_names_and_scaling_are_the_same(tmp_path: Path) -> None:
    model = base("mixtral", tmp_path / "base")
    folder = trained(model, tmp_path / "task", 1, **OPTIONS["patterns"])
    known = Adapter.load(folder)
    edit_config(folder, base_model_name_or_path="somebody/somewhere")
    assert Adapter.load(folder).fingerprint == known.fingerprint
    saved = merge([Adapter.load(folder)], "average").save(tmp_path / "adapter")
    assert Adapter.load(saved).fingerprint == Adapter.load(known.save(tmp_path / "other")).fingerprint


def test_the_router_is_a_module_as_any_other(tmp_path: Path) -> None:
    model = base("mixtral", tmp_path / "base")
    folders = [
        trained(model, tmp_path / "router", 1, target_modules=["v_proj"], target_parameters=["gate.weight"]),
        trained(model, tmp_path / "attention", 2, target_modules=["v_proj"]),
    ]
    expected = answers(as_peft(model, folders))
    adapters = [Adapter.load(folder) for folder in folders]
    merged = merge(adapters, "task_arithmetic")
    assert "layers.0.mlp.gate" in merged.modules
    fresh = AutoModelForCausalLM.from_pretrained(model)
    with merged.applied_to(fresh):
        assert torch.allclose(answers(fresh), expected, atol=1e-4)
    saved = merged.save(tmp_path / "adapter")
    again = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), saved)
    assert torch.allclose(answers(again), expected, atol=1e-4)
    full = save_full_model(merged, model, tmp_path / "full")
    assert torch.allclose(answers(AutoModelForCausalLM.from_pretrained(full)), expected, atol=1e-4)


def test_a_weight_pattern_may_be_an_experts_own_name(tmp_path: Path) -> None:
    model = base("mixtral", tmp_path / "base")
    adapter = Adapter.load(trained(model, tmp_path / "task", 1, **OPTIONS["both"]))
    one, other = "layers.0.mlp.experts.down_proj[1]", "layers.0.mlp.experts.down_proj[2]"
    merged = merge([adapter], "task_arithmetic", weights=[{one: 0.0}])
    assert merged.delta(one).norm() == 0
    assert torch.equal(merged.delta(other), adapter.deltas[other].dense())


@pytest.mark.parametrize(
    ("targets", "words"),
    [(["experts.gate_up_proj"], "which is which is unknown"), (["experts.one", "experts.two"], "whose order only")],
)
def test_a_key_of_an_unknown_parameter_is_refused(targets: list[str], words: str, tmp_path: Path) -> None:
    model = base("mixtral", tmp_path / "base")
    folder = trained(model, tmp_path / "task", 1, **OPTIONS["both"])
    edit_config(folder, base_model_name_or_path="somebody/somewhere", target_parameters=targets)
    with pytest.raises(MergeError) as error:
        Adapter.load(folder)
    assert one_sentence(error.value, words)


def test_factors_of_no_whole_number_of_experts_are_refused(tmp_path: Path) -> None:
    model = base("mixtral", tmp_path / "base")
    folder = trained(model, tmp_path / "task", 1, **OPTIONS["both"])

    def cut(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {
            key: tensor if "experts" not in key else tensor[:-1] if "lora_A" in key else tensor[:, :-1].contiguous()
            for key, tensor in tensors.items()
        }

    edit_tensors(folder, cut)
    with pytest.raises(MergeError) as error:
        Adapter.load(folder)
    assert one_sentence(error.value, "directions in the file")


def test_factors_the_other_way_round_are_refused_as_peft_cannot_load_them(tmp_path: Path) -> None:
    model = base("mixtral", tmp_path / "base")
    folder = trained(model, tmp_path / "task", 1, **OPTIONS["both"])
    turned = {"lora_A": "lora_B", "lora_B": "lora_A"}

    def other_way(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {
            key.replace(side, turned[side]) if "experts" in key else key: tensor.T.contiguous()
            if "experts" in key
            else tensor
            for key, tensor in tensors.items()
            for side in turned
            if side in key
        }

    edit_tensors(folder, other_way)
    with pytest.raises(RuntimeError, match="size mismatch"):
        PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), folder)
    with pytest.raises(MergeError) as error:
        Adapter.load(folder)
    assert one_sentence(error.value, "the other way round")


def test_features_of_single_experts_are_refused(tmp_path: Path) -> None:
    from merging.models import linear_layers

    model = AutoModelForCausalLM.from_pretrained(base("mixtral", tmp_path / "base"))
    with pytest.raises(MergeError) as error:
        linear_layers(model, ["layers.0.mlp.experts.down_proj[1]"])
    assert one_sentence(error.value, "inputs cannot be looked at")


def test_adapters_of_experts_fit_each_other(tmp_path: Path) -> None:
    model = base("gpt-oss", tmp_path / "base")
    pair = [trained(model, tmp_path / f"task-{seed}", seed, **OPTIONS["both"]) for seed in range(2)]
    assert compatibility([Adapter.load(folder) for folder in pair]).ok
