"""Adapter files as people have them: what PEFT means by them is read, or the refusal says truly why not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import QUERY, edit_config, edit_tensors, furthest, one_sentence, peft_folder, random_adapter, tiny_model
from builders import dense as updates_of
from safetensors.torch import load_file, save_file
from torch import Tensor

from merging import Adapter, MergeError
from merging.adapters.names import architecture_prefixes, plain_keys, prefix_of
from merging.adapters.rounding import chosen_dtype, rounded


def keys_changed(folder: Path, change: Callable[[str], str]) -> None:
    edit_tensors(folder, lambda tensors: {change(name): tensor for name, tensor in tensors.items()})


def refused(folder: Path, *words: str) -> bool:
    with pytest.raises(MergeError) as caught:
        Adapter.load(folder)
    assert one_sentence(caught.value, *words), str(caught.value)
    return True


# -- names -------------------------------------------------------------------------------------------------------------

SEGMENTS = (
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
    "_orig_mod",
    "_forward_module",
    "_fpw_module",
    "module",
)
PLACES: dict[str, Callable[[str, str], str]] = {
    "before everything": lambda key, segment: f"{segment}.{key}",
    "below the root": lambda key, segment: key.replace("base_model.model.", f"base_model.model.{segment}."),
    "around a layer": lambda key, segment: key.replace("layer.0.", f"layer.0.{segment}."),
    "around the projection": lambda key, segment: key.replace("query.", f"query.{segment}."),
    "twice": lambda key, segment: key.replace("attention.", f"{segment}.attention.{segment}."),
}


@pytest.mark.parametrize("segment", SEGMENTS)
@pytest.mark.parametrize("place", PLACES)
def test_what_wrappers_put_into_names_is_taken_out_wherever_it_stands(segment: str, place: str, folder: Path) -> None:
    clean = Adapter.load(folder)
    keys_changed(folder, lambda key: PLACES[place](key, segment))
    assert segment in min(load_file(folder / "adapter_model.safetensors"), key=lambda key: segment not in key)
    assert Adapter.load(folder).fingerprint == clean.fingerprint


@pytest.mark.parametrize("name", ["default", "my_adapter"])
def test_the_name_of_an_adapter_inside_the_keys_is_taken_out(name: str, folder: Path) -> None:
    clean = Adapter.load(folder)
    keys_changed(folder, lambda key: key.replace(".weight", f".{name}.weight"))
    assert Adapter.load(folder).fingerprint == clean.fingerprint


@pytest.mark.parametrize("other", ["lora_A.other.weight", "_orig_mod.lora_A.weight"])
def test_keys_that_become_one_are_refused(other: str, folder: Path) -> None:
    key = f"base_model.model.{QUERY}.lora_A.weight"
    edit_tensors(folder, lambda tensors: tensors | {key.replace("lora_A.weight", other): tensors[key].clone()})
    assert refused(folder, key, "two adapters")


def test_old_keys_of_a_saved_head_are_its_names() -> None:
    keys = {
        "base_model.model.score.modules_to_save.weight": "base_model.model.score.weight",
        "base_model.model.head.modules_to_save.default.dense.weight": "base_model.model.head.dense.weight",
        "base_model.model.pre.modules_to_save.dense.weight": "base_model.model.pre.dense.weight",
    }
    copies = ["base_model.model.score.original_module.weight"]
    assert plain_keys([*keys, *copies], "here") == {plain: key for key, plain in keys.items()}


def test_prefixes_come_from_the_installed_architectures() -> None:
    assert {"model", "transformer", "bert", "esm", "wav2vec2", "gpt_neox"} <= architecture_prefixes()
    assert not {"encoder", "vision_model", "layers", "lm_head"} & architecture_prefixes()
    assert prefix_of(["esm.encoder.layer.0.attention.self.query", "lm_head.dense"]) == "esm."
    assert prefix_of(["transformer.layer.0.attention.q_lin"]) == ""
    assert prefix_of(["lm_head"]) == ""


# -- files -------------------------------------------------------------------------------------------------------------


def pickled(folder: Path, content: Any = None) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    torch.save(tensors if content is None else content(tensors), folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()


def test_a_pickle_of_tensors_is_the_same_adapter(folder: Path) -> None:
    clean = Adapter.load(folder)
    pickled(folder)
    assert Adapter.load(folder).fingerprint == clean.fingerprint
    pair = [folder / "adapter_config.json", folder / "adapter_model.bin"]
    assert Adapter.load(pair).fingerprint == clean.fingerprint


def test_safetensors_come_before_a_pickle_as_in_peft(folder: Path) -> None:
    (folder / "adapter_model.bin").write_bytes(b"no pickle")
    assert Adapter.load(folder).deltas


class Trap:
    """Writes a file when it is unpickled by somebody careless."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        return (Path.write_text, (self.place, "it ran"))


