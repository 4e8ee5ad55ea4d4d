"""Your own task: what is looked at is what becomes a task, columns are named by hand, and what is wrong is said in a
sentence.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from fake_lab import FakeLab

from merging import MergeError, Task
from merging.services.limits import LIMITS
from merging.tasks.columns import Columns
from merging.tasks.files import Preview
from viz.panels.adapters.task_handlers import (
    MOST_COLUMNS,
    NAME,
    TaskHandlers,
    TaskSession,
    hub_name,
    suggested,
)

ME = "guest0"
GUESSED = dict.fromkeys(("text", "pair", "label", "split"))
ODD = {"text": "was gesagt wurde", "pair": "", "label": "Ton", "split": ""}


@pytest.fixture
def lab() -> FakeLab:
    return FakeLab()


@pytest.fixture
def panel(lab: FakeLab) -> TaskHandlers:
    return TaskHandlers(lab)


@pytest.fixture
def session() -> TaskSession:
    return TaskSession()


def written(folder: Path, content: str | bytes, name: str = "mine.csv") -> str:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def table(header: str = "text,label", count: int = 30, row: str = "text number {n},{label}") -> str:
    return "\n".join([header, *(row.format(n=n, label="ab"[n % 2]) for n in range(count))])


def oddly_named(folder: Path) -> str:
    return written(folder, table("id;was gesagt wurde;Ton", row="{n};Satz {n};{label}"))


def looked(panel: TaskHandlers, session: TaskSession, path: str) -> dict[str, Any]:
    return list(panel.file(session, path))[-1]


def used(
    panel: TaskHandlers, session: TaskSession, named: Mapping = GUESSED, name: str = "", rows: float | None = None
) -> str:
    return list(panel.use(session, ME, named, name, rows))[-1]["note"]


def task(lab: FakeLab, name: str = "mine") -> Task:
    return lab.own[f"{ME}-{name}"]


def words(html: str) -> str:
    return " ".join(re.sub("<[^>]*>", " ", html).split())


# -- a file ------------------------------------------------------------------------------------------------------------


def test_a_preview_says_what_the_file_holds_and_what_was_guessed(panel, session, tmp_path: Path) -> None:
    content = "\n".join(f"text {n}\t{'ab'[n % 3 == 0]}\t{('train', 'test')[n % 2]}" for n in range(30))
    values = looked(panel, session, written(tmp_path, "review\tsentiment\tsplit\n" + content, "films.tsv"))
    said = words(values["preview"])
    assert "films.tsv : TSV, cells between tabs, 30 rows." in said
    assert "Labels: a 20, b 10." in said
    assert "Splits: train 15, test 15." in said
    assert "text in review, label in sentiment, split in split" in said
    assert "text 4" in said
    assert "text 5" not in said
    assert {role: column["value"] for role, column in values["columns"].items()} == {
        "text": "review",
        "pair": "",
        "label": "sentiment",
        "split": "split",
    }
    assert (values["name"], values["open"]) == ("films", True)


def test_columns_with_unusual_names_are_named_by_hand(panel, lab, session, tmp_path: Path) -> None:
    values = looked(panel, session, oddly_named(tmp_path))
    assert "no column text and no column label" in values["preview"]
    assert "semicolons" in values["preview"]
    assert values["columns"]["text"]["value"] is None
    assert ("none", "") not in values["columns"]["label"]["choices"]
    assert "no column text" in used(panel, session)
    assert lab.own == {}
    shown = panel.again(session, ODD)["preview"]
    assert "Labels: a 15, b 15." in shown
    assert "Guessed" not in shown
    assert 'role="alert"' not in shown
    assert "18 train, 6 validation, 6 test" in used(panel, session, ODD, "Töne (2)")
    made = task(lab, "Töne (2)")
    assert (made.title, made.labels) == ("Töne (2)", ("a", "b"))
    assert {*made.train.texts, *made.validation.texts, *made.test.texts} == {f"Satz {n}" for n in range(30)}


def test_pairs_and_splits_are_kept(panel, lab, session, tmp_path: Path) -> None:
    rows = [
        {"one": f"a {n}", "two": f"b {n}", "verdict": n % 2, "part": ("train", "dev", "test")[n % 3]} for n in range(30)
    ]
    looked(panel, session, written(tmp_path, "\n".join(map(json.dumps, rows)), "pairs.jsonl"))
    used(panel, session, {"text": "one", "pair": "two", "label": "verdict", "split": "part"})
    made = task(lab, "pairs")
    assert dict(zip(made.test.texts, made.test.pairs, strict=True)) == {f"a {n}": f"b {n}" for n in range(2, 30, 3)}


def test_one_column_for_two_things_is_said_and_the_rows_stay_in_sight(panel, session, tmp_path: Path) -> None:
    looked(panel, session, written(tmp_path, table()))
    shown = panel.again(session, {"text": "text", "pair": "text", "label": "label", "split": ""})["preview"]
    assert "one column is named for two things" in words(shown)
    assert "text number 3" in shown
    assert "Labels" not in shown


def test_a_sample_is_as_large_as_was_asked(panel, lab, session, tmp_path: Path) -> None:
    looked(panel, session, written(tmp_path, table(count=100)))
    said = used(panel, session, rows=40)
    made = task(lab)
    assert len(made.train) + len(made.validation) + len(made.test) == 40
    assert "left out" not in said


def test_duplicates_that_were_left_out_are_counted(panel, session, tmp_path: Path) -> None:
    looked(panel, session, written(tmp_path, table() + "\ntext number 3,b\ntext number 4,a"))
    assert "2 duplicates left out" in used(panel, session)


def test_a_task_of_the_same_name_gets_a_number_and_belongs_to_its_visitor_only(
    panel, lab, session, tmp_path: Path
) -> None:
    looked(panel, session, written(tmp_path, table()))
    assert "Task mine:" in used(panel, session)
    assert "Task mine2:" in used(panel, session)
    assert "mine" not in lab.titles("guest1").values()


def test_what_a_file_holds_cannot_break_the_page(panel, session, tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    rows = "\n".join(f"{evil} {n},{evil if n % 2 else 'b'},{'long ' * 100}" for n in range(9))
    values = looked(panel, session, written(tmp_path, f"text,label,{evil}\n{rows}", "<b>.csv"))
    said = used(panel, session)
    assert evil not in values["preview"] + said
    assert "&lt;script&gt;" in values["preview"]
    assert "<b>.csv" not in values["preview"]
    assert "long " * 41 not in values["preview"]


def test_a_header_without_a_name_is_no_choice(panel, session, tmp_path: Path) -> None:
    values = looked(panel, session, written(tmp_path, table(",text,label", row="{n},text {n},{label}")))
    assert [column for _, column in values["columns"]["pair"]["choices"]] == ["", "text", "label"]
    assert "(no name)" in values["preview"]


# -- what is wrong -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("text,label\ncafé,a\n".encode("utf-16"), "not UTF-8"),
        (b"", "is empty"),
        (b'text,label\n"open,a\n', "never closed"),
        (b"text,label\n" + b"x" * 3000, "at most 0.002 MB"),
        (",".join(f"c{n}" for n in range(MOST_COLUMNS + 1)).encode(), f"{MOST_COLUMNS} at most"),
    ],
)
def test_what_cannot_be_read_leaves_nothing_to_use(lab, session, tmp_path: Path, content: bytes, why: str) -> None:
    panel = TaskHandlers(lab, largest=2000)
    looked(panel, session, written(tmp_path, table(), "good.csv"))
    values = looked(panel, session, written(tmp_path, content))
    assert why in values["note"]
    assert 'role="alert"' in values["note"]
    assert (values["preview"], values["open"]) == ("", False)
    assert "Choose a file first" in used(panel, session)


@pytest.mark.parametrize(
    ("row", "why"),
    [(",a", "line 32 has no text"), ("some text,", "line 32 has no label"), ("some text,a,b", "has 3 cells")],
)
def test_a_bad_row_is_named_before_and_when_it_is_used(panel, lab, session, tmp_path: Path, row: str, why: str) -> None:
    values = looked(panel, session, written(tmp_path, f"{table()}\n{row}"))
    assert why in values.get("preview", "") + values["note"]
    if values["open"]:
        assert why in used(panel, session)
    assert lab.own == {}


@pytest.mark.parametrize("name", ["../up", "a/b", ".hidden", "x" * 41, "line\nbreak", "a\\b"])
def test_a_name_that_could_be_a_path_is_refused(panel, lab, session, tmp_path: Path, name: str) -> None:
    looked(panel, session, written(tmp_path, table()))
    assert "cannot be a task’s name" in used(panel, session, name=name)
    assert lab.own == {}


@pytest.mark.parametrize("name", ["../../x", "", ".", "my, file?", "ü" * 90, " a", "a" * 39 + " b", "a/b"])
def test_a_suggested_name_is_always_allowed(name: str) -> None:
    assert NAME.fullmatch(suggested(name))


@pytest.mark.parametrize("rows", [1, -5, LIMITS.table_rows + 1])
def test_a_number_of_rows_outside_its_limits_is_refused(panel, lab, session, tmp_path: Path, rows: int) -> None:
    looked(panel, session, written(tmp_path, table()))
    assert "Rows at most is" in used(panel, session, rows=rows)
    assert lab.own == {}


def test_a_wrong_column_is_a_sentence(panel, session, tmp_path: Path) -> None:
    looked(panel, session, written(tmp_path, table()))
    assert "has no column &#x27;body&#x27;" in used(panel, session, GUESSED | {"text": "body"})


def test_a_visitor_has_so_many_tasks_and_no_more(panel, lab, session, tmp_path: Path) -> None:
    looked(panel, session, written(tmp_path, table()))
    for _ in range(LIMITS.own_tasks):
        used(panel, session)
    assert "here already" in used(panel, session)
    assert len(lab.own) == LIMITS.own_tasks


# -- a data set of the hub ---------------------------------------------------------------------------------------------


class Hub:
    """Stands in for what reads data sets, and writes down what it is asked."""

    def __init__(self, rows: int = 30) -> None:
        self.asked: list[tuple] = []
        self.rows = rows

    def look(self, name: str, config: str | None, split: Mapping | None, named: Mapping) -> Preview:
        self.asked.append((name, config, split, dict(named)))
        if name == "nobody/nothing":
            raise MergeError("The data set nobody/nothing could not be loaded: it is not there.")
        columns, first = ("sentence", "label"), (("text 1", "a"), ("text 2", "b"))
        return Preview(
            name, "hub", "", columns, Columns(*columns), ("text", "label"), first, self.rows, {"a": 15, "b": 15}
        )

    def load(self, name: str, config: str | None, split: Mapping | None, rows: int | None, **named: str) -> Task:
        self.asked.append((name, config, split, named, rows))
        return Task.from_rows(config or name, [f"text {n}" for n in range(30)], ["ab"[n % 2] for n in range(30)])


def test_a_data_set_is_looked_at_and_used_with_its_columns(lab, session) -> None:
    hub = Hub()
    panel = TaskHandlers(lab, hub.look, hub.load)
    values = list(
        panel.hub(session, " nyu-mll/glue ", "rte", {"train": "train[:50%]", "validation": "", "test": " validation"})
    )[-1]
    assert "a data set of the hub, 30 rows" in words(values["preview"])
    assert [values["columns"][role]["visible"] for role in ("text", "pair", "label", "split")] == [
        True,
        True,
        True,
        False,
    ]
    used(panel, session, {"text": "sentence", "pair": "", "label": "label", "split": None}, rows=20)
    told = ("nyu-mll/glue", "rte", {"train": "train[:50%]", "test": "validation"})
    assert hub.asked == [
        (*told, {"text": None, "pair": None, "label": None}),
        (*told, {"text": "sentence", "pair": "", "label": "label"}, 20),
    ]
    assert len(task(lab, "rte").train) == 18


def test_more_rows_than_a_task_may_have_need_a_number(lab, session) -> None:
    hub = Hub(LIMITS.table_rows + 1)
    panel = TaskHandlers(lab, hub.look, hub.load)
    list(panel.hub(session, "user/large", "", {}))
    assert "give “Rows at most”" in used(panel, session)
    assert lab.own == {}
    assert "Task large:" in used(panel, session, rows=1000)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/etc",
        "../x",
        "a/../b",
        "a/b/c",
        "~/x",
        "user/name@main",
        "json",
        "pandas",
        "buckets/x",
        "folder",
        "a/folder",
    ],
)
def test_what_could_be_a_place_on_this_machine_is_never_opened(lab, session, tmp_path, monkeypatch, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "a" / "folder").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    hub = Hub()
    [values] = TaskHandlers(lab, hub.look, hub.load).hub(session, name, "", {})
    assert "user/name or name" in values["note"]
    assert hub.asked == []
    assert hub_name("imdb") == "imdb"
    assert hub_name("user/folder") == "user/folder"


def test_what_the_hub_refuses_and_a_strange_configuration_are_sentences(lab, session) -> None:
    hub = Hub()
    panel = TaskHandlers(lab, hub.look, hub.load)
    assert "could not be loaded" in list(panel.hub(session, "nobody/nothing", "", {}))[-1]["note"]
    hub.asked.clear()
    assert "no configuration" in list(panel.hub(session, "user/name", "../x", {}))[-1]["note"]
    assert hub.asked == []
