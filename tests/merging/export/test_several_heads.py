"""Several tasks' heads beside one merge: written, read again by task, and used as the card shows it."""

from __future__ import annotations

import re
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import gaussian, logits, one_sentence, peft_folder, random_adapter, tiny_classifier
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from typer.testing import CliRunner

from merging import Adapter, Head, MergeError, merge, merge_recipe
from merging.cli.main import cli
from merging.export.full_model import save_full_model
from merging.merged import Merged
from merging.recipes.recipe import Recipe

LABELS = {"task-0": 3, "task-1": 2, "a task: with ümlaut/slash": 3}


def trained(kind: str, folder: Path) -> tuple[list[Adapter], Path]:
    """Return adapters with their own heads, of different numbers of labels, on one encoder, and its folder."""
    encoder = getattr(model := tiny_classifier(kind), model.base_model_prefix)
    encoder.save_pretrained(folder / "base")
    pool = []
    for seed, (task, labels) in enumerate(LABELS.items()):
        own = tiny_classifier(kind, labels)
        getattr(own, own.base_model_prefix).load_state_dict(encoder.state_dict())
        modules = ["q_proj", "v_proj"] if kind == "llama" else ["query", "value"]
        peft_folder(folder / f"{seed}", own, seed, task_type="SEQ_CLS", target_modules=modules)
        pool.append(Adapter.load(folder / f"{seed}", task=task, base=str(folder / "base")))
    return pool, folder / "base"


def expected(kind: str, merged: Merged, base: Path, owner: Adapter) -> Tensor:
    """Return the logits of the base with the merge and an adapter's head."""
    model = tiny_classifier(kind, LABELS[owner.task])
    encoder = type(getattr(model, model.base_model_prefix)).from_pretrained(base)
    getattr(model, model.base_model_prefix).load_state_dict(encoder.state_dict())
    assert owner.head is not None
    for name, tensor in owner.head.tensors.items():
        model.get_parameter(name).data.copy_(tensor)
    with merged.applied_to(model):
        return logits(model)


def from_card(folder: Path, base: Path, task: str, first: str) -> nn.Module:
    """Run the code of the card, for another task than the one that it shows."""
    card = (folder / "README.md").read_text()
    [code] = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    files = dict(re.findall(r"\| (.+?) \| (heads/.+?) \|", card.replace("\\", "")))
    code = code.replace("this folder", str(folder)).replace("the base model", str(base))
    code = code.replace(files[first], files[task]).replace("num_labels=3", f"num_labels={LABELS[task]}")
    names: dict[str, Any] = {}
    exec(code, names)
    return names["model"].eval()


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_every_head_acts_on_the_one_merge_as_its_own_export_does(kind: str, tmp_path: Path) -> None:
    pool, base = trained(kind, tmp_path)
    merged = merge(pool, "task_arithmetic", scaling=0.5)
    folder = merged.save(tmp_path / "out", head=list(LABELS))
    assert Adapter.load(folder).heads.keys() == LABELS.keys()
    assert Adapter.load(folder).head is None
    full = save_full_model(merged, base, tmp_path / "full", head=list(LABELS))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for owner in pool:
            wanted = expected(kind, merged, base, owner)
            for place in (folder, full):
                model = from_card(place, base, owner.task, "task-0")
                assert torch.allclose(logits(model), wanted, atol=1e-5)
            alone = Adapter.load(folder, task=owner.task)
            assert alone.task == owner.task
            assert alone.head is not None and owner.head is not None
            assert alone.head.tensors.keys() == owner.head.tensors.keys()
            assert all(torch.equal(t, owner.head.tensors[name]) for name, t in alone.head.tensors.items())
            assert alone.heads.keys() == LABELS.keys() - {owner.task}


def pooled(count: int = 3) -> list[Adapter]:
    pool = []
    for i in range(count):
        tensors = {"weight": gaussian(i, 3, 8).float(), "bias": gaussian(50 + i, 3).float()}
        pool.append(replace(random_adapter(i), head=Head("pooled", tensors, ("x", "y", "z"))))
    return pool


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_pooled_heads_come_back_with_their_labels(form: str, tmp_path: Path) -> None:
    pool = pooled()
    place = merge(pool, "average").save(tmp_path / "out", head=["task-2", "task-0"])
    if form == "zip":
        place = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", place))
    loaded = Adapter.load(place)
    assert list(loaded.heads) == ["task-0", "task-2"]
    for task, head in loaded.heads.items():
        own = next(adapter.head for adapter in pool if adapter.task == task)
        assert own is not None
        assert (head.kind, head.labels) == ("pooled", own.labels)
        assert all(torch.equal(tensor, own.tensors[name]) for name, tensor in head.tensors.items())