PICKLES: dict[str, tuple[Callable[[dict[str, Tensor], Path], Any], str]] = {
    "code": (lambda tensors, place: tensors | {"x": Trap(place)}, "nothing of it was run"),
    "a list": (lambda tensors, _: list(tensors.values()), "by name"),
    "a number": (lambda tensors, _: tensors | {"x": 1}, "no plain tensor"),
    "whole numbers": (lambda tensors, _: tensors | {"x": torch.ones(3, dtype=torch.int64)}, "int64"),
    "a view that repeats one number": (
        lambda tensors, _: tensors | {"x": torch.ones(1).expand(1 << 30)},
        "larger than the file",
    ),
    "NaN": (lambda tensors, _: {name: tensor * float("nan") for name, tensor in tensors.items()}, "NaN"),
}


@pytest.mark.parametrize(("content", "words"), PICKLES.values(), ids=PICKLES)
def test_a_pickle_of_anything_else_is_refused_and_runs_nothing(
    content: Any, words: str, folder: Path, tmp_path: Path
) -> None:
    pickled(folder, lambda tensors: content(tensors, tmp_path / "trap"))
    assert refused(folder, "adapter_model.bin" if words != "NaN" else "", words)
    assert not (tmp_path / "trap").exists()


@pytest.mark.parametrize("content", [b"", b"pickle", b"PK\x03\x04 half a zip"])
def test_a_damaged_pickle_is_refused_in_a_sentence(content: bytes, folder: Path) -> None:
    (folder / "adapter_model.safetensors").unlink()
    (folder / "adapter_model.bin").write_bytes(content)
    assert refused(folder, "adapter_model.bin")


@pytest.mark.parametrize("which", ["lora_A", "lora_"])
def test_empty_tensors_are_called_empty(which: str, folder: Path) -> None:
    edit_tensors(folder, lambda ts: {name: torch.empty(0) if which in name else t for name, t in ts.items()})
    assert refused(folder, "empty", "ZeRO-3")


def test_r_and_alpha_that_are_left_out_are_pefts_own(tmp_path: Path) -> None:
    expected = peft_folder(tmp_path / "mine", tiny_model(), r=8, lora_alpha=8)
    path = tmp_path / "mine" / "adapter_config.json"
    config = json.loads(path.read_text())
    path.write_text(
        json.dumps({key: value for key, value in config.items() if key not in ("r", "lora_alpha")}),
        encoding="utf-8-sig",
    )
    assert furthest(updates_of(Adapter.load(tmp_path / "mine")), expected) < 1e-6


def test_a_folder_of_checkpoints_says_where_the_adapters_are(folder: Path, tmp_path: Path) -> None:
    for step in (500, 1000):
        shutil.copytree(folder, tmp_path / "run" / f"checkpoint-{step}")
    assert refused(tmp_path / "run", "checkpoint-1000, checkpoint-500", "give that folder")


FOREIGN = {
    "pytorch_lora_weights.safetensors": "diffusers",
    "adapters.safetensors": "MLX",
    "lora.safetensors": "mistral-finetune",
    "model-q4.gguf": "GGUF",
    "my_style.safetensors": "kohya",
}


@pytest.mark.parametrize(("name", "kind"), FOREIGN.items())
def test_a_lora_of_another_tool_is_called_by_its_name(name: str, kind: str, tmp_path: Path) -> None:
    save_file({"lora_unet_down_blocks_0.lora_down.weight": torch.zeros(2, 2)}, tmp_path / name)
    assert refused(tmp_path, kind)
    if name.endswith(("gguf", "style.safetensors")):
        assert refused(tmp_path / name, kind)


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (("lora_a", "lora_b"), "MLX"),
        (("lora_down.weight", "lora_up.weight"), "kohya"),
        (("lora.down.weight", "lora.up.weight"), "diffusers"),
        (("adapter.linear_in.weight", "adapter.linear_out.weight"), "NeMo"),
    ],
)
def test_factors_by_the_names_of_another_tool_are_called_so(names: tuple[str, str], kind: str, folder: Path) -> None:
    def renamed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {
            key.replace("lora_A.weight", names[0]).replace("lora_B.weight", names[1]): tensor
            for key, tensor in tensors.items()
        }

    edit_tensors(folder, renamed)
    assert refused(folder, kind, "convert it first")


