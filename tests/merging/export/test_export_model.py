"""The whole model in files is the base with the merge applied, shard by shard, or nothing; cards and repositories say
what it is.
"""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from builders import (
    BASE,
    HIDDEN,
    MODULES,
    QUERY,
    QUERY_AND_VALUE,
    dense_added,
    hidden,
    logits,
    mixed_pool,
    one_sentence,
    peft_folder,
    random_adapter,
    tiny_classifier,
    tiny_gpt2,
    tiny_model,
    tiny_tokenizer,
)
from hub_stand_in import TOKEN, Hub, hub_stand_in
from huggingface_hub import HfApi, ModelCard, constants
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertModel,
    GPT2LMHeadModel,
)
from typer.testing import CliRunner, Result

from merging import Adapter, Cancelled, Estimate, LowRank, MergeError, Recipe, SoftOSRM, merge
from merging.adapters.head import Head
from merging.adapters.metadata import AdapterMetadata
from merging.cli.main import cli
from merging.evaluation.intervals import Accuracy, Recovered
from merging.export.full_model import save_full_model
from merging.export.push import push_to_hub
from merging.models.checkpoint import find_checkpoint
from merging.models.layers import fingerprint
from merging.models.load import load_base

KINDS = ("bert", "roberta", "distilbert", "llama", "gpt2")
TARGETS = QUERY_AND_VALUE | {"gpt2": ["c_attn"]}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with hub_stand_in(tmp_path / "hub-cache", monkeypatch) as stand_in:
        yield stand_in


def base_of(kind: str) -> Any:
    return tiny_gpt2() if kind == "gpt2" else tiny_model(kind)


def saved_base(folder: Path, model: Any) -> Path:
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def pool_of(folder: Path, model: Any, kind: str, count: int = 2, **options: Any) -> list[Adapter]:
    for i in range(count):
        options = {"r": 4, "target_modules": TARGETS[kind], "fan_in_fan_out": kind == "gpt2"} | options
        peft_folder(folder / f"task-{i}", model, seed=i, **options)
    return [Adapter.load(folder / f"task-{i}") for i in range(count)]


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return {
        key: tensor for file in sorted(folder.glob("model*.safetensors")) for key, tensor in load_file(file).items()
    }


def loaded(folder: Path) -> Any:
    model, information = AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not [
        key for key in information["missing_keys"] if not key.startswith("pooler")
    ]  # some classifiers have none
    return model.eval()


# -- the base with the merge applied -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", ["2GB", "20KB"])
@pytest.mark.parametrize("topped", [False, True], ids=["bare", "under a head"])
def test_the_reloaded_model_is_the_base_with_the_merge_applied(
    kind: str, size: str, topped: bool, tmp_path: Path
) -> None:
    base = base_of(kind)
    if topped and kind != "gpt2":
        headed = tiny_classifier(kind)  # its keys carry the architecture's prefix
        base = getattr(headed, headed.base_model_prefix)
        base.name_or_path = f"tiny-{kind}"
        place = saved_base(tmp_path / "base", headed)
    else:
        place = saved_base(tmp_path / "base", base)
    merged = merge(pool_of(tmp_path, base, kind), "task_arithmetic")
    save_full_model(merged, place, tmp_path / "full", max_shard_size=size)
    with merged.applied_to(base):
        expected = hidden(base)
    again = loaded(tmp_path / "full")
    assert torch.allclose(hidden(again), expected, atol=1e-5)
    assert not torch.allclose(hidden(again), hidden(base), atol=1e-3)
    ours, theirs = tensors_of(tmp_path / "full"), tensors_of(place)
    assert set(ours) == set(theirs)
    changed = {key for key in theirs if not torch.equal(ours[key], theirs[key])}
    assert changed == {key for key in theirs if key.endswith(tuple(f"{module}.weight" for module in merged.modules))}
    assert (tmp_path / "full" / "model.safetensors.index.json").exists() == (size == "20KB")
    assert AutoTokenizer.from_pretrained(tmp_path / "full")("the red cat") == tiny_tokenizer()("the red cat")


