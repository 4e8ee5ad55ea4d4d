"""A session that is saved is the same when it is opened; a file that only looks like one is refused in a sentence."""

import json
import zipfile
from pathlib import Path

import pytest
import torch
from builders import made_up_task, one_sentence, random_adapter

from merging.adapters.adapter import Adapter
from merging.errors import MergeError
from merging.services.session_file import (
    SavedAdapter,
    SavedSession,
    SavedTask,
    is_session,
    open_session,
    save_session,
)
from merging.tasks.files import read_table
from merging.tasks.task import Task, fingerprint


def tasks(folder: Path) -> list[Task]:
    pairs = Task.from_rows(
        "pairs", [f"one {n}" for n in range(30)], ["no", "yes", "maybe"] * 10, [f"two {n}" for n in range(30)]
    )
    table = folder / "whole.csv"
    table.write_text("text,label\n" + "\n".join(f"text {n},{'ba'[n % 2]}" for n in range(9)))
    return [made_up_task("films", 60, 3), pairs, read_table(table).test_task("whole test")]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    adapters, listed = [random_adapter(seed) for seed in range(2)], tasks(tmp_path)
    session = SavedSession(
        base=("minilm", "float32"),
        vouched=True,
        adapters=[SavedAdapter(name=f"Ä <{n}>", task=task.name) for n, task in enumerate(listed[:2])],
        tasks=[SavedTask(name=t.name, labels=list(t.labels), pairs=t.test.pairs is not None) for t in listed],
    )
    return save_session(tmp_path / "session.zip", session, adapters, listed)


def test_what_was_saved_is_opened_as_it_was(saved: Path, tmp_path: Path) -> None:
    assert is_session(saved)
    (tmp_path / "out").mkdir()
    session, zips, opened = open_session(saved, tmp_path / "out")
    assert session.vouched
    assert [adapter.name for adapter in session.adapters] == ["Ä <0>", "Ä <1>"]
    for before, after in zip(tasks(tmp_path), opened, strict=True):
        assert fingerprint(before) == fingerprint(after)
        assert before.labels == after.labels
    for seed, path in enumerate(zips):
        expected, found = random_adapter(seed), Adapter.load(path)
        assert all(torch.equal(expected.deltas[m].dense(), found.deltas[m].dense()) for m in expected.deltas)


def changed(saved: Path, target: Path, **members: bytes | None) -> Path:
    with zipfile.ZipFile(saved) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            key = name.replace(".", "_").replace("-", "_")
            if members.get(key, b"") is not None:
                new.writestr(name, members.get(key) or old.read(name))
        for name, content in members.items():
            if name.startswith("new:"):
                new.writestr(name.removeprefix("new:"), content or b"")
    return target


@pytest.mark.parametrize(
    ("members", "word"),
    [
        ({"new:../../evil.py": b"x"}, "evil"),
        ({"new:adapter-0.zip/x": b"x"}, "adapter-0"),
        ({"session_json": b"{}"}, "session.json"),
        ({"session_json": b"[" * 5000}, "session.json"),
        ({"session_json": json.dumps({"base": ["minilm", "float32"], "run": "x"}).encode()}, "session.json"),
        ({"adapter_1_zip": None}, "adapter-1.zip"),
        ({"task_0_jsonl": None}, "task-0.jsonl"),
        ({"task_0_jsonl": b'{"text": "a"}\n'}, "label"),
        ({"task_1_jsonl": b"\xff\xfe\x00"}, "task-1.jsonl"),
    ],
)
def test_what_is_no_session_is_refused_in_a_sentence(
    members: dict[str, bytes | None], word: str, saved: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(MergeError) as refused:
        open_session(changed(saved, tmp_path / "changed.zip", **members), tmp_path / "out")
    assert one_sentence(refused.value, word), str(refused.value)
    assert not (tmp_path / "evil.py").exists()


def test_an_adapters_zip_and_a_broken_file_are_no_sessions(tmp_path: Path) -> None:
    (tmp_path / "broken.zip").write_bytes(b"PK\x03\x04 nonsense")
    with zipfile.ZipFile(tmp_path / "adapter.zip", "w") as archive:
        archive.writestr("adapter_config.json", "{}")
    assert not is_session(tmp_path / "broken.zip")
    assert not is_session(tmp_path / "adapter.zip")
