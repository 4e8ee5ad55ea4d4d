"""The zip that the app hands out: what is in it loads elsewhere and is the merge of the screen."""

import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import one_sentence

from merging import Adapter, MergeError
from merging.services.bundle import write_zip
from merging.services.settings import Settings
from merging.services.workbench import Workbench


@pytest.fixture(scope="module")
def bench() -> Workbench:
    return Workbench()


def settings(bench: Workbench, method: str) -> Settings:
    spec = bench.defaults("default", method)
    return Settings("default", replace(spec, weights=(1.0,) * len(bench.tasks("default"))))


def unpacked(
    bench: Workbench, chosen: Settings, kind: str, folder: Path, rank: int | None = None, head: Any = None
) -> tuple[Path, str]:
    *_, last = write_zip(bench, chosen, kind, rank, head, folder)
    assert last.file is not None
    assert [path for path in folder.iterdir() if path != last.file] == []
    with zipfile.ZipFile(last.file) as packed:
        packed.extractall(folder / "out")
    [inside] = (folder / "out").iterdir()
    return inside, last.what


@pytest.mark.parametrize("method", ["task_arithmetic", "ties"])
def test_an_adapter_holds_the_merge_exactly(bench: Workbench, tmp_path: Path, method: str) -> None:
    chosen = settings(bench, method)
    folder, said = unpacked(bench, chosen, "adapter", tmp_path, head="movie")
    loaded, merged = Adapter.load(folder), bench.merged(chosen)
    assert loaded.head is not None
    assert "with model card and recipe" in said
    assert {"README.md", "recipe.yaml"} <= {path.name for path in folder.iterdir()}
    for module in merged.modules:
        expected = merged.delta(module)
        assert float((loaded.deltas[module].dense() - expected).norm() / expected.norm()) < 1e-5


def test_several_heads_lie_beside_the_merge_under_their_public_names(bench: Workbench, tmp_path: Path) -> None:
    tasks = bench.tasks("default")[:2]
    folder, _ = unpacked(bench, settings(bench, "task_arithmetic"), "adapter", tmp_path, head=tasks)
    names = {bench.public_name(task) for task in tasks}
    assert Adapter.load(folder).heads.keys() == names
    heads = {adapter.task: adapter.head for adapter in bench.merged_for_others(settings(bench, "average")).adapters}
    for name in names:
        own, loaded = heads[name], Adapter.load(folder, task=name).head
        assert own is not None and loaded is not None
        assert loaded.labels == own.labels
        assert torch.equal(loaded.tensors["weight"], own.tensors["weight"])


def test_a_merge_per_task_goes_with_one_head(bench: Workbench, tmp_path: Path) -> None:
    with pytest.raises(MergeError) as error:
        unpacked(bench, settings(bench, "emr"), "adapter", tmp_path, head=bench.tasks("default")[:2])
    assert one_sentence(error.value, "choose whose head")


def test_a_lower_rank_says_what_it_loses(bench: Workbench, tmp_path: Path) -> None:
    folder, said = unpacked(bench, settings(bench, "ties"), "adapter", tmp_path, rank=4)
    assert "rank 4, relative error" in said
    assert {update.rank for update in Adapter.load(folder).deltas.values()} == {4}


def test_a_full_model_gives_the_merges_own_states(bench: Workbench, tmp_path: Path) -> None:
    from transformers import AutoModel

    chosen = settings(bench, "do_merging")
    folder, _ = unpacked(bench, chosen, "model", tmp_path)
    model, tokenizer = bench.base()
    batch = tokenizer(["a lovely film", "what is the capital of France?"], padding=True, return_tensors="pt")
    with torch.no_grad():
        alone = model(**batch).last_hidden_state
        with bench.merged(chosen).applied_to(model):
            expected = model(**batch).last_hidden_state
        found = AutoModel.from_pretrained(folder)(**batch).last_hidden_state
    assert float((found - expected).abs().max()) < 1e-5
    assert float((alone - expected).abs().max()) > 1e-3


def test_a_method_with_a_merge_per_task_asks_for_the_task(bench: Workbench, tmp_path: Path) -> None:
    with pytest.raises(MergeError) as refusal:
        list(write_zip(bench, settings(bench, "emr"), "adapter", None, None, tmp_path))
    assert one_sentence(refusal.value, "choose whose head")
    folder, _ = unpacked(bench, settings(bench, "emr"), "adapter", tmp_path / "for", head="movie")
    expected = bench.merged(settings(bench, "emr")).for_task("movie")
    loaded = Adapter.load(folder)
    for module in expected.modules:
        assert (
            float((loaded.deltas[module].dense() - expected.delta(module)).norm() / expected.delta(module).norm())
            < 1e-5
        )
