"""What a visitor brought goes out under the names that the visitor gave it: no mark of a session, no path of the server."""

import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from builders import made_up_task

from merging import Adapter, Recipe, merge_recipe
from merging.features.store import TextsOf
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
        replace(adapter, head=None, metadata={}).save(root / name)
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
    steps = prepare(model, tokenizer, chosen, {task: bench.lab.task(task) for task in tasks}, tmp_path_factory.mktemp(OWNER))
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


def test_warnings_name_what_the_visitor_brought(bench: Workbench) -> None:
    view = bench.update(settings())
    assert OWNER not in " ".join(view.notes)
