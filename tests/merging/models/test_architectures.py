"""A merge of PEFT's own adapters reloads exactly on every architecture: as an adapter, as a full model, and with a
task's head.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import HIDDEN, dense_added, gaussian, one_sentence, peft_folder, reloaded, tiny_tokenizer
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import (
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    GPT2Config,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    RobertaConfig,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
)

from merging import Adapter, Merged, MergeError, merge
from merging.export.full_model import save_full_model
from merging.models.checkpoint import find_checkpoint
from merging.models.layers import bare, fingerprint

TEXT = {
    "vocab_size": 25,
    "hidden_size": HIDDEN,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 2 * HIDDEN,
    "max_position_embeddings": 40,
}
DECODER = TEXT | {"pad_token_id": 0, "num_key_value_heads": 1}
DEBERTA = TEXT | {
    "relative_attention": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_buckets": 8,
    "share_att_key": True,
}
DISTILBERT = {
    "vocab_size": 25,
    "dim": HIDDEN,
    "n_layers": 1,
    "n_heads": 2,
    "hidden_dim": 2 * HIDDEN,
    "max_position_embeddings": 40,
}
T5 = {
    "vocab_size": 25,
    "d_model": HIDDEN,
    "d_kv": HIDDEN // 2,
    "d_ff": 2 * HIDDEN,
    "num_layers": 1,
    "num_heads": 2,
    "decoder_start_token_id": 0,
}
GPT2 = {"vocab_size": 25, "n_embd": HIDDEN, "n_layer": 1, "n_head": 2, "n_positions": 40, "pad_token_id": 0}
VIT = {
    "hidden_size": HIDDEN,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "image_size": 8,
    "patch_size": 4,
}


@dataclass(frozen=True)
class Architecture:
    """A tiny configuration, the linear layers that are adapted, and the layers of a task's head."""

    config: Callable[..., Any]
    options: dict[str, Any]
    targets: list[str]
    head: list[str]
    lora: dict[str, Any] = field(default_factory=dict)
    images: bool = False

    @property
    def auto(self) -> Any:
        return AutoModelForImageClassification if self.images else AutoModelForSequenceClassification

    @property
    def task_type(self) -> str | None:
        return None if self.images else "SEQ_CLS"


ARCHITECTURES = {
    "bert": Architecture(BertConfig, TEXT, ["query", "value"], ["classifier"]),
    "roberta": Architecture(RobertaConfig, TEXT | {"pad_token_id": 0}, ["query", "dense"], ["classifier"]),
    "distilbert": Architecture(DistilBertConfig, DISTILBERT, ["q_lin", "lin1"], ["pre_classifier", "classifier"]),
    "deberta-v2": Architecture(DebertaV2Config, DEBERTA, ["query_proj", "value_proj"], ["pooler", "classifier"]),
    "t5": Architecture(T5Config, T5, ["q", "v", "wo"], ["classification_head"]),
    "llama": Architecture(LlamaConfig, DECODER, ["q_proj", "v_proj", "down_proj"], ["score"]),
    "qwen2": Architecture(Qwen2Config, DECODER, ["q_proj", "v_proj", "gate_proj"], ["score"]),
    "gpt2": Architecture(GPT2Config, GPT2, ["c_attn", "c_fc"], ["score"], {"fan_in_fan_out": True}),
    "vit": Architecture(ViTConfig, VIT, ["q_proj", "v_proj", "fc1"], ["classifier"], images=True),
}
LORA = ({"r": 2, "lora_alpha": 16}, {"r": 5, "lora_alpha": 3, "use_rslora": True})
every_architecture = pytest.mark.parametrize("kind", ARCHITECTURES)


