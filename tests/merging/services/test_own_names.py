"""What a visitor brought goes out under the names that the visitor gave it: no mark of a session, no path of the
server.
"""

import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from builders import made_up_task

from merging import Adapter, MergeError, Recipe, evaluate, merge_recipe
from merging.adapters.metadata import AdapterMetadata
from merging.features.store import TextsOf
from merging.models.layers import working_copy
from merging.recipes.spec import MergeSpec
from merging.services.bundle import write_zip
from merging.services.settings import Settings
from merging.services.shelf import bring, prepare
from merging.services.workbench import Workbench

OWNER = "0123secret"


@pytest.fixture(scope="module")
def uploads(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Zips as visitors have them: of adapters without a head, in a folder that only the server has."""
    root, made = tmp_path_factory.mktemp("server"), {}
    for pool, name in (("default", "cats vs dogs"), ("papers", "Tone")):
        adapter = Adapter.load(Path("assets/adapters") / pool / "movie")
        replace(adapter, head=None, metadata=AdapterMetadata()).save(root / name)
        made[name] = Path(shutil.make_archive(str(root / name), "zip", root, name))
        shutil.rmtree(root / name)
    return made


@pytest.fixture(scope="module")
def bench(uploads: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    """A workbench on which one visitor has prepared both for own tasks."""
    bench = Workbench()
    tasks = [bench.lab.add(replace(made_up_task(name), title=name), OWNER) for name in ("cats", "tone")]
    model, tokenizer = bench.base()
    chosen = dict(zip(tasks, (bring(path, model) for path in uploads.values()), strict=True))
    steps = prepare(
        model, tokenizer, chosen, {task: bench.lab.task(task) for task in tasks}, tmp_path_factory.mktemp(OWNER)
    )
    folders = {step.name: step.folder for step in steps if step.folder}
    bench.add_pool(f"{OWNER}-pool1", "Your adapters 1", folders, TextsOf(tuple(tasks), ("query", "value")))
    return bench


def settings(method: str = "task_arithmetic") -> Settings:
    return Settings(f"{OWNER}-pool1", MergeSpec.of(method, k=10))


def test_a_recipe_names_the_zips_by_name_and_content(bench: Workbench, uploads: dict[str, Path]) -> None:
    text = bench.recipe(settings())
    assert OWNER not in text
    assert str(next(iter(uploads.values())).parent) not in text
    entries = Recipe.from_yaml(text).adapters
    assert [(entry.name, entry.task, entry.path) for entry in entries] == [
        ("cats vs dogs", "cats", "cats vs dogs.zip"),
        ("Tone", "tone", "Tone.zip"),
    ]
    assert [entry.fingerprint for entry in entries] == [Adapter.load(path).fingerprint for path in uploads.values()]


def test_the_recipe_makes_the_merge_again_where_the_zips_are(
    bench: Workbench, uploads: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in uploads.values():
        shutil.copy(path, tmp_path)
    monkeypatch.chdir(tmp_path)
    again, expected = merge_recipe(Recipe.from_yaml(bench.recipe(settings()))), bench.merged(settings())
    assert all(torch.equal(again.delta(module), expected.delta(module)) for module in expected.modules)


@pytest.mark.parametrize("method", ["task_arithmetic", "regmean", "emr"])
def test_no_file_of_an_export_knows_the_session(method: str, bench: Workbench, tmp_path: Path) -> None:
    head = f"{OWNER}-tone"
    *_, last = write_zip(bench, settings(method), "adapter", None, head, tmp_path)
    assert last.file is not None
    with zipfile.ZipFile(last.file) as packed:
        texts = {name: packed.read(name).decode() for name in packed.namelist() if not name.endswith(".safetensors")}
    assert texts
    for name, text in texts.items():
        assert OWNER not in text, name
        assert "/tmp" not in text, name
    [metadata] = [json.loads(text) for name, text in texts.items() if name.endswith("mergescope.json")]
    assert metadata["task"] == "tone"
    # renaming the tasks changes no bit of a merge that looks at their texts
    with zipfile.ZipFile(last.file) as packed:
        packed.extractall(tmp_path / "out")
    [folder] = (tmp_path / "out").iterdir()
    merged = bench.merged(settings(method))
    merged = merged.for_task(head) if method == "emr" else merged
    written = Adapter.load(folder)
    for module in merged.modules:
        torch.testing.assert_close(written.deltas[module].dense(), merged.delta(module), rtol=1e-4, atol=1e-6)


def test_a_recipe_of_a_shipped_pool_is_the_same_on_every_machine(
    bench: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = Settings("papers", MergeSpec.of("task_arithmetic"))
    text = bench.recipe(shown)
    assert [entry.path for entry in Recipe.from_yaml(text).adapters] == [
        f"shipped:papers/{t}" for t in bench.tasks("papers")
    ]
    monkeypatch.chdir(tmp_path)
    again = merge_recipe(Recipe.from_yaml(text))
    assert all(torch.equal(again.delta(module), bench.merged(shown).delta(module)) for module in again.modules)
    assert again.recipe.to_yaml() == text


@pytest.mark.parametrize("name", ["shipped:papers/nothing", "shipped:papers/../default/trec", "shipped:/etc/passwd"])
def test_what_does_not_ship_is_refused(name: str) -> None:
    with pytest.raises(MergeError):
        Adapter.load(name)


def test_warnings_name_what_the_visitor_brought(bench: Workbench) -> None:
    view = bench.update(settings())
    assert OWNER not in " ".join(view.notes)


@pytest.mark.slow
def test_what_was_trained_whole_counts_in_the_app_too(bench: Workbench, tmp_path: Path) -> None:
    """A norm in modules_to_save is no head and no update of a module: alone, merged, and with a layer left out it
    acts."""
    norm, bias = (f"encoder.layer.2.output.LayerNorm.{part}" for part in ("weight", "bias"))
    as_it_was = dict(bench.base()[0].named_parameters())[bias].detach().clone()
    adapters = []
    for task in ("movie", "trec"):
        adapter = Adapter.load(Path("assets/adapters/papers") / task)
        if task == "movie":
            value = torch.full((384,), 0.1)
            adapter = replace(
                adapter,
                trained={norm: value, bias: as_it_was},
                config={**adapter.config, "modules_to_save": ["LayerNorm"]},
            )
        adapters.append(adapter)
    folders = {adapter.task: str(adapter.save(tmp_path / adapter.task)) for adapter in adapters}
    assert set(Adapter.load(folders["movie"]).trained) == {norm, bias}
    bench.add_pool("own-norm", "x", folders, TextsOf(tuple(folders), ("query", "value")))
    settings = Settings("own-norm", MergeSpec.of("task_arithmetic"))
    model, tokenizer = bench.base()
    tasks = [bench.encoded("own-norm", task, "test").first(40) for task in folders]
    start = dict(model.named_parameters())[norm].detach().clone()
    by_hand = working_copy(model, bench.modules("own-norm"))
    by_hand.get_submodule(norm.removesuffix(".weight")).weight = torch.nn.Parameter(value)
    untrained = [replace(adapter, trained={}, base_fingerprint=None) for adapter in bench.adapters("own-norm")]
    plain = replace(bench.merged(settings), adapters=untrained)
    heads = {adapter.task: adapter.head for adapter in adapters}
    expected = list(evaluate(by_hand, tokenizer, plain, tasks, heads=heads))
    assert [step for step in bench.evaluate(settings, 40) if hasattr(step, "marks")] == expected
    without = list(evaluate(model, tokenizer, plain, tasks, heads=heads))
    assert [step.marks for step in without] != [step.marks for step in expected]
    alone = list(evaluate(model, tokenizer, adapters[0], tasks[:1]))
    bare = list(evaluate(model, tokenizer, replace(adapters[0], trained={}), tasks[:1]))
    assert [step.marks for step in alone] != [step.marks for step in bare]
    changes = [change for step in bench.leave_out(settings, "layer", 40) for change in step.changes]
    [gone] = {change.difference for change in changes if change.left_out == "2" and change.task == "movie"}
    final = {step.task: step for step in expected}
    two = [module for module in bench.modules("own-norm") if ".2." in module]
    with plain.applied_to(working_copy(model, bench.modules("own-norm")), left_out=two) as lacking:
        after = {step.task: step for step in evaluate(lacking, tokenizer, None, tasks, heads=heads)}
    assert gone == pytest.approx(100 * (after["movie"].accuracy - final["movie"].accuracy))
    assert torch.equal(dict(model.named_parameters())[norm], start)
