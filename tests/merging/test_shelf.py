"""The shelf: what is brought along is loaded or refused with a sentence, gets its task and a head, and becomes a pool."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from builders import MODULES, made_up_task, one_sentence, random_adapter, state, tiny_model, unchanged

from merging import Adapter, MergeError, Task, evaluate
from merging.adapter import Head
from merging.shelf import Brought, bring, fitted, overview, prepare


def saved(folder: Path, seed: int, head: Head | None = None) -> Path:
    adapter = replace(random_adapter(seed), name=folder.name, task=folder.name, head=head)
    return adapter.save(folder)


def pooled(labels: tuple[str, ...], hidden: int, seed: int = 0) -> Head:
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        "weight": torch.randn(len(labels), hidden, generator=generator),
        "bias": torch.randn(len(labels), generator=generator),
    }
    return Head("pooled", tensors, labels)


def test_what_fits_and_what_does_not_stay_side_by_side(tmp_path: Path) -> None:
    model = tiny_model()
    good = bring(str(saved(tmp_path / "one", 0)), model)
    again = bring(str(tmp_path / "one"), model, [good.name])
    (tmp_path / "empty").mkdir()
    nothing = bring(str(tmp_path / "empty"), model)
    other = replace(
        random_adapter(1), deltas={"encoder.layer.9.attention.self.query": next(iter(random_adapter(1).deltas.values()))}
    )
    elsewhere = bring(str(other.save(tmp_path / "deeper")), model)
    assert (good.problem, again.problem, again.name) == ("", "", "one (2)")
    assert nothing.adapter is None
    assert str(tmp_path) not in nothing.problem
    assert "encoder.layer.9" in elsewhere.problem
    table = overview([good, again, nothing, elsewhere])
    assert table["name"].tolist() == ["one", "one (2)", "empty", "deeper"]
    assert table["problem"].astype(bool).tolist() == [False, False, True, True]
    assert table["modules"].tolist() == [len(MODULES), len(MODULES), 0, 1]


def test_adapters_of_two_bases_are_told_apart(tmp_path: Path) -> None:
    model = tiny_model()
    one = bring(str(saved(tmp_path / "one", 0)), model)
    other = Brought("other", replace(random_adapter(1), name="other", base="somebody/else"))
    assert overview([one, other])["problem"].astype(bool).tolist() == [False, True]


def test_a_pool_is_measured_and_a_missing_head_is_fitted(tmp_path: Path, tokenizer) -> None:
    model = tiny_model()
    before = state(model)
    tasks = {name: made_up_task(name, seed=i) for i, name in enumerate(("cats", "dogs"))}
    hidden = model.config.hidden_size
    own = pooled(tasks["cats"].labels, hidden)
    chosen = {
        "cats": bring(str(saved(tmp_path / "one", 0, own)), model),
        "dogs": bring(str(saved(tmp_path / "two", 1)), model),
    }
    steps = list(prepare(model, tokenizer, chosen, tasks, tmp_path / "pool"))
    folders = {step.name: step.folder for step in steps if step.folder}
    assert set(folders) == {"cats", "dogs"}
    assert any(step.what == "fitting a head" and step.name == "dogs" for step in steps)
    assert not any(step.what == "fitting a head" and step.name == "cats" for step in steps)
    assert unchanged(model, before)
    for name, folder in folders.items():
        adapter = Adapter.load(folder)
        assert adapter.task == name
        *_, last = evaluate(model, tokenizer, adapter, [tasks[name]])
        assert adapter.metadata["test_accuracy"]["adapter"] == last.accuracy
        assert adapter.metadata["rows"]["test"] == last.total


def test_a_head_is_put_into_the_order_of_the_task() -> None:
    task = Task.from_rows("t", [f"text {i}" for i in range(30)], ["b", "a", "c"] * 10)
    head = pooled(("c", "a", "b"), 4)
    turned = fitted(head, task, "x")
    assert turned.labels == tuple(task.labels)
    states = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
    for place, label in enumerate(task.labels):
        assert torch.equal(turned.logits(states)[:, place], head.logits(states)[:, head.labels.index(label)])
    for wrong in (pooled(("a", "b"), 4), pooled(("x", "y", "z"), 4)):
        with pytest.raises(MergeError) as refusal:
            fitted(wrong, task, "x")
        assert one_sentence(refusal.value, "choose its own task")


def test_one_alone_is_nothing_to_merge(tmp_path: Path, tokenizer) -> None:
    model = tiny_model()
    with pytest.raises(MergeError, match="two adapters or more"):
        list(prepare(model, tokenizer, {"cats": bring(str(saved(tmp_path / "one", 0)), model)}, {}, tmp_path / "pool"))