def test_weights_under_another_name_are_pointed_at(folder: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "model.safetensors")
    assert refused(folder, "model.safetensors", "adapter_model.safetensors")


def test_lora_on_every_expert_of_a_large_mixture_is_read(folder: Path) -> None:
    names = [f"base_model.model.layers.{i // 128}.experts.{i % 128}.up_proj" for i in range(12_000)]
    save_file(
        {f"{name}.lora_{side}.weight": torch.ones(1, 1) for name in names for side in "AB"},
        folder / "adapter_model.safetensors",
    )
    edit_config(folder, r=1)
    assert len(Adapter.load(folder).deltas) == len(names)


# -- what is written ---------------------------------------------------------------------------------------------------


def test_an_export_has_one_rank_and_alpha_is_the_rank(tmp_path: Path) -> None:
    adapter = random_adapter(1, (16, 2))
    adapter.save(tmp_path / "mine")
    config = json.loads((tmp_path / "mine" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["use_rslora"]) == (16, 16, False)
    assert not config["rank_pattern"]
    assert not config["alpha_pattern"]
    tensors = load_file(tmp_path / "mine" / "adapter_model.safetensors")
    assert {tensor.shape[0] for name, tensor in tensors.items() if "lora_A" in name} == {16}
    # any reader's scaling is 1: alpha / r, and alpha / the rank of the tensor
    for module, update in adapter.deltas.items():
        B, A = (tensors[f"base_model.model.{module}.lora_{side}.weight"] for side in "BA")
        assert torch.equal(B @ A, update.dense()) or float((B @ A - update.dense()).norm() / update.norm()) < 1e-6
    again = Adapter.load(tmp_path / "mine")
    assert {module: update.rank for module, update in again.deltas.items()} == {
        m: u.rank for m, u in adapter.deltas.items()
    }


@pytest.mark.parametrize(("name", "most"), [("bfloat16", 1e-2), ("float16", 1e-3)])
def test_fewer_bits_are_written_and_what_they_cost_is_measured(name: str, most: float, tmp_path: Path) -> None:
    adapter = random_adapter(1, 4)
    dtype = chosen_dtype(name, [adapter])
    short = rounded(adapter, dtype)
    short.save(tmp_path / "mine", dtype=dtype)
    assert {tensor.dtype for tensor in load_file(tmp_path / "mine" / "adapter_model.safetensors").values()} == {dtype}
    again = Adapter.load(tmp_path / "mine")
    error = (
        sum(float((again.deltas[m].dense() - u.dense()).norm()) ** 2 for m, u in adapter.deltas.items())
        / sum(u.norm() ** 2 for u in adapter.deltas.values())
    ) ** 0.5
    assert 0 < error < most
    assert short.metadata.rounding.error == pytest.approx(error, rel=1e-3)
    assert chosen_dtype("parents", [again, again]) == dtype
    assert chosen_dtype("parents", [again, adapter]) == torch.float32


def test_a_base_at_hand_that_lacks_a_module_is_noticed_before_anything_is_written(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path / "base")
    adapter = random_adapter(1)
    strange = type(adapter)(
        "strange", {f"blocks.{m}": u for m, u in adapter.deltas.items()}, base=str(tmp_path / "base")
    )
    with pytest.raises(MergeError) as caught:
        strange.save(tmp_path / "out")
    assert one_sentence(caught.value, "blocks.", "--base")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", ["base_model_name_or_path", "task_type", "modules_to_save"])
def test_half_a_character_is_refused_before_it_is_written_anywhere(option: str, folder: Path) -> None:
    edit_config(folder, **{option: ["\ud800"] if option == "modules_to_save" else "meta/\ud800"})
    assert refused(folder, "adapter_config.json", "half a character")
    edit_config(folder, **{option: None, "task_type": None})
    pickled(folder, lambda tensors: {key.replace("query", "\ud800"): t for key, t in tensors.items()})
    assert refused(folder, "adapter_model.bin", "\\ud800")


def test_names_of_strangers_cannot_break_the_line_of_a_refusal(folder: Path) -> None:
    keys_changed(folder, lambda key: f"a\nb\u202e.{key}")
    assert refused(folder, "a\\nb\\u202e")


def test_a_pointer_of_git_lfs_is_called_one(folder: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    (folder / "adapter_model.safetensors").write_text(pointer)
    assert refused(folder, "adapter_model.safetensors", "git lfs pull")