def random_model(kind: str, labels: int | None = None) -> Any:
    """Return the bare model, or with ``labels`` the classification model whose encoder has the same weights."""
    architecture = ARCHITECTURES[kind]
    options = architecture.options if labels is None else architecture.options | {"num_labels": labels}
    model = (AutoModel if labels is None else architecture.auto).from_config(architecture.config(**options))
    inside = bare(model)
    for part in (
        (model,) if labels is None else (model, inside)
    ):  # the head first, then an encoder that is always the same
        for i, (_, parameter) in enumerate(sorted(part.named_parameters())):
            parameter.data.copy_(0.3 * gaussian(i, *parameter.shape))
    model.name_or_path = f"tiny-{kind}"
    return model.eval().requires_grad_(False)


def saved(folder: Path, model: Any, kind: str) -> Path:
    """Write a model in the hub's layout: configuration, weights, and a tokenizer or what prepares images."""
    model.save_pretrained(folder)
    (
        ViTImageProcessor(size={"height": 8, "width": 8}) if ARCHITECTURES[kind].images else tiny_tokenizer()
    ).save_pretrained(folder)
    return folder


def pool_of(folder: Path, model: Any, kind: str, **options: Any) -> list[Adapter]:
    """Let PEFT write two adapters of different ranks and alphas."""
    architecture = ARCHITECTURES[kind]
    for i, lora in enumerate(LORA):
        chosen = {"target_modules": architecture.targets} | architecture.lora | lora | options
        peft_folder(folder / f"task-{i}", model, seed=i, **chosen)
    return [Adapter.load(folder / f"task-{i}") for i in range(len(LORA))]


def classifying(kind: str) -> dict[str, Any]:
    return {"task_type": ARCHITECTURES[kind].task_type, "modules_to_save": ARCHITECTURES[kind].head}


def inputs(kind: str) -> dict[str, Tensor]:
    """Return a padded batch of texts that end as T5 wants it, or two images."""
    if ARCHITECTURES[kind].images:
        return {"pixel_values": gaussian(5, 2, 3, 8, 8).float()}
    return {
        "input_ids": torch.tensor([[7, 8, 9, 10, 1], [11, 12, 1, 0, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]),
    }


@torch.no_grad()
def states(model: nn.Module, kind: str) -> Tensor:
    """Return the last hidden states of a bare model."""
    fed = inputs(kind)
    if kind == "t5":
        fed["decoder_input_ids"] = torch.tensor([[0, 5, 6], [0, 8, 9]])
    return model(**fed).last_hidden_state


@torch.no_grad()
def logits(model: nn.Module, kind: str) -> Tensor:
    return model(**inputs(kind)).logits


def oracle(model: nn.Module, merged: Merged) -> Any:
    """Return a context with a copy of a bare model that has the dense updates in its weights (GPT-2 stores them
    transposed).
    """
    turned = {name: type(model.get_submodule(name)).__name__ == "Conv1D" for name in merged.modules}
    return dense_added(
        model, {name: merged.delta(name).T if turned[name] else merged.delta(name) for name in merged.modules}
    )


def close(found: Tensor, expected: Tensor) -> bool:
    return torch.allclose(found, expected, atol=1e-5, rtol=0)


def loaded(folder: Path, auto: Any = AutoModel) -> Any:
    model, information = auto.from_pretrained(folder, output_loading_info=True)
    assert not information["missing_keys"], information
    return model.eval()


# -- an adapter and a full model of the bare encoder
# --------------------------------------------------------------------


@every_architecture
@pytest.mark.parametrize("method", ["task_arithmetic", "ties"])
def test_a_merged_adapter_and_a_full_model_reload_as_the_base_with_the_dense_updates(
    kind: str, method: str, tmp_path: Path
) -> None:
    base = random_model(kind)
    merged = merge(
        pool_of(tmp_path, base, kind), method, **({"density": 0.5} if method == "ties" else {"scaling": 0.7})
    )
    with oracle(base, merged) as changed:
        expected = states(changed, kind)
    assert not torch.allclose(expected, states(base, kind), atol=1e-2)
    merged.save(tmp_path / "merged", rank=None if method == "task_arithmetic" else HIDDEN)
    assert close(states(reloaded(base, tmp_path / "merged"), kind), expected)
    place = saved(tmp_path / "base", base, kind)
    save_full_model(merged, place, tmp_path / "full")
    assert close(states(loaded(tmp_path / "full"), kind), expected)
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (tmp_path / "full", place))
    assert set(ours) == set(theirs)  # the base's own names of layers, for whoever reads them with another version
    assert sum(not torch.equal(ours[key], theirs[key]) for key in theirs) == len(merged.modules)


