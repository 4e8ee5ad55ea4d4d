"""A recipe is a merge as text: written, read, merged again, it gives the same recipe and the same bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from builders import (
    deltas_of,
    edit_tensors,
    equal_pool,
    one_sentence,
    peft_folder,
    sentences,
    tiny_classifier,
    tiny_model,
)

from merging import (
    Adapter,
    Decouple,
    MergeError,
    Orthogonalize,
    Recipe,
    SoftOSRM,
    collect_features,
    merge,
    merge_recipe,
)

MERGES: dict[str, dict[str, Any]] = {
    "defaults": {"method": "do_merging"},
    "a scaling": {"method": "task_arithmetic", "scaling": 0.1 + 0.2},
    "a tiny scaling": {"method": "task_arithmetic", "scaling": 1e-7},
    "weights": {"method": "average", "weights": [1.0, 0.25, 3], "seed": 12345678901},
    "weights by pattern": {
        "method": "task_arithmetic",
        "weights": [{"*.query": 0.3, "*": 2.0}, 1.0, {"*.layer.1.*": -1.0}],
    },
    "plug-ins": {"method": "task_arithmetic", "orthogonalize": Orthogonalize("balanced", 0.05, 7), "decouple": 0.35},
    "decouple's own options": {"method": "task_arithmetic", "decouple": Decouple(0.6, "module", 1.5, True)},
    "a limit only": {"method": "do_merging", "decouple": Decouple(max_up=2.0)},
    "a norm cap": {"method": "task_arithmetic", "norm_cap": 0.5},
    "Pico": {"method": "task_arithmetic", "pico": True},
    "the raw mode": {"method": "do_merging", "orthogonalize": "raw", "decouple": 0.0, "scaling": 0.4},
}

merges = pytest.mark.parametrize("arguments", MERGES.values(), ids=MERGES)


def weights_file(folder: Path) -> bytes:
    return (folder / "adapter_model.safetensors").read_bytes()


@merges
def test_a_recipe_survives_yaml(arguments: dict[str, Any], pool: list[Adapter]) -> None:
    recipe = merge(pool, **arguments).recipe
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe
    assert Recipe.from_yaml(recipe.to_yaml()).to_yaml() == recipe.to_yaml()


@merges
@pytest.mark.parametrize("rank", [None, 3])
def test_merging_from_a_recipe_writes_the_same_recipe_and_the_same_bits(
    arguments: dict[str, Any], rank: int | None, pool: list[Adapter], tmp_path: Path
) -> None:
    merge(pool, **arguments).save(tmp_path / "first", rank=rank)
    text = (tmp_path / "first" / "recipe.yaml").read_text()
    recipe = Recipe.from_yaml(text)
    assert recipe.rank == rank
    merge_recipe(recipe).save(tmp_path / "second", rank=recipe.rank, head=recipe.head)
    assert (tmp_path / "second" / "recipe.yaml").read_text() == text
    assert weights_file(tmp_path / "second") == weights_file(tmp_path / "first")


def test_a_recipe_keeps_the_seed_of_the_random_masks(pool: list[Adapter]) -> None:
    merged = merge(pool, "dare", seed=12345678901)
    again = deltas_of(merge_recipe(Recipe.from_yaml(merged.recipe.to_yaml())))
    other = deltas_of(merge(pool, "dare"))
    for module, delta in deltas_of(merged).items():
        assert torch.equal(again[module], delta)
        assert not torch.equal(other[module], delta)


def test_a_recipe_keeps_names_tasks_and_who_vouched_for_the_base(pool: list[Adapter]) -> None:
    told = [Adapter.load(a.path, name=f"my {a.name}", task=f"task of {a.name}", base="tiny-bert") for a in pool]
    loaded = Recipe.from_yaml(merge(told, "average").recipe.to_yaml()).load_adapters()
    assert [(a.name, a.task, a.base, a.base_vouched) for a in loaded] == [(a.name, a.task, a.base, True) for a in told]


def test_soft_osrm_is_kept(pool: list[Adapter], model, tokenizer) -> None:
    modules = sorted({module for adapter in pool for module in adapter.deltas if not module.startswith("pooler")})
    pool = [Adapter.load(a.path) for a in pool if not any(m.startswith("pooler") for m in a.deltas)]
    features = collect_features(model, tokenizer, {a.task: sentences(i, 3) for i, a in enumerate(pool)}, 3, modules)
    merged = merge(pool, "task_arithmetic", features=features, soft_osrm=SoftOSRM(0.7, 1e-5))
    recipe = Recipe.from_yaml(merged.recipe.to_yaml())
    again = deltas_of(merge_recipe(recipe, features))
    assert all(torch.equal(again[module], delta) for module, delta in deltas_of(merged).items())
    with pytest.raises(MergeError, match="features"):
        merge_recipe(recipe)


def test_the_head_is_kept(tmp_path: Path) -> None:
    for i in range(2):
        peft_folder(tmp_path / f"task-{i}", tiny_classifier(), seed=i, task_type="SEQ_CLS")
    pool = [Adapter.load(tmp_path / f"task-{i}") for i in range(2)]
    merge(pool, "average").save(tmp_path / "first", head="task-1")
    recipe = Recipe.from_yaml((tmp_path / "first" / "recipe.yaml").read_text())
    assert recipe.head == "task-1"
    merge_recipe(recipe).save(tmp_path / "second", rank=recipe.rank, head=recipe.head)
    assert weights_file(tmp_path / "second") == weights_file(tmp_path / "first")


def test_the_prefix_is_kept(tmp_path: Path) -> None:
    peft_folder(tmp_path / "bare", tiny_model(), seed=0)
    peft_folder(tmp_path / "headed", tiny_classifier(), seed=1, task_type="SEQ_CLS")
    pool = [Adapter.load(tmp_path / name, base="tiny-bert") for name in ("bare", "headed")]
    merge(pool, "average").save(tmp_path / "first", prefix="bert.")
    assert Recipe.from_yaml((tmp_path / "first" / "recipe.yaml").read_text()).prefix == "bert."


def test_a_recipe_holds_no_time_and_no_output_path(pool: list[Adapter], tmp_path: Path) -> None:
    merged = merge(pool, "average")
    texts = {(merged.save(tmp_path / name) / "recipe.yaml").read_text() for name in ("here", "there")}
    assert len(texts) == 1
    assert not {"here", "there"} & set(texts.pop().replace("/", " ").split())


def test_adapter_paths_are_absolute(pool: list[Adapter], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = merge([Adapter.load("task-0"), Adapter.load("./task-1/")], "average").recipe
    assert [Path(entry.path) for entry in recipe.adapters] == [tmp_path / "task-0", tmp_path / "task-1"]


def test_adapters_made_in_memory_have_no_recipe() -> None:
    with pytest.raises(MergeError, match="task-0"):
        _ = merge(equal_pool(2), "average").recipe


def test_a_minimal_recipe_by_hand_takes_the_methods_defaults(pool: list[Adapter]) -> None:
    text = yaml.safe_dump({"adapters": [{"path": str(a.path)} for a in pool], "method": "do_merging"})
    result, expected = deltas_of(merge_recipe(Recipe.from_yaml(text))), deltas_of(merge(pool, "do_merging"))
    assert all(torch.equal(result[module], delta) for module, delta in expected.items())


# -- refusals ----------------------------------------------------------------------------------------------------------


SPOILED = {
    "no YAML": (lambda _: "adapters: [", ["YAML"]),
    "a list": (lambda _: "- 1\n- 2\n", ["adapters", "method"]),
    "nothing": (lambda _: "", ["adapters", "method"]),
    "code": (lambda _: "!!python/object/apply:os.system ['true']", ["YAML"]),
    "an unknown field": (lambda data: data | {"metod": "average"}, ["metod"]),
    "no method": (lambda data: {key: value for key, value in data.items() if key != "method"}, ["method"]),
    "no adapters": (lambda data: {key: value for key, value in data.items() if key != "adapters"}, ["adapters"]),
    "an unknown field of an adapter": (
        lambda data: data | {"adapters": [data["adapters"][0] | {"wieght": 2.0}]},
        ["adapters.0.wieght"],
    ),
    "a weight that is a text": (
        lambda data: data | {"adapters": [data["adapters"][0] | {"weight": "much"}]},
        ["adapters.0.weight"],
    ),
    "a weight that is NaN": (
        lambda data: data | {"adapters": [data["adapters"][0] | {"weight": float("nan")}]},
        ["adapters.0.weight"],
    ),
    "a seed that is a text": (lambda data: data | {"seed": "today"}, ["seed"]),
    "steps that are a text": (
        lambda data: data | {"orthogonalize": {"mode": "raw", "steps": "few"}},
        ["orthogonalize.steps"],
    ),
}


@pytest.mark.parametrize(("spoil", "words"), SPOILED.values(), ids=SPOILED)
def test_text_that_is_no_recipe_is_refused_in_a_sentence(spoil: Any, words: list[str], pool: list[Adapter]) -> None:
    spoiled = spoil(yaml.safe_load(merge(pool, "average").recipe.to_yaml()))
    with pytest.raises(MergeError) as caught:
        Recipe.from_yaml(spoiled if isinstance(spoiled, str) else yaml.safe_dump(spoiled))
    assert one_sentence(caught.value, *words), str(caught.value)


UNMERGEABLE = {
    "no adapters": ({"adapters": []}, "adapter"),
    "an unknown method": ({"method": "magic"}, "magic"),
    "an unknown parameter": ({"params": {"density": 0.2}}, "density"),
    "a scaling that is NaN": ({"params": {"scaling": float("nan")}}, "scaling"),
    "a scaling that is a text": ({"params": {"scaling": "0.4"}}, "scaling"),
    "an unknown mode": ({"orthogonalize": {"mode": "sideways"}}, "sideways"),
    "a strength above one": ({"decouple": 2.0}, "decouple"),
    "parameters that belong to merge": ({"params": {"weights": [1.0]}}, "weights"),
}


@pytest.mark.parametrize(("change", "word"), UNMERGEABLE.values(), ids=UNMERGEABLE)
def test_a_recipe_for_an_impossible_merge_is_refused(change: dict[str, Any], word: str, pool: list[Adapter]) -> None:
    data = yaml.safe_load(merge(pool, "task_arithmetic").recipe.to_yaml())
    with pytest.raises(MergeError, match=word):
        merge_recipe(Recipe.from_yaml(yaml.safe_dump(data | change)))


def test_an_adapter_that_has_changed_since_is_refused(pool: list[Adapter]) -> None:
    recipe = merge(pool, "average").recipe
    edit_tensors(pool[1].path, lambda tensors: {name: 2 * tensor for name, tensor in tensors.items()})
    with pytest.raises(MergeError, match=r"task-1.*changed"):
        merge_recipe(recipe)


def test_an_adapter_that_is_gone_is_named(pool: list[Adapter]) -> None:
    recipe = merge(pool, "average").recipe
    (pool[2].path / "adapter_model.safetensors").unlink()
    with pytest.raises(MergeError, match="task-2"):
        merge_recipe(recipe)