@pytest.mark.parametrize("size", [20_000, "20KB"])
def test_shards_hold_what_the_index_says_and_no_more_than_asked(size: int | str, tmp_path: Path, model) -> None:
    place = saved_base(tmp_path / "base", model)
    seen: list[tuple[str, int, int]] = []
    full = save_full_model(
        merge(mixed_pool(), "average"),
        place,
        tmp_path / "full",
        max_shard_size=size,
        on_shard=lambda *s: seen.append(s),
    )
    index = json.loads((full / "model.safetensors.index.json").read_text())
    files = sorted(path.name for path in full.glob("*.safetensors"))
    assert [name for name, _, _ in seen] == files
    assert [(done, total) for _, done, total in seen] == [(i + 1, len(files)) for i in range(len(files))]
    total = 0
    for name in files:
        tensors = load_file(full / name)
        assert {key for key, file in index["weight_map"].items() if file == name} == set(tensors)
        with safe_open(full / name, framework="pt") as opened:
            assert opened.metadata() == {"format": "pt"}
        bytes_ = sum(t.nbytes for t in tensors.values())
        assert bytes_ <= 20_000 or len(tensors) == 1
        total += bytes_
    assert index["metadata"]["total_size"] == total == sum(t.nbytes for t in tensors_of(place).values())


def test_a_sharded_base_is_read_and_dense_methods_need_no_rank(tmp_path: Path, model) -> None:
    model.save_pretrained(tmp_path / "base", max_shard_size="20KB")
    assert len(list((tmp_path / "base").glob("*.safetensors"))) > 1
    merged = merge(mixed_pool(), "ties", density=0.3)
    save_full_model(merged, tmp_path / "base", tmp_path / "full")
    with dense_added(model, {module: merged.delta(module) for module in merged.modules}) as oracle:
        assert torch.allclose(hidden(loaded(tmp_path / "full")), hidden(oracle), atol=1e-5)


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16])
def test_half_precision_stays_and_the_sum_is_taken_in_float32(stored: torch.dtype, tmp_path: Path, model) -> None:
    half = copy.deepcopy(model).to(stored)
    place, merged = saved_base(tmp_path / "base", half), merge(mixed_pool(), "average")
    ours = tensors_of(save_full_model(merged, place, tmp_path / "full"))
    assert {tensor.dtype for tensor in ours.values()} == {stored}
    for module in merged.modules:
        exact = half.get_submodule(module).weight.double() + merged.delta(module).double()
        assert torch.equal(ours[f"{module}.weight"], exact.float().to(stored))
    wide = save_full_model(merged, place, tmp_path / "wide", dtype="float32")
    assert {tensor.dtype for tensor in tensors_of(wide).values()} == {torch.float32}
    assert AutoModel.from_pretrained(wide, dtype="auto").dtype == torch.float32
    assert json.loads((wide / "config.json").read_text())["dtype"] == "float32"


def test_the_embedded_base_is_written_whole(tmp_path: Path) -> None:
    base, tokenizer = load_base("minilm")
    adapter = Adapter.load(Path(__file__).parents[3] / "assets" / "adapters" / "default" / "trec")
    assert adapter.base_fingerprint == fingerprint(base)
    full = save_full_model(merge([adapter], "average"), "minilm", tmp_path / "full", head="trec")
    again, its_tokenizer = load_base(full)
    batch = tokenizer(["What is the capital of Norway?"], return_tensors="pt")
    assert its_tokenizer(["What is the capital of Norway?"], return_tensors="pt")["input_ids"].equal(batch["input_ids"])
    with torch.no_grad(), merge([adapter], "average").applied_to(base):
        assert torch.allclose(again(**batch).last_hidden_state, base(**batch).last_hidden_state, atol=1e-5)
    head = load_file(full / "head.safetensors")
    assert torch.equal(head["weight"], adapter.head.tensors["weight"])
    notes = json.loads((full / "mergescope.json").read_text())
    assert notes == {"task": "trec", "labels": list(adapter.head.labels)}
    card = (full / "README.md").read_text()
    assert "`head.safetensors`" in card
    assert ModelCard(card).data.base_model == "sentence-transformers/all-MiniLM-L6-v2"


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "llama"])
@pytest.mark.parametrize("stored", ["bare", "under a head of two labels"])
def test_the_architectures_own_head_takes_the_place_of_the_bases(kind: str, stored: str, tmp_path: Path) -> None:
    base = tiny_classifier(kind, labels=3)
    encoder = getattr(base, base.base_model_prefix)
    other = tiny_classifier(kind, labels=2)
    getattr(other, other.base_model_prefix).load_state_dict(encoder.state_dict())
    place = saved_base(tmp_path / "base", encoder if stored == "bare" else other)
    pool = pool_of(tmp_path, base, kind, task_type="SEQ_CLS")
    merged = merge(pool, "task_arithmetic", scaling=0.5)
    save_full_model(merged, place, tmp_path / "full", head="task-1")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "full").eval()
    assert again.config.num_labels == 3
    assert again.config.architectures == [type(base).__name__]
    for name, tensor in pool[1].head.tensors.items():
        base.get_parameter(name).data.copy_(tensor)
    original = logits(base)
    with merged.applied_to(base):
        assert torch.allclose(logits(again), logits(base), atol=1e-5)
        assert torch.allclose(hidden(loaded_quietly(tmp_path / "full")), hidden(base), atol=1e-5)
    assert not torch.allclose(logits(again), original, atol=1e-3)