@every_architecture
@pytest.mark.parametrize("topped", [False, True], ids=["bare", "under a head"])
def test_a_stored_base_has_the_fingerprint_of_the_loaded_one(kind: str, topped: bool, tmp_path: Path) -> None:
    model = random_model(kind, labels=2 if topped else None)
    place = saved(tmp_path / "base", model, kind)
    assert find_checkpoint(place).fingerprint() == fingerprint(model) == fingerprint(AutoModel.from_pretrained(place))


# -- a task's head
# -------------------------------------------------------------------------------------------------------


@every_architecture
def test_one_adapter_keeps_its_head_and_gives_its_own_logits(kind: str, tmp_path: Path) -> None:
    model = random_model(kind, labels=3)
    adapter = pool_of(tmp_path, model, kind, **classifying(kind))[1]
    expected = logits(reloaded(model, tmp_path / "task-1"), kind)
    assert not torch.allclose(expected, logits(model, kind), atol=1e-2)
    merged = merge([adapter], "task_arithmetic")
    merged.save(tmp_path / "merged", head="task-1")
    assert close(logits(reloaded(model, tmp_path / "merged"), kind), expected)
    place = saved(tmp_path / "base", random_model(kind, labels=2), kind)
    full = loaded(save_full_model(merged, place, tmp_path / "full", head="task-1"), ARCHITECTURES[kind].auto)
    assert full.config.architectures == [type(model).__name__]
    assert close(logits(full, kind), expected)


@every_architecture
def test_a_merge_carries_the_chosen_head_also_onto_a_bare_base(kind: str, tmp_path: Path) -> None:
    model = random_model(kind, labels=3)
    merged = merge(pool_of(tmp_path, model, kind, **classifying(kind)), "ties", density=0.5)
    merged.save(tmp_path / "merged", rank=HIDDEN, head="task-0")
    headed = copy.deepcopy(model)
    for name, tensor in merged.adapters[0].head.tensors.items():
        headed.get_parameter(name).data.copy_(tensor)
    prefix = f"{model.base_model_prefix}."
    turned = {name: type(bare(model).get_submodule(name)).__name__ == "Conv1D" for name in merged.modules}
    with dense_added(
        headed, {f"{prefix}{n}": merged.delta(n).T if turned[n] else merged.delta(n) for n in merged.modules}
    ) as changed:
        expected = logits(changed, kind)
    assert close(logits(reloaded(model, tmp_path / "merged"), kind), expected)
    assert not torch.allclose(expected, logits(reloaded(model, tmp_path / "task-0"), kind), atol=1e-2)
    place = saved(tmp_path / "base", random_model(kind), kind)
    full = save_full_model(merged, place, tmp_path / "full", head="task-0")
    assert close(logits(loaded(full, ARCHITECTURES[kind].auto), kind), expected)


def test_a_head_on_a_layer_that_nobody_supplies_is_refused(tmp_path: Path) -> None:
    model = random_model("deberta-v2", labels=3)
    pool = pool_of(
        tmp_path, model, "deberta-v2", task_type="SEQ_CLS"
    )  # PEFT saves the classifier, but not the pooler below it
    merged = merge(pool, "average")
    assert close(
        logits(loaded(full_on(merged, model, tmp_path / "with"), AutoModelForSequenceClassification), "deberta-v2"),
        logits(reloaded(model, merged.save(tmp_path / "merged", head="task-0")), "deberta-v2"),
    )
    with pytest.raises(MergeError) as caught:
        full_on(merged, random_model("deberta-v2"), tmp_path / "without")
    assert one_sentence(caught.value, "pooler.dense", "DebertaV2ForSequenceClassification", "modules_to_save")
    assert not (tmp_path / "without" / "full").exists()


