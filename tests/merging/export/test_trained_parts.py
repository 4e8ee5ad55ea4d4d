"""Modules that were trained or saved whole, LoRA outside the encoder, tied embeddings, old names: PEFT's reading is
ours, everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import edit_config, edit_tensors, gaussian, one_sentence, state, unchanged
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from merging import Adapter, MergeError, merge
from merging.export.full_model import save_full_model

IDS = torch.tensor([[3, 7, 9, 11, 5], [4, 8, 12, 6, 10]])
DECODER = {
    "vocab_size": 40, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
ENCODER = {**{k: DECODER[k] for k in list(DECODER)[:5]}, "max_position_embeddings": 64, "pad_token_id": 0}
MODELS: dict[str, tuple[Any, Callable[[], Any]]] = {
    "llama": (AutoModelForCausalLM, lambda: LlamaForCausalLM(LlamaConfig(**DECODER, tie_word_embeddings=False))),
    "tied llama": (AutoModelForCausalLM, lambda: LlamaForCausalLM(LlamaConfig(**DECODER, tie_word_embeddings=True))),
    "gpt2": (
        AutoModelForCausalLM,
        lambda: GPT2LMHeadModel(GPT2Config(vocab_size=40, n_embd=32, n_layer=1, n_head=4, n_positions=64)),
    ),
    "mamba": (
        AutoModelForCausalLM,
        lambda: MambaForCausalLM(MambaConfig(vocab_size=40, hidden_size=32, num_hidden_layers=1, state_size=4)),
    ),
    "t5": (
        AutoModelForSeq2SeqLM,
        lambda: T5ForConditionalGeneration(
            T5Config(vocab_size=40, d_model=32, d_kv=8, d_ff=48, num_layers=1, num_heads=4, decoder_start_token_id=0)
        ),
    ),
    "masked": (AutoModelForMaskedLM, lambda: BertForMaskedLM(BertConfig(**ENCODER))),
    "bert": (AutoModelForSequenceClassification, lambda: BertForSequenceClassification(BertConfig(**ENCODER))),
    "deberta": (
        AutoModelForSequenceClassification,
        lambda: DebertaV2ForSequenceClassification(DebertaV2Config(**ENCODER, type_vocab_size=0)),
    ),
}


def randomised(model: Any) -> Any:
    for i, (_, parameter) in enumerate(sorted(model.named_parameters())):
        parameter.data.copy_(0.25 * gaussian(i, *parameter.shape) + (1.0 if parameter.ndim == 1 else 0.0))
    return model.eval().requires_grad_(False)


def saved_base(folder: Path, kind: str) -> Path:
    randomised(MODELS[kind][1]()).save_pretrained(folder)
    return folder


@torch.no_grad()
def answers(kind: str, model: nn.Module) -> Tensor:
    extra = {"decoder_input_ids": IDS} if kind == "t5" else {}
    return model(input_ids=IDS, **extra).logits


def loaded(kind: str, folder: Path) -> Any:
    return MODELS[kind][0].from_pretrained(folder).eval()


def written(folder: Path, kind: str, base: Path, seed: int, **options: Any) -> Path:
    """Let PEFT write an adapter whose factors and saved modules are random."""
    wrapped = get_peft_model(loaded(kind, base), LoraConfig(**({"r": 4, "lora_alpha": 8} | options)))
    for i, (name, parameter) in enumerate(sorted(wrapped.named_parameters())):
        if parameter.requires_grad:
            noise = 0.3 * gaussian(1000 * seed + i, *parameter.shape).float()
            parameter.data.copy_(noise if "lora_" in name else parameter + noise)
    wrapped.save_pretrained(folder)
    return folder


def as_peft(kind: str, base: Path, adapter: Path) -> Tensor:
    return answers(kind, PeftModel.from_pretrained(loaded(kind, base), adapter).eval())


LM, S2S = {"task_type": "CAUSAL_LM"}, {"task_type": "SEQ_2_SEQ_LM"}
ATTENTION = {"target_modules": ["q_proj", "v_proj"]}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "embeddings and head": ("llama", {**LM, **ATTENTION, "modules_to_save": ["embed_tokens", "lm_head"]}),
    "norms": ("llama", {**LM, **ATTENTION, "modules_to_save": ["norm", "input_layernorm"]}),
    "LoRA on the head": ("llama", {**LM, "target_modules": ["q_proj", "lm_head"]}),
    "LoRA on the head alone": ("llama", {**LM, "target_modules": ["lm_head"]}),
    "LoRA on the head, embeddings saved": (
        "llama",
        {**LM, "target_modules": ["q_proj", "lm_head"], "modules_to_save": ["embed_tokens"]},
    ),
    "tied, embeddings": ("tied llama", {**LM, **ATTENTION, "modules_to_save": ["embed_tokens"]}),
    "tied, head": ("tied llama", {**LM, **ATTENTION, "modules_to_save": ["lm_head"]}),
    "tied, both": ("tied llama", {**LM, **ATTENTION, "modules_to_save": ["embed_tokens", "lm_head"]}),
    "tied, kept tied": (
        "tied llama",
        {**LM, **ATTENTION, "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    ),
    "tied, LoRA on the head": ("tied llama", {**LM, "target_modules": ["q_proj", "lm_head"]}),
    "Conv1D, tied": ("gpt2", {**LM, "target_modules": ["c_attn", "c_proj", "lm_head"], "modules_to_save": ["ln_f"]}),
    "Conv1D, embeddings": ("gpt2", {**LM, "target_modules": ["c_attn"], "modules_to_save": ["wte", "ln_f"]}),
    "a prefix that is a part's name": ("mamba", {**LM, "target_modules": ["in_proj", "x_proj", "lm_head"]}),
    "encoder-decoder, head": ("t5", {**S2S, "target_modules": ["q", "v"], "modules_to_save": ["lm_head"]}),
    "encoder-decoder, embeddings": ("t5", {**S2S, "target_modules": ["q", "v"], "modules_to_save": ["shared"]}),
    "LoRA on embeddings": ("llama", {**LM, "target_modules": ["q_proj", "embed_tokens"], "use_rslora": True}),
    "LoRA on embeddings alone": ("llama", {**LM, "target_modules": ["embed_tokens"]}),
    "LoRA on embeddings and head": ("llama", {**LM, "target_modules": ["embed_tokens", "lm_head"]}),
    "tied, LoRA on embeddings": ("tied llama", {**LM, "target_modules": ["q_proj", "embed_tokens"]}),
    "tied, LoRA on both": ("tied llama", {**LM, "target_modules": ["embed_tokens", "lm_head"]}),
    "Conv1D, LoRA on embeddings": ("gpt2", {**LM, "target_modules": ["c_attn", "wte", "wpe"]}),
    "all biases": ("bert", {"target_modules": ["query", "dense"], "bias": "all"}),
    "biases of what has LoRA": ("gpt2", {**LM, "target_modules": ["c_attn"], "bias": "lora_only"}),
    "biases that do not exist": ("llama", {**LM, **ATTENTION, "bias": "all"}),
    "an encoder's embeddings": ("bert", {"target_modules": ["query", "word_embeddings", "position_embeddings"]}),
    "a masked head's layers": ("masked", {"target_modules": ["query", "dense"]}),
    "a masked head's decoder": ("masked", {"target_modules": ["query", "decoder"]}),
    "a masked head, saved": ("masked", {"target_modules": ["query"], "modules_to_save": ["LayerNorm", "decoder"]}),
    "pooler and classifier": ("bert", {"target_modules": ["query", "dense", "classifier"]}),
    "a pooler outside the encoder": ("deberta", {"target_modules": ["query_proj", "dense", "classifier"]}),
}
cases = pytest.mark.parametrize(("kind", "options"), CASES.values(), ids=CASES)


@cases
@pytest.mark.filterwarnings("ignore")
def test_one_adapter_is_pefts_reading_as_an_adapter_a_model_and_applied(
    kind: str, options: dict[str, Any], tmp_path: Path
) -> None:
    base = saved_base(tmp_path / "base", kind)
    adapter = written(tmp_path / "mine", kind, base, 1, **options)
    expected = as_peft(kind, base, adapter)
    plain = answers(kind, loaded(kind, base))
    assert float((expected - plain).abs().max()) > 0.1
    merged = merge([Adapter.load(adapter)], "task_arithmetic")
    assert torch.allclose(as_peft(kind, base, merged.save(tmp_path / "adapter")), expected, atol=1e-4)
    assert torch.allclose(
        answers(kind, loaded(kind, save_full_model(merged, base, tmp_path / "full"))), expected, atol=1e-4
    )
    model = loaded(kind, base)
    before = state(model)
    with merged.applied_to(model):
        assert torch.allclose(answers(kind, model), expected, atol=1e-4)
    assert unchanged(model, before)
    assert torch.equal(answers(kind, model), plain)


def test_embeddings_kept_tied_that_the_training_left_alone_load_in_peft_again(tmp_path: Path) -> None:
    base = saved_base(tmp_path / "base", "tied llama")
    options = {**LM, **ATTENTION, "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}
    adapter = written(tmp_path / "mine", "tied llama", base, 1, **options)
    own = loaded("tied llama", base).get_output_embeddings().weight.detach()
    edit_tensors(adapter, lambda tensors: {k: t if "lora" in k else own.clone() for k, t in tensors.items()})
    expected = as_peft("tied llama", base, adapter)
    saved = merge([Adapter.load(adapter)], "task_arithmetic").save(tmp_path / "adapter")
    assert torch.allclose(as_peft("tied llama", base, saved), expected, atol=1e-4)


def test_a_file_cannot_hold_lora_on_one_of_embeddings_that_no_option_unties(tmp_path: Path) -> None:
    base = saved_base(tmp_path / "base", "t5")
    adapter = written(tmp_path / "mine", "t5", base, 1, **S2S, target_modules=["q", "embed_tokens"])
    expected = as_peft("t5", base, adapter)
    merged = merge([Adapter.load(adapter)], "task_arithmetic")
    assert torch.allclose(as_peft("t5", base, merged.save(tmp_path / "adapter")), expected, atol=1e-4)
    model = loaded("t5", base)
    with merged.applied_to(model):
        assert torch.allclose(answers("t5", model), expected, atol=1e-4)
    with pytest.raises(MergeError) as caught:
        save_full_model(merged, base, tmp_path / "full")
    assert one_sentence(caught.value, "embed_tokens", "shares its weight")


UNTIED = {name: case for name, case in CASES.items() if case[0] in ("llama", "bert", "deberta")}


@pytest.mark.parametrize(("kind", "options"), UNTIED.values(), ids=UNTIED)
def test_several_are_the_sum_over_every_parameter(kind: str, options: dict[str, Any], tmp_path: Path) -> None:
    base = saved_base(tmp_path / "base", kind)
    adapters = [written(tmp_path / f"task-{i}", kind, base, i, **options) for i in range(2)]
    model = loaded(kind, base)
    start, total = state(model), state(model)
    for adapter in adapters:
        alone = PeftModel.from_pretrained(loaded(kind, base), adapter).merge_and_unload()
        for name, tensor in alone.state_dict().items():
            total[name] += 0.5 * (tensor - start[name])
    model.load_state_dict(total)
    expected = answers(kind, model)
    merged = merge([Adapter.load(adapter) for adapter in adapters], "task_arithmetic", scaling=0.5)
    assert torch.allclose(as_peft(kind, base, merged.save(tmp_path / "adapter")), expected, atol=1e-4)
    assert torch.allclose(
        answers(kind, loaded(kind, save_full_model(merged, base, tmp_path / "full"))), expected, atol=1e-4
    )
    model.load_state_dict(start)
    with merged.applied_to(model):
        assert torch.allclose(answers(kind, model), expected, atol=1e-4)


BOTH: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "embeddings": (
        "llama",
        {"target_modules": ["q_proj", "embed_tokens"]},
        {**ATTENTION, "modules_to_save": ["embed_tokens"]},
    ),
    "head": ("llama", {"target_modules": ["q_proj", "lm_head"]}, {**ATTENTION, "modules_to_save": ["lm_head"]}),
    "inside": ("llama", {"target_modules": ["q_proj", "up_proj"]}, {**ATTENTION, "modules_to_save": ["mlp"]}),
    "Conv1D": (
        "gpt2",
        {"target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True},
        {"target_modules": ["c_attn"], "modules_to_save": ["c_fc"], "fan_in_fan_out": True},
    ),
}


@pytest.mark.parametrize(("kind", "one", "other"), BOTH.values(), ids=BOTH)
def test_what_one_adapts_and_the_other_trained_whole_is_held_whole(
    kind: str, one: dict[str, Any], other: dict[str, Any], tmp_path: Path
) -> None:
    base = saved_base(tmp_path / "base", kind)
    adapters = [written(tmp_path / f"task-{i}", kind, base, i, **LM, **o) for i, o in enumerate((one, other))]
    model = loaded(kind, base)
    start, total = state(model), state(model)
    for adapter in adapters:
        alone = PeftModel.from_pretrained(loaded(kind, base), adapter).merge_and_unload().state_dict()
        for name in total:
            total[name] += 0.5 * (alone[name] - start[name])
    model.load_state_dict(total)
    expected = answers(kind, model)
    merged = merge([Adapter.load(adapter) for adapter in adapters], "task_arithmetic", scaling=0.5)
    assert torch.allclose(as_peft(kind, base, merged.save(tmp_path / "adapter")), expected, atol=1e-4)
    assert torch.allclose(
        answers(kind, loaded(kind, save_full_model(merged, base, tmp_path / "full"))), expected, atol=1e-4
    )


def test_a_head_beside_an_update_of_it_is_refused_as_peft_cannot_load_both(tmp_path: Path) -> None:
    base = saved_base(tmp_path / "base", "bert")
    one = written(tmp_path / "one", "bert", base, 1, target_modules=["query", "classifier"])
    other = written(tmp_path / "other", "bert", base, 2, target_modules=["query"], task_type="SEQ_CLS")
    merged = merge([Adapter.load(one), Adapter.load(other)], "average")
    with pytest.raises(MergeError) as caught:
        merged.save(tmp_path / "out", head="other")
    assert one_sentence(caught.value, "classifier", "modules_to_save")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("method", "params"), [("average", {}), ("ties", {"density": 1.0}), ("dare_ties", {"density": 1.0})]
)
def test_two_equal_adapters_agree_on_trained_modules_too(method: str, params: dict[str, float], tmp_path: Path) -> None:
    base = saved_base(tmp_path / "base", "llama")
    adapter = written(tmp_path / "one", "llama", base, 1, **LM, **ATTENTION, modules_to_save=["embed_tokens", "norm"])
    merged = merge([Adapter.load(adapter), Adapter.load(adapter, name="again")], method, **params)
    full = save_full_model(merged, base, tmp_path / "full")
    assert torch.allclose(answers("llama", loaded("llama", full)), as_peft("llama", base, adapter), atol=1e-4)


@pytest.mark.parametrize("method", ["regmean", "emr", "peft_linear"])
def test_a_method_that_cannot_merge_them_says_so(method: str, tmp_path: Path, features) -> None:
    base = saved_base(tmp_path / "base", "llama")
    adapters = [
        written(tmp_path / f"task-{i}", "llama", base, i, **LM, **ATTENTION, modules_to_save=["norm"]) for i in range(2)
    ]
    merged = merge(
        [Adapter.load(a) for a in adapters], method, **({"features": features} if method == "regmean" else {})
    )
    merged = merged.for_task("task-0") if method == "emr" else merged
    with pytest.raises(MergeError) as caught:
        merged.part("norm.weight", load_file(base / "model.safetensors")["model.norm.weight"])
    assert one_sentence(caught.value, method, "norm.weight")


def far_from(folder: Path) -> Path:
    edit_config(folder, base_model_name_or_path="somebody/base")
    return folder


def test_without_the_base_one_adapter_is_kept_and_several_need_it_or_a_choice(tmp_path: Path) -> None:
    base = saved_base(tmp_path / "base", "llama")
    options = {**LM, **ATTENTION, "modules_to_save": ["embed_tokens"]}
    adapters = [far_from(written(tmp_path / f"task-{i}", "llama", base, i, **options)) for i in range(2)]
    one = merge([Adapter.load(adapters[0])], "ties", density=1.0)
    assert torch.allclose(
        as_peft("llama", base, one.save(tmp_path / "one", rank=4)), as_peft("llama", base, adapters[0]), atol=1e-4
    )
    merged = merge([Adapter.load(adapter) for adapter in adapters], "average")
    half = merge([Adapter.load(adapters[0])], "task_arithmetic", scaling=0.5)
    for refused in (merged, half):
        with pytest.raises(MergeError) as caught:
            refused.save(tmp_path / "two")
        assert one_sentence(caught.value, "task-0", "embed_tokens.weight", "--base")
        assert not (tmp_path / "two").exists()
    chosen = load_file(merged.save(tmp_path / "two", head="task-1") / "adapter_model.safetensors")
    key = "base_model.model.model.embed_tokens.weight"
    assert torch.equal(chosen[key], load_file(adapters[1] / "adapter_model.safetensors")[key])
    vouched = merge([Adapter.load(adapter, base=str(base)) for adapter in adapters], "average")
    both = [load_file(adapter / "adapter_model.safetensors")[key] for adapter in adapters]
    assert torch.allclose(
        load_file(vouched.save(tmp_path / "three") / "adapter_model.safetensors")[key], sum(both) / 2, atol=1e-6
    )


def test_a_saved_module_stays_whole_where_only_a_part_of_it_was_changed(tmp_path: Path) -> None:
    base = saved_base(tmp_path / "base", "bert")
    saved = {"target_modules": ["query"], "modules_to_save": ["LayerNorm"]}
    adapter = written(tmp_path / "mine", "bert", base, 1, **saved)
    start = load_file(base / "model.safetensors")
    edit_tensors(adapter, lambda ts: ts | {k: start[k[17:]].clone() for k in ts if k.endswith("LayerNorm.bias")})
    expected = as_peft("bert", base, adapter)
    merged = merge([Adapter.load(adapter)], "average")
    assert torch.allclose(as_peft("bert", base, merged.save(tmp_path / "out")), expected, atol=1e-4)
    model = loaded("bert", base)
    with merged.applied_to(model):
        assert torch.allclose(answers("bert", model), expected, atol=1e-4)


@pytest.mark.parametrize("at_hand", [True, False])
def test_a_saved_module_in_part_cannot_be_loaded_by_peft_and_is_refused(at_hand: bool, tmp_path: Path) -> None:
    base = saved_base(tmp_path / "base", "bert")
    saved = {"target_modules": ["query"], "modules_to_save": ["LayerNorm"]}
    adapter = written(tmp_path / "mine", "bert", base, 1, **saved)
    edit_tensors(adapter, lambda ts: {k: t for k, t in ts.items() if not k.endswith("embeddings.LayerNorm.bias")})
    with pytest.raises(KeyError):
        as_peft("bert", base, adapter)
    if not at_hand:
        edit_config(adapter, base_model_name_or_path="somebody/base")
    with (
        pytest.raises(MergeError) as caught,
        merge([Adapter.load(adapter)], "average").applied_to(loaded("bert", base)),
    ):
        pass
    assert one_sentence(caught.value, "embeddings.LayerNorm.bias", "modules_to_save")


# -- embeddings that PEFT saves beside the LoRA
# -------------------------------------------------------------------------


def with_embeddings(folder: Path, change: float, rows: int = 40) -> Path:
    base = load_file(folder.parent / "base" / "model.safetensors")["model.embed_tokens.weight"]
    grown = torch.cat([base, base[: rows - 40]]) + change
    edit_tensors(folder, lambda tensors: tensors | {"base_model.model.model.embed_tokens.weight": grown})
    return folder


def test_embeddings_saved_beside_the_lora_count_only_where_they_differ_from_the_base(tmp_path: Path) -> None:
    base = saved_base(tmp_path / "base", "llama")
    same, other, grown = (
        with_embeddings(written(tmp_path / name, "llama", base, i, **LM, **ATTENTION), change, rows)
        for i, (name, change, rows) in enumerate([("same", 0.0, 40), ("other", 0.1, 40), ("grown", 0.0, 44)])
    )
    assert not Adapter.load(same).trained
    assert set(Adapter.load(other).trained) == {"embed_tokens.weight"}
    merged = merge([Adapter.load(same), Adapter.load(other)], "task_arithmetic")
    tensors = load_file(merged.save(tmp_path / "merged") / "adapter_model.safetensors")
    expected = load_file(other / "adapter_model.safetensors")["base_model.model.model.embed_tokens.weight"]
    assert torch.allclose(tensors["base_model.model.model.embed_tokens.weight"], expected, atol=1e-6)
    with pytest.raises(MergeError) as caught:
        merge([Adapter.load(same), Adapter.load(grown)], "task_arithmetic").save(tmp_path / "no")
    assert one_sentence(caught.value, "(44, 32)", "(40, 32)", "vocabulary")
    kept = merge([Adapter.load(grown)], "average").save(tmp_path / "kept")
    assert load_file(kept / "adapter_model.safetensors")["base_model.model.model.embed_tokens.weight"].shape == (44, 32)


RESIZED: dict[str, tuple[str, list[str] | None]] = {
    "both trained": ("llama", ["embed_tokens", "lm_head"]),
    "both saved beside": ("llama", None),
    "tied, both trained": ("tied llama", ["embed_tokens", "lm_head"]),
    "tied, saved beside": ("tied llama", None),
}


@pytest.mark.parametrize(("kind", "saved"), RESIZED.values(), ids=RESIZED)
@pytest.mark.parametrize("rows", [44, 36])
def test_a_full_model_has_the_vocabulary_of_the_adapter(
    kind: str, saved: list[str] | None, rows: int, tmp_path: Path
) -> None:
    base = saved_base(tmp_path / "base", kind)

    def resized() -> Any:
        model = loaded(kind, base)
        model.resize_token_embeddings(rows, mean_resizing=False)
        return model

    model = resized()
    model.get_input_embeddings().weight.data += 0.1 * gaussian(77, rows, 32).float()  # as the training has left it
    wrapped = get_peft_model(model, LoraConfig(r=4, **LM, **ATTENTION, modules_to_save=saved))
    for i, (_, parameter) in enumerate(sorted(wrapped.named_parameters())):
        if parameter.requires_grad:
            parameter.data += 0.3 * gaussian(i, *parameter.shape).float()
    wrapped.eval().save_pretrained(tmp_path / "mine", save_embedding_layers=True)
    edit_config(tmp_path / "mine", base_model_name_or_path=str(base))
    (tmp_path / "mine" / "tokenizer_config.json").write_text('{"made_for": "the adapter"}')
    (base / "vocab.txt").write_text("of the base")
    merged = merge([Adapter.load(tmp_path / "mine")], "average")
    full = save_full_model(merged, base, tmp_path / "full")
    again = loaded(kind, full)
    assert again.config.vocab_size == rows
    expected = answers(kind, PeftModel.from_pretrained(resized(), tmp_path / "mine"))
    assert torch.allclose(answers(kind, again), expected, atol=1e-4)
    assert (full / "tokenizer_config.json").read_text() == '{"made_for": "the adapter"}'
    assert not (full / "vocab.txt").exists()
    assert f"{rows} entries" in (full / "README.md").read_text()


@pytest.mark.parametrize("kind", ["llama", "tied llama"])
def test_a_vocabulary_of_which_only_one_table_is_known_is_refused(kind: str, tmp_path: Path) -> None:
    base = saved_base(tmp_path / "base", kind)
    model = loaded(kind, base)
    model.resize_token_embeddings(44, mean_resizing=False)
    wrapped = get_peft_model(model, LoraConfig(r=4, **LM, **ATTENTION, modules_to_save=["embed_tokens"]))
    wrapped.save_pretrained(tmp_path / "mine", save_embedding_layers=False)
    edit_config(tmp_path / "mine", base_model_name_or_path=str(base))
    merged = merge([Adapter.load(tmp_path / "mine")], "average")
    with pytest.raises(MergeError) as caught:
        save_full_model(merged, base, tmp_path / "full")
    assert one_sentence(caught.value, "vocabulary", "resize the base")


def test_embeddings_trained_after_a_resize_are_stored_twice_and_read_once(tmp_path: Path) -> None:
    base = saved_base(tmp_path / "base", "llama")

    def grown() -> Any:
        model = loaded("llama", base)
        model.resize_token_embeddings(44, mean_resizing=False)
        return model

    wrapped = get_peft_model(grown(), LoraConfig(r=4, **LM, **ATTENTION, modules_to_save=["embed_tokens", "lm_head"]))
    for i, (_, parameter) in enumerate(sorted(wrapped.named_parameters())):
        if parameter.requires_grad:
            parameter.data += 0.3 * gaussian(i, *parameter.shape).float()
    wrapped.eval().save_pretrained(tmp_path / "mine")
    keys = set(load_file(tmp_path / "mine" / "adapter_model.safetensors"))
    assert {f"base_model.model.lm_head.{part}weight" for part in ("", "modules_to_save.", "original_module.")} <= keys
    merged = merge([Adapter.load(tmp_path / "mine")], "average")
    again = PeftModel.from_pretrained(grown(), merged.save(tmp_path / "out")).eval()
    assert torch.allclose(answers("llama", again), answers("llama", wrapped), atol=1e-4)
    full = save_full_model(merged, base, tmp_path / "full")
    written_model = loaded("llama", full)
    assert written_model.config.vocab_size == 44
    assert torch.allclose(answers("llama", written_model), answers("llama", wrapped), atol=1e-4)
    assert not (full / "tokenizer_config.json").exists()
    model = grown()
    with merged.applied_to(model):
        assert torch.allclose(answers("llama", model), answers("llama", wrapped), atol=1e-4)
    model = loaded("llama", base)
    with pytest.raises(MergeError) as caught, merged.applied_to(model):
        pass
    assert one_sentence(caught.value, "(44, 32)", "(40, 32)", "vocabulary")
    assert unchanged(model, state(loaded("llama", base)))


@pytest.mark.parametrize("kind", ["llama", "tied llama"])
def test_pefts_copy_of_a_head_with_lora_counts_where_it_was_changed(kind: str, tmp_path: Path) -> None:
    base = saved_base(tmp_path / "base", kind)
    adapter = written(tmp_path / "mine", kind, base, 1, **LM, target_modules=["q_proj", "lm_head"])
    assert not Adapter.load(adapter).trained
    edit_tensors(adapter, lambda ts: {name: t + 0.1 if "base_layer" in name else t for name, t in ts.items()})
    expected = as_peft(kind, base, adapter)
    merged = merge([Adapter.load(adapter)], "average")
    assert torch.allclose(as_peft(kind, base, merged.save(tmp_path / "adapter")), expected, atol=1e-4)
    assert torch.allclose(
        answers(kind, loaded(kind, save_full_model(merged, base, tmp_path / "full"))), expected, atol=1e-4
    )


def test_a_model_of_another_base_says_so_in_its_card(tmp_path: Path) -> None:
    base = saved_base(tmp_path / "Llama-3-8B", "llama")
    adapter = written(tmp_path / "mine", "llama", base, 1, **LM, **ATTENTION)
    edit_config(adapter, base_model_name_or_path="meta-llama/Llama-3-8B-Instruct")
    card = (
        save_full_model(merge([Adapter.load(adapter)], "average"), base, tmp_path / "full") / "README.md"
    ).read_text()
    assert "base_model: meta-llama" not in card
    assert "records the base meta-llama/Llama-3-8B-Instruct, but the weights are those of" in card