def loaded_quietly(folder: Path) -> Any:
    return AutoModel.from_pretrained(folder).eval()


def test_checkpoints_with_the_old_names_of_layer_norm_are_read(tmp_path: Path, model) -> None:
    place = saved_base(tmp_path / "base", model)
    old = {
        k.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): t
        for k, t in tensors_of(place).items()
    }
    save_file(
        {f"bert.{key}": tensor.contiguous() for key, tensor in old.items()},
        place / "model.safetensors",
        metadata={"format": "pt"},
    )
    pool = [replace(adapter, base_fingerprint=fingerprint(model)) for adapter in mixed_pool()]
    merged = merge(pool, "average")
    save_full_model(merged, place, tmp_path / "full")
    with merged.applied_to(model):
        assert torch.allclose(hidden(loaded_quietly(tmp_path / "full")), hidden(model), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_stored_base_has_the_fingerprint_of_the_loaded_one(kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
    model = base_of(kind)
    saved_base(tmp_path / "base", copy.deepcopy(model).to(dtype))
    assert find_checkpoint(tmp_path / "base").fingerprint() == fingerprint(model)


def test_tied_weights_outside_the_merge_are_copied(tmp_path: Path) -> None:
    base = tiny_gpt2()
    language = GPT2LMHeadModel(base.config)
    language.transformer.load_state_dict(base.state_dict())
    language.tie_weights()
    place = saved_base(tmp_path / "base", language.eval())
    merged = merge(pool_of(tmp_path, base, "gpt2"), "average")
    again = GPT2LMHeadModel.from_pretrained(save_full_model(merged, place, tmp_path / "full")).eval()
    with merged.applied_to(language):
        assert torch.allclose(logits(again), logits(language), atol=1e-5)
    assert again.lm_head.weight.data_ptr() == again.transformer.wte.weight.data_ptr()


# -- refusals, and nothing half-written
# ---------------------------------------------------------------------------------


def only_pickles(place: Path) -> None:
    torch.save(tensors_of(place), place / "pytorch_model.bin")
    (place / "model.safetensors").unlink()


def edit_json(name: str, **changes: Any) -> Any:
    return lambda place: (place / name).write_text(json.dumps(json.loads((place / name).read_text()) | changes))


def stored(change: Any) -> Any:
    def apply(place: Path) -> None:
        save_file(
            change({k: t.clone() for k, t in tensors_of(place).items()}),
            place / "model.safetensors",
            metadata={"format": "pt"},
        )

    return apply


def index_to(name: str) -> Any:
    def apply(place: Path) -> None:
        (place / "model.safetensors").unlink()
        (place / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": name}}))

    return apply


SPOILED = {
    "pickled weights only": (only_pickles, ["pickled", "safetensors"]),
    "no weights": (lambda place: (place / "model.safetensors").unlink(), ["model.safetensors"]),
    "damaged weights": (lambda place: (place / "model.safetensors").write_bytes(b"\1" * 99), ["model.safetensors"]),
    "an index that leads elsewhere": (index_to("../other/model.safetensors"), ["../other/model.safetensors"]),
    "no configuration": (lambda place: (place / "config.json").unlink(), ["transformers"]),
    "an unknown architecture": (edit_json("config.json", model_type="novel"), ["transformers"]),
    "a quantized base": (
        edit_json("config.json", quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}),
        ["quantized"],
    ),
    "a module that is not stored": (
        stored(lambda ts: {k: t for k, t in ts.items() if k != f"{QUERY}.weight"}),
        [QUERY],
    ),
    "weights in whole numbers": (
        stored(lambda ts: {k: t.to(torch.int8) if k == f"{QUERY}.weight" else t for k, t in ts.items()}),
        [QUERY, "int8"],
    ),
    "a base of another width": (edit_json("config.json", hidden_size=64), ["64", "32"]),
    "a base of another depth": (edit_json("config.json", num_hidden_layers=1), ["encoder.layer.1"]),
}


@pytest.mark.parametrize(("spoil", "words"), SPOILED.values(), ids=SPOILED)
def test_a_base_that_cannot_take_the_merge_is_refused_and_nothing_is_written(
    spoil: Any, words: list[str], tmp_path: Path, model
) -> None:
    place = saved_base(tmp_path / "base", model)
    spoil(place)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(MergeError) as caught:
        save_full_model(merge(mixed_pool(), "average"), place, tmp_path / "full")
    assert one_sentence(caught.value, *words), str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_another_base_than_the_recorded_one_is_refused(tmp_path: Path, model) -> None:
    place = saved_base(tmp_path / "base", model)
    pool = [replace(adapter, base_fingerprint=fingerprint(model)) for adapter in mixed_pool()]
    assert save_full_model(merge(pool, "average"), place, tmp_path / "right").exists()
    stored(lambda ts: ts | {"encoder.layer.1.output.dense.bias": ts["encoder.layer.1.output.dense.bias"] + 1})(place)
    with pytest.raises(MergeError, match="fingerprint"):
        save_full_model(merge(pool, "average"), place, tmp_path / "wrong")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"dtype": "int8"}, ["int8", "float32"]),
        ({"max_shard_size": "much"}, ["much"]),
        ({"head": "absent"}, ["absent"]),
        ({"base": "nowhere/at/all"}, ["nowhere/at/all"]),
        ({"dtype": "float16", "scaling": 1e5}, ["float16", "infinite"]),
    ],
)
def test_arguments_that_make_no_sense_are_refused(
    arguments: dict[str, Any], words: list[str], tmp_path: Path, model
) -> None:
    arguments = {"base": saved_base(tmp_path / "base", model)} | arguments
    merged = merge(mixed_pool(), "task_arithmetic", scaling=arguments.pop("scaling", 1.0))
    with pytest.raises(MergeError) as caught:
        save_full_model(merged, folder=tmp_path / "full", **arguments)
    assert one_sentence(caught.value, *words), str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_a_place_that_is_taken_is_left_alone(tmp_path: Path, model) -> None:
    place = saved_base(tmp_path / "base", model)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.txt").write_text("precious")
    for target in (tmp_path / "taken", tmp_path / "taken" / "thesis.txt", tmp_path / "taken" / "thesis.txt" / "below"):
        with pytest.raises(MergeError, match="place"):
            save_full_model(merge(mixed_pool(), "average"), place, target)
    assert (tmp_path / "taken" / "thesis.txt").read_text() == "precious"
    (tmp_path / "empty").mkdir()
    assert (save_full_model(merge(mixed_pool(), "average"), place, tmp_path / "empty") / "config.json").exists()