def full_on(merged: Merged, model: Any, folder: Path) -> Path:
    return save_full_model(merged, saved(folder / "base", model, "deberta-v2"), folder / "full", head="task-0")


# -- what single architectures have of their own
# -------------------------------------------------------------------------


def test_t5_with_its_language_model_head(tmp_path: Path) -> None:
    model = T5ForConditionalGeneration(T5Config(**T5)).eval().requires_grad_(False)
    model.name_or_path = "tiny-t5"
    for i, (_, parameter) in enumerate(sorted(model.named_parameters())):
        parameter.data.copy_(0.3 * gaussian(i, *parameter.shape))
    merged = merge(pool_of(tmp_path, model, "t5", task_type="SEQ_2_SEQ_LM"), "task_arithmetic")

    @torch.no_grad()
    def scores(model: nn.Module) -> Tensor:
        return model(**inputs("t5"), decoder_input_ids=torch.tensor([[0, 5], [0, 8]])).logits

    with oracle(model, merged) as changed:
        expected = scores(changed)
    assert not torch.allclose(expected, scores(model), atol=1e-2)
    assert close(scores(reloaded(model, merged.save(tmp_path / "merged"))), expected)
    full = save_full_model(merged, saved(tmp_path / "base", model, "t5"), tmp_path / "full")
    assert close(scores(loaded(full, T5ForConditionalGeneration)), expected)


def test_a_decoder_with_an_own_language_model_head_and_embeddings(tmp_path: Path) -> None:
    model = LlamaForCausalLM(LlamaConfig(**DECODER)).eval().requires_grad_(False)
    for i, (_, parameter) in enumerate(sorted(model.named_parameters())):
        parameter.data.copy_(0.3 * gaussian(i, *parameter.shape))
    model.name_or_path = "tiny-llama"
    own = {"task_type": "CAUSAL_LM", "modules_to_save": ["lm_head", "embed_tokens"]}
    adapter = pool_of(tmp_path, model, "llama", **own)[0]
    expected = logits(reloaded(model, tmp_path / "task-0"), "llama")
    merged = merge([adapter], "average")
    assert close(logits(reloaded(model, merged.save(tmp_path / "merged", head="task-0")), "llama"), expected)
    for name, base in {"whole": model, "bare": model.model}.items():
        full = save_full_model(merged, saved(tmp_path / name, base, "llama"), tmp_path / f"{name}-full", head="task-0")
        assert close(logits(loaded(full, LlamaForCausalLM), "llama"), expected)


def test_a_vision_model_brings_what_prepares_its_images(tmp_path: Path) -> None:
    model = random_model("vit")
    place = saved(tmp_path / "base", model, "vit")
    full = save_full_model(merge(pool_of(tmp_path, model, "vit"), "average"), place, tmp_path / "full")
    assert json.loads((full / "preprocessor_config.json").read_text())["size"] == {"height": 8, "width": 8}


def test_old_and_new_names_of_a_layer_are_one(tmp_path: Path) -> None:
    model = random_model("vit")
    old = saved(tmp_path / "old", model, "vit")
    assert "encoder.layer.0.attention.attention.query.weight" in load_file(old / "model.safetensors")
    new = tmp_path / "new"
    model.save_pretrained(new, save_original_format=False)
    assert "layers.0.attention.q_proj.weight" in load_file(new / "model.safetensors")
    prints = {find_checkpoint(place).fingerprint() for place in (old, new)}
    assert prints == {fingerprint(model)}
    pool = [replace(adapter, base_fingerprint=fingerprint(model)) for adapter in pool_of(tmp_path, model, "vit")]
    merged = merge(pool, "average")
    fulls = [save_full_model(merged, place, tmp_path / f"{place.name}-full") for place in (old, new)]
    found = [states(ViTModel.from_pretrained(full).eval(), "vit") for full in fulls]
    assert torch.equal(*found)
