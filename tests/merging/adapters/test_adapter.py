"""PEFT is the oracle: what it writes is read exactly, what we write it loads exactly, and what is neither is
refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import (
    HIDDEN,
    KINDS,
    MODULES,
    QUERY,
    QUERY_AND_VALUE,
    dense,
    distance,
    edit_config,
    edit_tensors,
    furthest,
    hidden,
    logits,
    mixed_pool,
    one_sentence,
    peft_folder,
    random_adapter,
    reloaded,
    tiny_classifier,
    tiny_model,
    with_deltas,
)
from peft import IA3Config, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor

from merging import Adapter, LowRank, MergeError
from merging.adapters.adapter import number_equal_names
from merging.adapters.head import Head
from merging.adapters.metadata import AdapterMetadata

ALL_LINEAR = ["query", "key", "value", "dense"]
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {"r": 8, "lora_alpha": 16},
    "rank 16 with alpha 1": {"r": 16, "lora_alpha": 1},
    "rsLoRA": {"r": 4, "lora_alpha": 16, "use_rslora": True},
    "rank_pattern": {"r": 4, "lora_alpha": 8, "rank_pattern": {"value": 2, "layer.1.attention.self.query": 16}},
    "alpha_pattern": {"r": 4, "lora_alpha": 8, "alpha_pattern": {"query": 1, "layer.0.attention.self.value": 32}},
    "both patterns with rsLoRA": {
        "r": 4,
        "use_rslora": True,
        "rank_pattern": {"query": 16},
        "alpha_pattern": {"query": 3, "layer.1.attention.self.value": 5},
    },
    "patterns that overlap, narrow first": {
        "r": 4,
        "rank_pattern": {"layer.0.attention.self.query": 2, "query": 8},
        "alpha_pattern": {"layer.0.attention.self.query": 32, "query": 1},
    },
    "patterns that overlap, wide first": {
        "r": 4,
        "rank_pattern": {"query": 8, "layer.0.attention.self.query": 2},
        "alpha_pattern": {"query": 1, "layer.0.attention.self.query": 32},
    },
    "patterns that are regular expressions": {
        "r": 4,
        "rank_pattern": {r".*\.layer\.[0]\..*": 2},
        "alpha_pattern": {"^encoder.*query": 5},
    },
    "query, key, value, dense": {"r": 2, "target_modules": ALL_LINEAR},
    "one layer": {"r": 4, "target_modules": ["query"], "layers_to_transform": [1]},
    "a regular expression as target": {"r": 4, "target_modules": r".*layer\.1.*(key|output\.dense)"},
}

options = pytest.mark.parametrize("option", OPTIONS.values(), ids=OPTIONS)
kinds = pytest.mark.parametrize("kind", KINDS)


# -- reading -----------------------------------------------------------------------------------------------------------


@options
def test_updates_are_pefts_own(option: dict[str, Any], model, tmp_path: Path) -> None:
    expected = peft_folder(tmp_path / "mine", model, **option)
    adapter = Adapter.load(tmp_path / "mine")
    assert furthest(dense(adapter), expected) < 1e-6
    assert {update.A.dtype for update in adapter.deltas.values()} == {torch.float32}
    assert list(adapter.deltas) == sorted(adapter.deltas)


def test_patterns_may_name_the_architectures_prefix(tmp_path: Path) -> None:
    patterns = {
        "r": 4,
        "rank_pattern": {"bert.encoder.layer.0.attention.self.query": 2},
        "alpha_pattern": {"^bert.encoder.*value": 3},
    }
    expected = peft_folder(tmp_path / "mine", tiny_classifier(), task_type="SEQ_CLS", **patterns)
    adapter = Adapter.load(tmp_path / "mine")
    assert furthest(dense(adapter), {name.removeprefix("bert."): update for name, update in expected.items()}) < 1e-6
    assert adapter.deltas[QUERY].rank == 2


@kinds
@pytest.mark.parametrize("topped", [False, True], ids=["bare", "with a head"])
def test_names_are_relative_to_the_bare_encoder(kind: str, topped: bool, tmp_path: Path) -> None:
    model = tiny_classifier(kind) if topped else tiny_model(kind)
    prefix = f"{model.base_model_prefix}." if topped else ""
    written = peft_folder(
        tmp_path / "mine", model, target_modules=QUERY_AND_VALUE[kind], task_type="SEQ_CLS" if topped else None
    )
    adapter = Adapter.load(tmp_path / "mine")
    assert furthest(dense(adapter), {name.removeprefix(prefix): update for name, update in written.items()}) < 1e-6
    assert adapter.prefix == prefix
    assert set(adapter.deltas) <= {name for name, _ in tiny_model(kind).named_modules()}


@kinds
def test_the_models_own_head_comes_along(kind: str, tmp_path: Path) -> None:
    peft_folder(tmp_path / "topped", tiny_classifier(kind), target_modules=QUERY_AND_VALUE[kind], task_type="SEQ_CLS")
    head = Adapter.load(tmp_path / "topped").head
    stored = load_file(tmp_path / "topped" / "adapter_model.safetensors")
    assert head is not None
    assert head.kind == "model"
    assert {f"base_model.model.{name}" for name in head.tensors} == {name for name in stored if "lora_" not in name}
    assert all(torch.equal(tensor, stored[f"base_model.model.{name}"]) for name, tensor in head.tensors.items())


def test_half_precision_is_read_as_float32(folder: Path) -> None:
    expected = dense(Adapter.load(folder))
    edit_tensors(folder, lambda tensors: {name: tensor.bfloat16() for name, tensor in tensors.items()})
    adapter = Adapter.load(folder)
    assert {update.B.dtype for update in adapter.deltas.values()} == {torch.float32}
    assert 0 < furthest(dense(adapter), expected) < 1e-2


def test_name_task_and_base_come_from_the_folder_unless_told_otherwise(folder: Path) -> None:
    plain = Adapter.load(str(folder))
    assert (plain.name, plain.task, plain.base) == ("adapter", "adapter", "tiny-bert")
    told = Adapter.load(folder, name="mine", task="trec", base="somebody/other")
    assert (told.name, told.task, told.base) == ("mine", "trec", "somebody/other")
    (folder / "mergescope.json").write_text(json.dumps({"task": "bbc", "base_fingerprint": "abc"}))
    assert (Adapter.load(folder).task, Adapter.load(folder, task="trec").task) == ("bbc", "trec")
    assert Adapter.load(folder).base_fingerprint == "abc"


def test_the_fingerprint_is_that_of_the_content(folder: Path) -> None:
    first = Adapter.load(folder)
    assert Adapter.load(folder, name="other", task="other").fingerprint == first.fingerprint
    edit_tensors(
        folder, lambda tensors: {name: t * (1.0001 if "layer.1" in name else 1.0) for name, t in tensors.items()}
    )
    assert Adapter.load(folder).fingerprint != first.fingerprint


def test_equal_names_are_numbered() -> None:
    adapters = [replace(random_adapter(i), name=name) for i, name in enumerate(["a", "b", "a", "a", "a-2"])]
    numbered = [adapter.name for adapter in number_equal_names(adapters)]
    assert len(set(numbered)) == 5
    assert numbered[0] == "a"
    assert numbered[1] == "b"
    assert numbered[4] == "a-2"


# -- writing -----------------------------------------------------------------------------------------------------------


@options
def test_a_saved_adapter_acts_in_peft_as_the_original(option: dict[str, Any], model, tmp_path: Path) -> None:
    peft_folder(tmp_path / "mine", model, **option)
    Adapter.load(tmp_path / "mine").save(tmp_path / "again")
    expected, states = hidden(reloaded(model, tmp_path / "mine")), hidden(reloaded(model, tmp_path / "again"))
    assert torch.allclose(states, expected, atol=1e-5)
    assert not torch.allclose(states, hidden(model), atol=1e-3)


@options
def test_a_saved_adapter_is_read_back_bit_for_bit(option: dict[str, Any], model, tmp_path: Path) -> None:
    peft_folder(tmp_path / "mine", model, **option)
    first = Adapter.load(tmp_path / "mine")
    second = Adapter.load(first.save(tmp_path / "again"), name=first.name)
    assert second.fingerprint == first.fingerprint
    assert (second.base, second.prefix, second.task) == (first.base, first.prefix, first.task)


@pytest.mark.parametrize("ranks", [3, (16, 2), (1, 40, 5)])
def test_an_adapter_made_in_memory_loads_in_peft(ranks: int | tuple[int, ...], model, tmp_path: Path) -> None:
    adapter = random_adapter(1, ranks, scale=0.01)
    adapter.save(tmp_path / "mine")
    loaded = reloaded(model, tmp_path / "mine")
    layers = dict(loaded.base_model.model.named_modules())
    assert furthest({name: layers[name].get_delta_weight("default") for name in MODULES}, dense(adapter)) < 1e-6
    assert sum(hasattr(layer, "lora_A") for layer in layers.values()) == len(MODULES)


def test_the_zero_update_is_written_and_read(model, tmp_path: Path) -> None:
    adapter = with_deltas(random_adapter(1), lambda _, u: LowRank.zero(u.shape))
    adapter.save(tmp_path / "zero")
    assert all(update.norm() == 0 for update in Adapter.load(tmp_path / "zero").deltas.values())
    assert torch.equal(hidden(reloaded(model, tmp_path / "zero")), hidden(model))


@kinds
def test_the_models_own_head_is_written_back(kind: str, tmp_path: Path) -> None:
    base = tiny_classifier(kind)
    peft_folder(tmp_path / "mine", base, target_modules=QUERY_AND_VALUE[kind], task_type="SEQ_CLS")
    Adapter.load(tmp_path / "mine").save(tmp_path / "again")
    expected, answers = logits(reloaded(base, tmp_path / "mine")), logits(reloaded(base, tmp_path / "again"))
    assert torch.allclose(answers, expected, atol=1e-5)
    assert not torch.allclose(answers, logits(base), atol=1e-3)


def test_our_own_head_and_metadata_are_read_back(tmp_path: Path) -> None:
    head = Head("pooled", {"weight": torch.randn(3, HIDDEN), "bias": torch.randn(3)}, ("no", "maybe", "yes"))
    adapter = replace(
        random_adapter(1),
        head=head,
        task="trec",
        base_fingerprint="abc",
        metadata=AdapterMetadata.model_validate({"note": "from a test"}),
    )
    read = Adapter.load(adapter.save(tmp_path / "mine"))
    assert read.head is not None
    assert (read.head.kind, read.head.labels) == ("pooled", ("no", "maybe", "yes"))
    assert all(torch.equal(read.head.tensors[key], head.tensors[key]) for key in ("weight", "bias"))
    assert (read.task, read.base_fingerprint, read.metadata.note) == ("trec", "abc", "from a test")
    pooled = torch.randn(5, HIDDEN)
    assert torch.allclose(read.head.logits(pooled), pooled @ head.tensors["weight"].T + head.tensors["bias"], atol=1e-6)


def test_saving_replaces_an_adapter_whole_and_nothing_else(tmp_path: Path) -> None:
    place = tmp_path / "place"
    mixed_pool()[1].save(place, {"extra.txt": "old"})
    random_adapter(2).save(place, {"README.md": "new"})
    assert distance(Adapter.load(place).deltas[QUERY].dense(), random_adapter(2).deltas[QUERY].dense()) < 1e-6
    assert not (place / "extra.txt").exists()
    assert (place / "README.md").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["place"]


@pytest.mark.parametrize("taken", ["file", "other folder"])
def test_a_place_that_holds_something_else_is_left_alone(taken: str, tmp_path: Path) -> None:
    place = tmp_path / "place"
    precious = place if taken == "file" else place / "thesis.txt"
    precious.parent.mkdir(exist_ok=True)
    precious.write_text("precious")
    with pytest.raises(MergeError, match="place"):
        random_adapter(1).save(place)
    assert precious.read_text() == "precious"
    assert len(list(tmp_path.rglob("*"))) == (1 if taken == "file" else 2)


def test_a_save_that_fails_leaves_the_old_adapter(tmp_path: Path) -> None:
    adapter = random_adapter(1)
    adapter.save(tmp_path / "place")
    before = (tmp_path / "place" / "adapter_model.safetensors").read_bytes()
    with pytest.raises(TypeError):
        replace(adapter, metadata=AdapterMetadata(training={"not JSON": object()})).save(tmp_path / "place")
    assert (tmp_path / "place" / "adapter_model.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["place"]


# -- refusals ----------------------------------------------------------------------------------------------------------


def rename(old: str, new: str) -> Any:
    return lambda folder: edit_tensors(
        folder, lambda tensors: {name.replace(old, new): t for name, t in tensors.items()}
    )


def first_value(value: float) -> Any:
    def change(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        tensors[min(tensors)][0, 0] = value
        return tensors

    return lambda folder: edit_tensors(folder, change)


def without(name: str) -> Any:
    return lambda folder: edit_tensors(folder, lambda tensors: {n: t for n, t in tensors.items() if n != name})


def adding(name: str, tensor: Tensor) -> Any:
    return lambda folder: edit_tensors(folder, lambda tensors: tensors | {name: tensor})


def truncate(name: str, length: int) -> Any:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:length])


def write(name: str, content: bytes) -> Any:
    return lambda folder: (folder / name).write_bytes(content)


KEY = f"base_model.model.{QUERY}.lora_A.weight"
SPOILED = {
    "NaN": (first_value(float("nan")), ["NaN"]),
    "infinity": (first_value(float("inf")), ["infinite"]),
    "no weights": (lambda folder: (folder / "adapter_model.safetensors").unlink(), ["adapter_model.safetensors"]),
    "no configuration": (lambda folder: (folder / "adapter_config.json").unlink(), ["adapter_config.json"]),
    "broken JSON": (truncate("adapter_config.json", 40), ["adapter_config.json", "JSON"]),
    "a configuration that is no object": (write("adapter_config.json", b"[1]"), ["adapter_config.json"]),
    "a configuration that is no text": (write("adapter_config.json", b"\xff\xfe\x00"), ["adapter_config.json"]),
    "metadata that are no JSON": (write("mergescope.json", b"{"), ["mergescope.json"]),
    "truncated weights": (truncate("adapter_model.safetensors", 900), ["adapter_model.safetensors"]),
    "empty weights": (write("adapter_model.safetensors", b""), ["adapter_model.safetensors"]),
    "a truncated head": (write("head.safetensors", b"\x00" * 9), ["head.safetensors"]),
    "no LoRA factors": (lambda folder: edit_tensors(folder, lambda _: {}), ["LoRA"]),
    "a missing prefix": (rename("base_model.model.", ""), ["base_model.model."]),
    "half a prefix": (rename("base_model.model.", "base_model."), ["base_model.model."]),
    "a doubled prefix": (rename("base_model.model.", "base_model.model.base_model.model."), ["base_model.model."]),
    "a missing half": (without(KEY), [QUERY, "lora_B"]),
    "halves of different ranks": (adding(KEY, torch.zeros(3, HIDDEN)), [QUERY, "rank"]),
    "a rank that contradicts the configuration": (lambda folder: edit_config(folder, r=8), [QUERY, "rank", "4", "8"]),
    "a rank pattern that contradicts the file": (
        lambda folder: edit_config(folder, rank_pattern={"query": 2}),
        [QUERY, "rank"],
    ),
    "no rank": (lambda folder: edit_config(folder, r=None), ["r"]),
    "an alpha that is no number": (lambda folder: edit_config(folder, lora_alpha="16"), ["lora_alpha", "16"]),
    "an alpha that is NaN": (lambda folder: edit_config(folder, lora_alpha=float("nan")), ["lora_alpha"]),
    "an alpha pattern that is no mapping": (lambda folder: edit_config(folder, alpha_pattern=[1]), ["alpha_pattern"]),
    "a pattern that takes forever": (
        lambda folder: edit_config(folder, rank_pattern={"(a+)+$": 2}),
        ["rank_pattern", "forever"],
    ),
    "a pattern with many repetitions": (
        lambda folder: edit_config(folder, alpha_pattern={".*.*.*.*x": 2}),
        ["alpha_pattern", "forever"],
    ),
    "DoRA": (lambda folder: edit_config(folder, use_dora=True), ["DoRA"]),
    "DoRA's tensors only": (
        adding(KEY.replace("lora_A.weight", "lora_magnitude_vector"), torch.ones(HIDDEN)),
        ["DoRA"],
    ),
    "lora_bias": (lambda folder: edit_config(folder, lora_bias=True), ["lora_bias"]),
    "lora_bias's tensors only": (adding(KEY.replace("A.weight", "B.bias"), torch.ones(HIDDEN)), ["lora_bias"]),
    "PiSSA": (lambda folder: edit_config(folder, init_lora_weights="pissa_niter_4"), ["pissa"]),
    "OLoRA": (lambda folder: edit_config(folder, init_lora_weights="olora"), ["olora"]),
    "LoftQ": (lambda folder: edit_config(folder, init_lora_weights="loftq"), ["loftq"]),
    "an unknown option": (lambda folder: edit_config(folder, use_quantum_lora=True), ["use_quantum_lora"]),
    "another PEFT type": (lambda folder: edit_config(folder, peft_type="LOHA"), ["LOHA"]),
    "no PEFT type": (lambda folder: edit_config(folder, peft_type=None), ["LoRA"]),
    "a convolution": (adding(KEY, torch.zeros(4, HIDDEN, 1, 1)), [QUERY, "convolution"]),
    "an embedding": (
        adding("base_model.model.embeddings.word_embeddings.lora_embedding_A", torch.zeros(4, 24)),
        ["word_embeddings", "partner"],
    ),
    "a tensor that nobody knows": (adding("base_model.model.surprise", torch.zeros(4)), ["surprise"]),
    "whole numbers": (adding(KEY, torch.zeros(4, HIDDEN, dtype=torch.int64)), ["int64"]),
    "two architectures": (
        lambda folder: edit_tensors(
            folder, lambda ts: {n.replace("encoder.layer.0", "bert.encoder.layer.0"): t for n, t in ts.items()}
        ),
        ["prefix", "bert."],
    ),
    "no rank at all": (
        lambda folder: (
            edit_config(folder, r=0),
            edit_tensors(folder, lambda ts: {n: t[:0] if "lora_A" in n else t[:, :0] for n, t in ts.items()}),
        ),
        ["rank"],
    ),
}


@pytest.mark.parametrize(("spoil", "words"), SPOILED.values(), ids=SPOILED)
def test_what_is_not_exactly_a_scaled_product_is_refused_in_a_sentence(
    spoil: Any, words: list[str], folder: Path
) -> None:
    spoil(folder)
    with pytest.raises(MergeError) as caught:
        Adapter.load(folder)
    assert one_sentence(caught.value, *words), str(caught.value)


def test_ia3_written_by_peft_is_refused(model, tmp_path: Path) -> None:
    config = IA3Config(target_modules=["key", "output.dense"], feedforward_modules=["output.dense"])
    get_peft_model(model, config).save_pretrained(tmp_path / "ia3", save_embedding_layers=False)
    with pytest.raises(MergeError, match="IA3"):
        Adapter.load(tmp_path / "ia3")


@pytest.mark.parametrize(
    ("option", "word"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"lora_bias": True}, "lora_bias"),
        ({"init_lora_weights": "pissa"}, "pissa"),
        ({"init_lora_weights": "olora"}, "olora"),
        ({"trainable_token_indices": [1, 2]}, "token"),
    ],
)
def test_what_peft_itself_writes_with_such_an_option_is_refused(
    option: dict[str, Any], word: str, model, tmp_path: Path
) -> None:
    peft_folder(tmp_path / "mine", model, **option)
    with pytest.raises(MergeError) as caught:
        Adapter.load(tmp_path / "mine")
    assert one_sentence(caught.value, word), str(caught.value)


@pytest.mark.parametrize("kind", ["missing", "file"])
def test_what_is_no_folder_is_refused_by_its_name(kind: str, tmp_path: Path) -> None:
    place = tmp_path / "nowhere"
    if kind == "file":
        place.write_text("")
    with pytest.raises(MergeError) as caught:
        Adapter.load(place)
    assert one_sentence(caught.value, "nowhere")


def test_a_head_with_the_wrong_tensors_is_refused(folder: Path) -> None:
    save_file({"weight": torch.zeros(3, HIDDEN), "bias": torch.zeros(2)}, folder / "head.safetensors")
    with pytest.raises(MergeError, match=r"head\.safetensors"):
        Adapter.load(folder)
    save_file({"weight": torch.full((2, HIDDEN), torch.nan), "bias": torch.zeros(2)}, folder / "head.safetensors")
    with pytest.raises(MergeError, match="NaN"):
        Adapter.load(folder)


def test_a_refused_folder_is_left_as_it_was(folder: Path) -> None:
    edit_config(folder, use_dora=True)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(MergeError):
        Adapter.load(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