def test_evaluation_takes_all_heads_of_an_adapter(tmp_path: Path) -> None:
    from builders import made_up_task, tiny_model, tiny_tokenizer

    from merging import evaluate

    tasks = [made_up_task(name, classes=3, seed=i) for i, name in enumerate(("task-0", "task-1"))]
    model = tiny_model()
    width = model.config.hidden_size
    heads = {
        task.name: Head("pooled", {"weight": gaussian(i, 3, width).float(), "bias": gaussian(9 + i, 3).float()})
        for i, task in enumerate(tasks)
    }
    peft_folder(tmp_path / "one", model)
    adapter = Adapter.load(tmp_path / "one")
    pool = [replace(adapter, name=task, task=task, head=head) for task, head in heads.items()]
    loaded = Adapter.load(merge(pool, "average").save(tmp_path / "out", head=list(heads)))
    own, given = (
        [(e.task, e.marks) for e in evaluate(model, tiny_tokenizer(), loaded, tasks, heads=used)]
        for used in (None, heads)
    )
    assert own == given


def test_one_name_in_a_list_is_the_head_of_the_file(tmp_path: Path) -> None:
    merged = merge(pooled(), "average")
    first, second = (merged.save(tmp_path / str(i), head=head) for i, head in enumerate(("task-1", ["task-1"])))
    assert {path.name for path in first.iterdir()} == {path.name for path in second.iterdir()}
    assert Adapter.load(second).task == "task-1"


@pytest.mark.parametrize(
    ("pool", "method", "heads", "words"),
    [
        (pooled, "average", ["task-0", "absent"], "absent"),
        (pooled, "average", ["task-0", "task-0"], "named twice"),
        (pooled, "emr", ["task-0", "task-1"], "one result per task"),
        (
            lambda: [*pooled(2), replace(random_adapter(2), trained={"norm.weight": torch.ones(8)})],
            "average",
            ["task-0", "task-2"],
            "only one adapter's",
        ),
    ],
    ids=["absent", "twice", "a merge per task", "no head"],
)
def test_heads_that_cannot_go_together_are_refused(
    pool: Any, method: str, heads: list[str], words: str, tmp_path: Path
) -> None:
    merged = merge(pool(), method)
    merged = merged.for_task("task-0") if "task_id" in merged.needs else merged
    with pytest.raises(MergeError) as error:
        merged.save(tmp_path / "out", rank=32, head=heads)
    assert one_sentence(error.value, words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ('{"task": "task-0", "kind": "pooled"}', "second head"),
        ('{"task": 3, "kind": "pooled"}', "whose head it is"),
        ('{"task": "new", "kind": "other"}', "whose head it is"),
        ("nonsense", "not a readable"),
    ],
)
def test_a_malformed_head_is_refused_in_a_sentence(header: str, words: str, tmp_path: Path) -> None:
    folder = merge(pooled(), "average").save(tmp_path / "out", head=["task-0", "task-1"])
    tensors = load_file(folder / "heads" / "task-0.safetensors")
    save_file(tensors, folder / "heads" / "z.safetensors", metadata={"mergescope_head": header})
    with pytest.raises(MergeError) as error:
        Adapter.load(folder)
    assert one_sentence(error.value, words)


def test_a_strangers_file_in_the_folder_is_passed_over(tmp_path: Path) -> None:
    folder = merge(pooled(), "average").save(tmp_path / "out", head=["task-0", "task-1"])
    save_file({"weight": torch.ones(2)}, folder / "heads" / "theirs.safetensors")
    assert list(Adapter.load(folder).heads) == ["task-0", "task-1"]


def written(*words: str) -> None:
    assert CliRunner().invoke(cli, list(words), catch_exceptions=False).exit_code == 0


def test_the_command_line_writes_several_heads_and_so_does_its_recipe(tmp_path: Path) -> None:
    places = [str(adapter.save(tmp_path / adapter.name)) for adapter in pooled()]
    heads = ["--head", "task-0", "--head", "task-2"]
    written("merge", *places, "--method", "average", *heads, "-o", str(tmp_path / "out"))
    text = (tmp_path / "out" / "recipe.yaml").read_text()
    recipe = Recipe.from_yaml(text)
    assert recipe.head == ["task-0", "task-2"]
    written("merge", str(tmp_path / "out" / "recipe.yaml"), *heads, "-o", str(tmp_path / "again"))
    again = tmp_path / "again"
    assert (again / "recipe.yaml").read_text() == text
    assert merge_recipe(recipe).spec.method == "average"
    assert {path.name for path in (again / "heads").iterdir()} == {"task-0.safetensors", "task-2.safetensors"}
