"""What is dropped in one go is sorted out by what it is, and names that match go together."""

import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from builders import random_adapter

from merging.adapters.head import Head
from merging.errors import MergeError
from merging.io.assets import assets_folder
from merging.models.load import load_base
from merging.services.lab import Lab
from merging.services.shelf import Brought
from merging.tasks.files import read_table
from viz.panels.adapters.drop import divided, dropped_task, label_order, matched, order_text, sorted_out
from viz.panels.adapters.handlers import AdaptersHandlers, _in_order
from viz.panels.adapters.session import AdaptersSession


def table(path: Path, rows: int = 20, header: str = "text,label") -> Path:
    path.write_text(f"{header}\n" + "\n".join(f"text number {n},{('bad', 'good')[n % 2]}" for n in range(rows)))
    return path


def test_files_are_taken_for_what_they_are() -> None:
    paths = ["a/one.zip", "a/TWO.ZIP", "a/texts.csv", "a/more.JSONL", "a/adapter_config.json", "a/adapter_model.bin"]
    sources, tables, wrong = sorted_out(paths)
    assert sources == ["a/one.zip", "a/TWO.ZIP", ["a/adapter_config.json", "a/adapter_model.bin"]]
    assert [path.name for path in tables] == ["texts.csv", "more.JSONL"]
    assert wrong == ""


@pytest.mark.parametrize("rest", [["adapter_config.json"], ["weights.safetensors"], ["adapter_model.bin", "x.json"]])
def test_files_that_are_no_adapter_are_named_and_the_others_taken(rest: list[str]) -> None:
    sources, tables, wrong = sorted_out(["one.zip", "texts.csv", *rest])
    assert sources == ["one.zip"]
    assert len(tables) == 1
    assert all(name in wrong for name in rest)


@pytest.mark.parametrize(
    ("adapter", "titles", "expected"),
    [
        ("SST2", ["sst2_test", "cola"], "sst2_test"),
        ("sst2", ["SST-2 (test)", "sst2b"], "SST-2 (test)"),
        ("lora-film-reviews", ["film_reviews.train", "kitchen"], "film_reviews.train"),
        ("cola-lora-adapter", ["cola_dev", "sst2_dev"], "cola_dev"),
        ("roberta-cola", ["cola"], "cola"),
        ("cola", ["cola_train", "cola_test"], ""),  # which of the two is for a person to say
        ("x", ["fx"], ""),
        ("adapter", ["test"], ""),
        ("mrpc", ["rte"], ""),
    ],
)
def test_an_adapter_gets_the_texts_of_its_name(adapter: str, titles: list[str], expected: str) -> None:
    assert matched(adapter, {title: title for title in titles}) == expected


def test_a_dropped_table_becomes_a_task_and_says_how_it_was_divided(tmp_path: Path) -> None:
    lab = Lab(load_base)
    task = dropped_task(table(tmp_path / "films.csv"), "guest1", lab)
    assert divided(task) == "films: 12 train, 4 validation, 4 test rows; labels bad, good."
    assert dropped_task(tmp_path / "films.csv", "guest1", lab).title == "films2"
    assert lab.titles("guest1").keys() >= {"guest1-films", "guest1-films2"}
    with pytest.raises(MergeError, match="body"):
        dropped_task(table(tmp_path / "odd.csv", header="body,stars"), "guest1", lab)


def test_a_whole_table_may_be_the_test_split(tmp_path: Path) -> None:
    path = table(tmp_path / "films.csv")
    task = dropped_task(path, "guest1", Lab(load_base), all_test=True)
    assert (len(task.train), len(task.validation), len(task.test)) == (0, 0, 20)
    assert sorted(task.test.texts) == sorted(read_table(path).texts)
    assert divided(task) == "films: 20 test rows; labels bad, good."


def test_the_order_of_an_unnamed_heads_labels_can_be_changed() -> None:
    labels = ("bad", "good", "so, so")
    assert label_order(order_text(labels), labels, "films") == labels
    assert label_order("good; bad; so, so", labels, "films") == ("good", "bad", "so, so")
    assert label_order("good,bad", ("bad", "good"), "films") == ("good", "bad")
    with pytest.raises(MergeError, match="bad, good"):
        label_order("good, good", ("bad", "good"), "films")


def test_only_a_head_without_names_is_asked_for_its_order(tmp_path: Path) -> None:
    lab, session = Lab(load_base), AdaptersSession()
    panel = AdaptersHandlers(lab, None, None, None)  # type: ignore[arg-type]
    task = dropped_task(table(tmp_path / "films.csv"), session.visitor.key, lab)
    key = task.name
    adapter = random_adapter(0)
    weights = {
        "weight": adapter.deltas[next(iter(adapter.deltas))].A[:2],
        "bias": adapter.deltas[min(adapter.deltas)].A[0, :2],
    }
    unnamed = replace(adapter, head=Head("pooled", weights))
    session.visitor.shelf += [Brought("unnamed", unnamed), Brought("none", adapter)]
    session.shelf.append(_in_order(session.shelf[0], ("good", "bad")))
    assert panel.order(session, 0, key) == {"visible": True, "value": "bad, good"}
    assert [panel.order(session, place, key)["visible"] for place in (1, 2, 3)] == [False] * 3
    assert not panel.order(session, 0, "")["visible"]


def test_a_saved_session_brings_adapters_tasks_and_choices_back(tmp_path: Path) -> None:
    lab, session = Lab(load_base), AdaptersSession()
    model = load_base("minilm")
    panel = AdaptersHandlers(lab, None, lambda source, dtype: model, None)  # type: ignore[arg-type]
    zips = []
    for task in ("movie", "trec"):
        zips.append(tmp_path / f"my {task}.zip")
        with zipfile.ZipFile(zips[-1], "w") as archive:
            for name in ("adapter_config.json", "adapter_model.safetensors"):
                archive.write(assets_folder() / "adapters" / "default" / task / name, name)
    panel.upload(session, [*map(str, zips), str(table(tmp_path / "movies.csv"))], all_test=True)
    own = f"{session.visitor.key}-movies"
    file = panel.save(session, [own, "trec"], ["", ""])
    later = AdaptersSession()
    values = panel.upload(later, [str(file)])
    assert "2 adapters and 1 tasks" in values["note"]
    assert [brought.name for brought in later.shelf] == ["my movie", "my trec"]
    assert [slot["value"] for slot in values["slots"][:2]] == [f"{later.visitor.key}-movies", "trec"]
    assert lab.task(f"{later.visitor.key}-movies").test == lab.task(own).test
    again = panel.upload(later, [str(file)])  # what is here stays, and nothing of the same name is overwritten
    assert [slot["value"] for slot in again["slots"][2:4]] == [f"{later.visitor.key}-movies2", "trec"]
    other = AdaptersSession(base=("smollm2", "float32"))
    assert "choose that one under" in panel.upload(other, [str(file)])["note"]
    with pytest.raises(MergeError, match="nothing to save"):
        panel.save(AdaptersSession(), [], [])