def test_a_cancelled_export_leaves_nothing(tmp_path: Path, model) -> None:
    place = saved_base(tmp_path / "base", model)

    def stop(name: str, done: int, total: int) -> None:
        if done == 2:
            raise Cancelled(f"stopped after {name} of {total}.")

    with pytest.raises(Cancelled):
        save_full_model(merge(mixed_pool(), "average"), place, tmp_path / "full", max_shard_size="20KB", on_shard=stop)
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


KILLED = """
import os, signal, sys
from builders import mixed_pool
from merging import merge
from merging.export.full_model import save_full_model
kill = lambda name, done, total: os.kill(os.getpid(), signal.SIGKILL) if done == 2 else None
save_full_model(merge(mixed_pool(), "average"), sys.argv[1], sys.argv[2], max_shard_size="20KB", on_shard=kill)
"""

MEASURED = """
import sys, threading, torch
from merging import Adapter, LowRank, merge
from merging.export.full_model import save_full_model
names = [f"encoder.layer.{i}.{part}" for i in range(6) for part in ("attention.self.query", "output.dense")]
shapes = {name: (768, 3072) if "output" in name else (768, 768) for name in names}
ones = {n: LowRank(torch.ones(o, 4), torch.ones(4, k)) for n, (o, k) in shapes.items()}
pool = [Adapter(f"t{i}", ones, base="b") for i in range(2)]
# loads libraries
save_full_model(merge(pool[:1], "average"), sys.argv[1], sys.argv[2] + "-first", max_shard_size="20MB")
def resident():
    lines = open("/proc/self/status").read().splitlines()
    return {line.split(":")[0]: int(line.split()[1]) << 10 for line in lines if line.startswith(("RssAnon", "RssFile"))}
def peak_of(work):
    before, peak, done = resident(), resident(), threading.Event()
    def watch():
        while not done.wait(0.001):
            peak.update({name: max(peak[name], value) for name, value in resident().items()})
    watcher = threading.Thread(target=watch)
    watcher.start()
    work()
    done.set()
    watcher.join()
    return [peak[name] - before[name] for name in peak]
for method in ("average", "ties"):
    merged = merge(pool, method)
    alone = peak_of(lambda: [merged.delta(name).sum() for name in names])
    written = peak_of(lambda: save_full_model(merged, sys.argv[1], sys.argv[2] + method, max_shard_size="20MB"))
    print(*alone[:1], *written)
"""


