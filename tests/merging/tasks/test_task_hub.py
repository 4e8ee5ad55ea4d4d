"""Tasks from data sets in the hub's layout: their rows, their label order, their splits; offline, in one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from builders import one_sentence

from merging import MergeError
from merging.tasks.hub import hub_preview, hub_task
from merging.tasks.task import fingerprint

datasets = pytest.importorskip("datasets")

CARD = """---
configs:
- config_name: {name}
  data_files:
{files}
dataset_info:
- config_name: {name}
  features:
  - name: sentence
    dtype: string
  - name: label
    dtype:
      class_label:
        names:
          '0': zebra
          '1': ape
---
"""


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()


def some_rows(start: int, count: int, labelled: bool = True) -> list[dict]:
    return [{"sentence": f"text number {i}", "label": i % 2 if labelled else -1} for i in range(start, start + count)]


def data_set(folder: Path, splits: dict[str, list[dict]], name: str = "default") -> str:
    """Write a folder in the hub's layout, whose labels are classes with names out of alphabetical order."""
    for split, rows in splits.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = "\n".join(f"  - split: {split}\n    path: {split}.jsonl" for split in splits)
    (folder / "README.md").write_text(CARD.format(name=name, files=files))
    return str(folder)


def test_rows_and_the_order_of_the_labels_are_the_data_sets(tmp_path: Path) -> None:
    splits = {"train": some_rows(0, 12), "validation": some_rows(20, 6), "test": some_rows(30, 6)}
    task = hub_task(data_set(tmp_path, splits))
    assert task.labels == ("zebra", "ape")
    for split, rows in splits.items():
        part = getattr(task, split)
        assert dict(zip(part.texts, part.labels, strict=True)) == {row["sentence"]: row["label"] for row in rows}
    assert "Hugging Face" in task.source


def test_a_split_without_labels_is_left_out_and_validation_is_the_test(tmp_path: Path) -> None:
    splits = {"train": some_rows(0, 20), "validation": some_rows(20, 6), "test": some_rows(30, 6, labelled=False)}
    task = hub_task(data_set(tmp_path, splits))
    assert set(task.test.texts) == {row["sentence"] for row in splits["validation"]}
    assert len(task.validation) == 4
    assert set(task.train.texts) | set(task.validation.texts) == {row["sentence"] for row in splits["train"]}


def test_one_split_is_divided_and_slices_can_be_named(tmp_path: Path) -> None:
    source = data_set(tmp_path, {"train": some_rows(0, 50), "test": some_rows(50, 10)})
    divided = hub_task(source, split="train")
    assert [len(part) for part in (divided.train, divided.validation, divided.test)] == [30, 10, 10]
    named = hub_task(source, split={"train": "train[:40]", "validation": "train[40:]", "test": "test"})
    assert [len(part) for part in (named.train, named.validation, named.test)] == [40, 10, 10]
    assert len(hub_task(source, split="train", rows=20).train) == 12


def test_a_configuration_is_named(tmp_path: Path) -> None:
    source = data_set(tmp_path, {"train": some_rows(0, 20)}, "animals")
    task = hub_task(source, "animals")
    assert (task.name, task.labels) == ("animals", ("zebra", "ape"))
    assert fingerprint(hub_task(source)) == fingerprint(task)
    with pytest.raises(MergeError) as caught:
        hub_task(source, "plants")
    assert one_sentence(caught.value, "plants")


def test_plain_files_in_a_folder_are_a_data_set_too(tmp_path: Path) -> None:
    for split, start in (("train", 0), ("test", 30)):
        rows = [f"premise {i},hypothesis {i},{'no' if i % 2 else 'yes'}" for i in range(start, start + 20)]
        (tmp_path / f"{split}.csv").write_text("\n".join(["premise,hypothesis,label", *rows]))
    task = hub_task(str(tmp_path))
    assert task.labels == ("no", "yes")
    assert set(task.test.pairs or ()) == {f"hypothesis {i}" for i in range(30, 50)}


@pytest.mark.parametrize(
    ("splits", "arguments", "words"),
    [
        ({"train": 12, "matched": 6}, {}, "train, matched"),
        ({"train": 12}, {"split": "elsewhere"}, "elsewhere"),
        ({"train": 12}, {"split": {"dev": "train"}}, "keys are train, validation and test"),
        ({"train": 12}, {"text": "body"}, "sentence, label"),
        ({"train": 12}, {"label": ""}, "no column label"),
    ],
)
def test_what_cannot_be_told_apart_is_refused(splits: dict, arguments: dict, words: str, tmp_path: Path) -> None:
    source = data_set(tmp_path, {name: some_rows(0, count) for name, count in splits.items()})
    with pytest.raises(MergeError, match=words) as caught:
        hub_task(source, **arguments)
    assert one_sentence(caught.value)


def test_an_empty_text_and_a_missing_label_are_named_by_row_and_split(tmp_path: Path) -> None:
    for row, words in (({"sentence": "", "label": 0}, "no text"), ({"sentence": "a", "label": -1}, "no label")):
        (tmp_path / words).mkdir()
        source = data_set(tmp_path / words, {"train": [*some_rows(0, 6), row]})
        with pytest.raises(MergeError, match=f"row 7 of train has {words}"):
            hub_task(source)


def test_more_rows_than_can_be_kept_are_refused_before_they_are_read(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("merging.tasks.hub.MAX_ROWS", 10)
    source = data_set(tmp_path, {"train": some_rows(0, 11)})
    with pytest.raises(MergeError, match=r"11 rows, at most 10 .*train\[:10\]"):
        hub_task(source)
    assert len(hub_task(source, split="train[:10]").train) == 6


def test_what_cannot_be_reached_is_one_sentence() -> None:
    with pytest.raises(MergeError) as caught:
        hub_task("nobody/nothing")
    assert one_sentence(caught.value, "nobody/nothing")


GUESSED = dict.fromkeys(("text", "pair", "label"))


def test_a_preview_shows_what_the_task_will_hold(tmp_path: Path) -> None:
    source = data_set(
        tmp_path, {"train": some_rows(0, 12), "test": some_rows(20, 6), "unlabelled": some_rows(30, 6, labelled=False)}
    )
    found = hub_preview(source, None, None, GUESSED)
    assert (found.columns, found.guessed) == (("sentence", "label"), ("text", "label"))
    assert found.first[:2] == (("text number 0", "zebra"), ("text number 1", "ape"))
    assert (found.rows, found.labels, found.splits) == (18, {"zebra": 9, "ape": 9}, {"train": 12, "test": 6})
    assert found.problem == ""


def test_a_preview_says_what_is_wrong_and_shows_the_rows_all_the_same(tmp_path: Path) -> None:
    source = data_set(tmp_path, {"train": [*some_rows(0, 6), {"sentence": "", "label": 0}]})
    assert "row 7 of train has no text" in hub_preview(source, None, None, GUESSED).problem
    unknown = hub_preview(source, None, None, GUESSED | {"label": ""})
    assert "no column label" in unknown.problem
    assert unknown.first[1] == ("text number 1", "ape")
