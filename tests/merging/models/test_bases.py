"""Bases are described before they are loaded, refused where they do not fit, and loaded once."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Event

import pytest
import torch
from builders import HIDDEN, WORDS, one_sentence, random_adapter, tiny_model, tiny_tokenizer
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
    Wav2Vec2Config,
)

from merging import MergeError, collect_features, merge
from merging.models.embedded import EMBEDDED, base_name
from merging.models.layers import pooled_states
from merging.models.load import load_base
from merging.models.shared import Bases, base_of, check_memory, describe, described, free_gigabytes

TEXT = {
    "vocab_size": 5 + len(WORDS),
    "hidden_size": HIDDEN,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
T5 = T5Config(
    vocab_size=5 + len(WORDS), d_model=HIDDEN, d_kv=16, d_ff=64, num_layers=1, num_heads=2, decoder_start_token_id=0
)
VIT = ViTConfig(
    hidden_size=HIDDEN, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, image_size=8, patch_size=4
)
MODELS = {
    "encoder": tiny_model,
    "decoder": lambda: LlamaForCausalLM(LlamaConfig(**TEXT)),
    "encoder-decoder": lambda: T5ForConditionalGeneration(T5),
    "vision": lambda: ViTModel(VIT),
}


def saved(folder: Path, model, dtype: torch.dtype = torch.float32) -> str:
    model.to(dtype).save_pretrained(folder)
    if model.main_input_name == "pixel_values":
        ViTImageProcessor(size={"height": 8, "width": 8}).save_pretrained(folder)
    else:
        tiny_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("kind", MODELS)
def test_a_base_is_described_from_its_configuration_alone(kind: str, tmp_path: Path) -> None:
    model = MODELS[kind]()
    place = saved(tmp_path / "base", model)
    (tmp_path / "base" / "model.safetensors").unlink()
    found = describe(place)
    assert (found.kind, found.title) == (kind, "base")
    assert found.writes == (kind in ("decoder", "encoder-decoder"))
    heads = model.lm_head.weight.numel() if kind == "decoder" else 0
    count = sum(parameter.numel() for parameter in model.parameters()) - heads
    assert found.parameters == pytest.approx(count, abs=HIDDEN * (HIDDEN + 1))  # with or without a pooler
    assert found.gigabytes == found.parameters * 4 / 1e9
    assert describe(place, "bfloat16").gigabytes == found.parameters * 2 / 1e9
    assert kind in described(found)


@pytest.mark.parametrize("kind", MODELS)
def test_a_base_is_loaded_once_with_what_reads_its_inputs(kind: str, tmp_path: Path) -> None:
    place = saved(tmp_path / "base", MODELS[kind]())
    bases = Bases()
    base = bases.get(place)
    assert bases.get(place) is base
    assert bases.get(place, "bfloat16").model.dtype == torch.bfloat16
    assert (base.model.get_output_embeddings() is not None) == base.description.writes
    reads = "pixel_values" if kind == "vision" else "input_ids"
    assert reads in base.tokenizer.model_input_names
    assert not any(parameter.requires_grad for parameter in base.model.parameters())


def test_only_a_few_bases_stay_loaded(tmp_path: Path) -> None:
    bases = Bases()
    places = [saved(tmp_path / str(number), tiny_model(seed=number)) for number in range(3)]
    first, *others = [bases.get(place) for place in places]
    assert [bases.get(place) for place in places[1:]] == others
    assert bases.get(places[0]) is not first


def test_a_bare_decoder_answers_in_no_words(tmp_path: Path) -> None:
    assert not describe(saved(tmp_path / "base", LlamaModel(LlamaConfig(**TEXT)))).writes


def test_files_of_half_the_width_need_half_the_memory_as_they_are(tmp_path: Path) -> None:
    place = saved(tmp_path / "base", tiny_model(), torch.bfloat16)
    assert describe(place, "auto").gigabytes == describe(place).gigabytes / 2
    assert load_base(place, "auto")[0].dtype == torch.bfloat16
    assert load_base(place)[0].dtype == torch.float32


def test_a_base_that_transformers_spreads_takes_a_merge_like_any_other(tmp_path: Path) -> None:
    place = saved(tmp_path / "base", tiny_model())
    adapter = replace(random_adapter(0), base="base")
    batch = tiny_tokenizer()(["the cat sings"], return_tensors="pt")
    outputs = []
    for device_map in (None, "cpu"):
        model, _ = load_base(place, device_map=device_map)
        with merge([adapter, adapter.renamed("twin")], "average").applied_to(model), torch.no_grad():
            outputs.append(model(**batch).last_hidden_state)
    assert torch.equal(*outputs)
    with pytest.raises(MergeError) as refused:  # so it is transformers that decides
        load_base(place, device_map="nowhere")
    assert one_sentence(refused.value, "device_map")


def test_what_does_not_fit_is_refused_before_it_is_loaded(tmp_path: Path) -> None:
    large = describe("minilm")
    with pytest.raises(MergeError) as refused:
        check_memory(large, free=large.gigabytes)
    assert one_sentence(refused.value, "all-MiniLM-L6-v2", "bfloat16")
    check_memory(large, free=2 * large.gigabytes)


def test_a_container_has_less_memory_than_its_machine(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("3000000000\n")
    (tmp_path / "memory.current").write_text("2500000000\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 500000000\n")
    assert free_gigabytes(tmp_path) == pytest.approx(1.0)
    (tmp_path / "memory.max").write_text("max\n")
    assert free_gigabytes(tmp_path) > 1.0


def test_what_is_no_base_is_refused(tmp_path: Path) -> None:
    Wav2Vec2Config().save_pretrained(tmp_path / "sound")
    (tmp_path / "nothing").mkdir()
    place = saved(tmp_path / "pickled", tiny_model())
    (tmp_path / "pickled" / "model.safetensors").rename(tmp_path / "pickled" / "pytorch_model.bin")
    for source, dtype, words in (
        (str(tmp_path / "sound"), "float32", "texts or pictures"),
        (str(tmp_path / "nothing"), "float32", "No base model"),
        ("minilm", "int8", "float32"),
        (place, "float32", "safetensors"),
    ):
        with pytest.raises(MergeError) as refused:
            Bases().get(source, dtype)
        assert one_sentence(refused.value, words)


def test_an_encoder_decoder_has_no_pooled_states() -> None:
    batch = tiny_tokenizer()(["the cat"], return_tensors="pt")
    with pytest.raises(MergeError) as refused:
        pooled_states(T5ForConditionalGeneration(T5), batch)
    assert one_sentence(refused.value, "Verbaliser")


@pytest.mark.parametrize("source", EMBEDDED)
def test_what_is_known_of_the_embedded_bases_before_they_are_fetched_is_right(source: str) -> None:
    found, known = describe(source), EMBEDDED[source]
    assert (found.title, found.kinds, found.usual) == (known.title, known.kinds, known.usual)


def test_the_base_of_adapters_is_what_they_record() -> None:
    mine = [random_adapter(0)]
    assert base_of([replace(mine[0], base="hub/all-MiniLM-L6-v2")]) == "minilm"
    assert base_of([replace(mine[0], base="user/model")]) == "user/model"
    assert base_of([replace(mine[0], base="user/model")], "folder") == "folder"
    assert base_name("user/model@v2") == "user/model"


def test_a_tokenizer_without_padding_gets_some(tmp_path: Path) -> None:
    place = saved(tmp_path / "base", LlamaForCausalLM(LlamaConfig(**TEXT)))
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token, tokenizer.eos_token = None, "[SEP]"
    tokenizer.save_pretrained(place)
    model, loaded = load_base(place)
    texts = {"a": ["the cat sings", "no"], "b": ["one tall bird runs here"]}
    features = collect_features(model, loaded, texts, 2, ["layers.0.self_attn.q_proj"])
    alone = collect_features(model, loaded, {"a": texts["a"][1:]}, 1, ["layers.0.self_attn.q_proj"])
    module = "layers.0.self_attn.q_proj"
    assert torch.allclose(features.samples("a", module)[1], alone.samples("a", module)[0], atol=1e-6)


def test_a_damaged_file_is_a_sentence(tmp_path: Path) -> None:
    place = saved(tmp_path / "base", tiny_model())
    (tmp_path / "base" / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(MergeError) as refused:
        load_base(place)
    assert one_sentence(refused.value, "No base model")


def test_a_large_base_keeps_nobody_waiting_who_wants_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bases = Bases()
    small = saved(tmp_path / "small", tiny_model())
    asked, go_on = Event(), Event()
    load = Bases._load

    def slowly(self, source, dtype):
        if source == "large":
            asked.set()
            assert go_on.wait(60)
            source = small
        return load(self, source, dtype)

    monkeypatch.setattr(Bases, "_load", slowly)
    with ThreadPoolExecutor() as pool:
        large = pool.submit(bases.get, "large")
        assert asked.wait(60)
        base = bases.get(small)
        assert not large.done()
        go_on.set()
        assert large.result() is not base