def run(program: str, *words: object) -> subprocess.CompletedProcess[str]:
    # every large block is given back when it is freed: what is measured is in use, not kept by the allocator
    settings = {"PYTHONPATH": str(Path(__file__).parents[1]), "MALLOC_MMAP_THRESHOLD_": "100000"}
    environment = os.environ | settings
    command = [sys.executable, "-c", program, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_a_killed_export_leaves_nothing_under_its_name(tmp_path: Path, model) -> None:
    place = saved_base(tmp_path / "base", model)
    done = run(KILLED, place, tmp_path / "full")
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (tmp_path / "full").exists()
    assert save_full_model(merge(mixed_pool(), "average"), place, tmp_path / "full").exists()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_the_export_holds_less_than_two_shards_in_memory(tmp_path: Path) -> None:
    with torch.device("meta"):
        base = BertModel(BertConfig(num_hidden_layers=6, vocab_size=100))
    base.config.save_pretrained(tmp_path / "base")
    tensors = {name: torch.zeros(p.shape) for name, p in base.named_parameters()}
    assert sum(t.nbytes for t in tensors.values()) > 150e6
    save_file(tensors, tmp_path / "base" / "model.safetensors", metadata={"format": "pt"})
    done = run(MEASURED, tmp_path / "base", tmp_path / "full")
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():  # for a low-rank and a dense method
        merge_alone, private, mapped = map(int, line.split())
        assert private < 2 * 20e6 + merge_alone, done.stdout
        assert mapped < 2 * 20e6, done.stdout


# -- hub bases, the command line
# ----------------------------------------------------------------------------------------


def test_a_base_is_fetched_from_the_hub_without_anything_else(hub: Hub, tmp_path: Path, model) -> None:
    model.save_pretrained(tmp_path / "base", max_shard_size="20KB")
    tiny_tokenizer().save_pretrained(tmp_path / "base")
    for name in ("modeling_evil.py", "pytorch_model.bin", "model.fp16.safetensors", "LICENSE"):
        (tmp_path / "base" / name).write_text("x")
    commit = hub.add("me/base", tmp_path / "base")
    merged = merge(mixed_pool(), "average")
    full = save_full_model(merged, "me/base", tmp_path / "full")
    fetched = {path.rsplit("/", 1)[-1] for path in hub.downloads()}
    assert all(f"/resolve/{commit}/" in path for path in hub.downloads())
    assert fetched == {p.name for p in (tmp_path / "base").iterdir()} - {
        "modeling_evil.py",
        "pytorch_model.bin",
        "model.fp16.safetensors",
    }
    with merged.applied_to(model):
        assert torch.allclose(hidden(loaded(full)), hidden(model), atol=1e-5)
    assert ModelCard((full / "README.md").read_text()).data.base_model == "me/base"
    assert (full / "LICENSE").exists()
    assert not (full / "modeling_evil.py").exists()


def test_the_command_line_writes_the_whole_model_also_from_a_recipe(tmp_path: Path, model) -> None:
    place = saved_base(tmp_path / "base", model)
    pool = pool_of(tmp_path, model, "bert")

    def run_merge(*words: object) -> Result:
        return CliRunner().invoke(cli, ["merge", *map(str, words)])

    options = ["--method", "ties", "--density", "0.5", "--base", place, "--full-model"]
    done = run_merge(*(a.path for a in pool), *options, "-o", tmp_path / "full")
    assert done.exit_code == 0, done.output
    expected = merge(pool, "ties", density=0.5)
    with dense_added(model, {m: expected.delta(m) for m in expected.modules}) as oracle:
        assert torch.allclose(hidden(loaded(tmp_path / "full")), hidden(oracle), atol=1e-5)
    again = run_merge(tmp_path / "full" / "recipe.yaml", "--base", place, "--full-model", "-o", tmp_path / "again")
    assert again.exit_code == 0, again.output
    for name in ("model.safetensors", "config.json", "recipe.yaml", "README.md"):
        assert (tmp_path / "full" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    refused = run_merge(*(a.path for a in pool), *options, "--rank", 4, "-o", tmp_path / "no")
    assert isinstance(refused.exception, MergeError)
    assert "--rank" in str(refused.exception)
    assert not (tmp_path / "no").exists()


# -- cards and repositories
# ---------------------------------------------------------------------------------------------


def from_hub(adapter: Adapter, license_: str | None) -> Adapter:
    source = {"repo": f"me/{adapter.name}", "commit": "0123456789abcdef" * 2 + "01234567", "license": license_}
    return replace(adapter, metadata=AdapterMetadata(source=source), origin=f"me/{adapter.name}@{source['commit']}")


def test_a_card_names_parents_licences_method_plugins_weights_seed_accuracy_and_recipe(
    tmp_path: Path, features
) -> None:
    pool = [from_hub(random_adapter(i), "apache-2.0") for i in range(2)]
    merged = merge(
        pool, "task_arithmetic", scaling=0.35, weights=[0.5, {"*.query": 2.0}], seed=41, soft_osrm=SoftOSRM(0.7, 1e-5),
        features=features, orthogonalize="balanced", decouple=0.25,
    )  # fmt: skip
    gap = Recovered(0.52, 0.4, 0.63, {"task-0": 0.52})
    accuracy = Accuracy([Estimate("task-0", 0.875, (0.71, 0.953), 32, 200)], gap)
    card = (merged.save(tmp_path / "out", rank=2, accuracy=accuracy) / "README.md").read_text()
    for words in (
        "Task Arithmetic",
        "2212.04089",
        "scaling = 0.35",
        "soft OSRM (mu 0.7",
        "orthogonalize balanced (penalty 0.1",
        "decouple 0.25",
        "seed: 41",
        "rank 2, relative error",
        "me/task-0 at 0123456789ab",
        "apache-2.0",
        "| 0.5 |",
        "query 2",
        "| task-0 | 0.875 | 0.710 to 0.953 | 32 |",
        "Gap recovered: 52% (40% to 63%), mean of 1 tasks",
        (tmp_path / "out" / "recipe.yaml").read_text(),
    ):
        assert words in card, words
    data = ModelCard(card).data.to_dict()
    assert data["base_model"] == BASE
    assert (data["library_name"], data["license"]) == ("peft", "apache-2.0")
    assert {"merge", "lora"} <= set(data["tags"])


@pytest.mark.parametrize("licenses", [("mit", "apache-2.0"), ("mit", None), (None, None)])
def test_a_card_claims_a_licence_only_if_all_parents_agree(licenses: tuple[str | None, ...], tmp_path: Path) -> None:
    pool = [from_hub(random_adapter(i), license_) for i, license_ in enumerate(licenses)]
    card = (merge(pool, "average").save(tmp_path / "out") / "README.md").read_text()
    assert "license" not in ModelCard(card).data.to_dict()
    assert card.count("| unknown |") == licenses.count(None)


@pytest.mark.parametrize("base", ["/models/of/mine/bert", "C:\\models\\bert", "x: [y", "a\n---\nb", ""])
def test_a_front_matter_stays_valid_whatever_names_are(base: str, tmp_path: Path) -> None:
    pool = [replace(random_adapter(i), name="a | b\n## c", base=base, base_fingerprint="same") for i in range(2)]
    card = (merge(pool, "average").save(tmp_path / "out") / "README.md").read_text()
    data = yaml.safe_load(card.split("---\n")[1])
    assert "base_model" not in data
    assert data["library_name"] == "peft"
    assert "/models/of/mine" not in card
    assert "\n## c" not in card


def test_a_merge_is_pushed_to_a_new_private_repository(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = merge(mixed_pool(), "average").save(tmp_path / "out")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert push_to_hub(folder, "me/merge") == f"{hub.endpoint}/me/merge"
    repo = hub.repos["me/merge"]
    assert repo.private
    files = repo.commits[repo.branches["main"]]
    assert {name: content for name, content in files.items() if name != ".gitattributes"} == {
        p.name: p.read_bytes() for p in folder.iterdir()
    }
    assert hub.cards == [(folder / "README.md").read_text()]
    with pytest.raises(MergeError, match="has files"):
        push_to_hub(folder, "me/merge")
    push_to_hub(folder, "me/open", private=False, api=HfApi(endpoint=hub.endpoint, token=TOKEN))
    assert not hub.repos["me/open"].private
    assert Adapter.load("me/merge").fingerprint == Adapter.load(folder).fingerprint


def test_an_upload_that_stopped_can_be_tried_again_but_never_becomes_public(hub: Hub, tmp_path: Path) -> None:
    folder = merge(mixed_pool(), "average").save(tmp_path / "out")
    api = HfApi(endpoint=hub.endpoint, token=TOKEN)
    api.create_repo("me/merge", private=False)
    with pytest.raises(MergeError, match="is public"):
        push_to_hub(folder, "me/merge", api=api)
    assert len(hub.repos["me/merge"].commits) == 1
    hub.repos["me/merge"].private = True
    push_to_hub(folder, "me/merge", api=api)
    assert len(hub.repos["me/merge"].commits) == 2


def test_a_push_without_login_or_with_nothing_to_push_writes_nothing(hub: Hub, tmp_path: Path, monkeypatch) -> None:
    folder = merge(mixed_pool(), "average").save(tmp_path / "out")
    (tmp_path / "empty").mkdir()
    for place, name, word in (
        (folder, "me/merge", "logged in"),
        (tmp_path / "empty", "me/merge", "card"),
        (folder, "merge", "user/name"),
    ):
        with pytest.raises(MergeError) as caught:
            push_to_hub(place, name)
        assert one_sentence(caught.value, word), str(caught.value)
    wrong = HfApi(endpoint=hub.endpoint, token="hf_wrong")
    with pytest.raises(MergeError) as caught:
        push_to_hub(folder, "me/merge", api=wrong)
    assert one_sentence(caught.value, "401"), str(caught.value)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(MergeError, match="HF_HUB_OFFLINE"):
        push_to_hub(folder, "me/merge", api=wrong)
    assert hub.repos == {}


def test_a_recipe_says_how_the_full_model_was_made(tmp_path: Path, model) -> None:
    place, pool = saved_base(tmp_path / "base", model), pool_of(tmp_path, model, "bert")
    full = save_full_model(merge(pool, "average"), place, tmp_path / "full")
    assert Recipe.from_yaml((full / "recipe.yaml").read_text()) == merge(pool, "average").recipe
    assert "transformers" in (full / "README.md").read_text()
    zero = replace(
        random_adapter(1),
        deltas={QUERY: LowRank.zero(MODULES[QUERY])},
        head=Head("pooled", {"weight": torch.ones(2, HIDDEN), "bias": torch.ones(2)}),
    )
    same = save_full_model(merge([zero], "average"), place, tmp_path / "same")
    assert all(torch.equal(t, tensors_of(place)[k]) for k, t in tensors_of(same).items())
