"""A visitor's work as one file: adapters, own tasks, and which is of which, to be opened again after a reload.

The file is a zip of ``session.json``, an ordinary zip for each adapter and JSON lines for each task. It may come from
anybody: only members of these names are read, none longer than it declares, and what they hold goes through the same
checks as an upload.
"""

from __future__ import annotations

import json
import re
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..adapters.adapter import Adapter
from ..adapters.fetch import DAMAGED, MAX_TOTAL_BYTES, Careful, copy_member
from ..errors import MergeError
from ..io.whole import whole_file
from ..tasks.files import read_table
from ..tasks.splitting import SPLITS
from ..tasks.task import Task

INDEX = "session.json"
MAX_INDEX_BYTES = 1 << 20
MEMBER = re.compile(r"session\.json|adapter-[0-9]{1,2}\.zip|task-[0-9]{1,2}\.jsonl")


class SavedAdapter(BaseModel):
    """An adapter of a session, and its task; "" = none."""

    model_config = ConfigDict(extra="forbid")
    name: str = Field(max_length=200)
    task: str = Field(max_length=200)


class SavedTask(BaseModel):
    """A task of a session: its name, its labels in their order, and whether its rows are pairs."""

    model_config = ConfigDict(extra="forbid")
    name: str = Field(pattern=r"^\w[\w .()+-]{0,59}$")
    labels: list[str] = Field(min_length=2, max_length=500)
    pairs: bool = False


class SavedSession(BaseModel):
    """What ``session.json`` holds; ``base`` is (source, dtype)."""

    model_config = ConfigDict(extra="forbid")
    mergescope_session: Literal[1] = 1
    base: tuple[str, str]
    vouched: bool = False
    adapters: list[SavedAdapter] = Field(max_length=100)
    tasks: list[SavedTask] = Field(max_length=100)


def save_session(path: Path, session: SavedSession, adapters: Sequence[Adapter], tasks: Sequence[Task]) -> Path:
    """Write a session; ``adapters`` and ``tasks`` are those that it lists, in its order."""
    with whole_file(path) as fresh, tempfile.TemporaryDirectory() as work, zipfile.ZipFile(fresh, "w") as whole:
        whole.writestr(INDEX, session.model_dump_json(indent=1))
        for place, adapter in enumerate(adapters):
            folder, packed = adapter.save(Path(work) / f"{place}"), Path(work) / f"{place}.zip"
            with zipfile.ZipFile(packed, "w") as archive:
                for file in sorted(folder.iterdir()):
                    archive.write(file, file.name)
            whole.write(packed, f"adapter-{place}.zip")
        for place, task in enumerate(tasks):
            whole.writestr(f"task-{place}.jsonl", "\n".join(map(json.dumps, _rows(task))), zipfile.ZIP_DEFLATED)
    return path


def is_session(path: Path) -> bool:
    """Tell whether a file is a saved session, by the names in it."""
    try:
        with Careful(path.open("rb", buffering=0)) as stream, zipfile.ZipFile(stream) as whole:
            return INDEX in whole.namelist()
    except DAMAGED:
        return False


def open_session(path: Path, folder: Path) -> tuple[SavedSession, list[Path], list[Task]]:
    """Unpack a session below ``folder``; return what it lists, a zip per adapter, and its tasks.

    Raises
    ------
    MergeError
        For what is no session, has members of other names, or is larger than it may be; as `read_table` for a task.
    """
    where = path.name
    try:
        with Careful(path.open("rb", buffering=0)) as stream, zipfile.ZipFile(stream) as whole:
            infos = {info.filename: info for info in whole.infolist()}
            strange = [name for name in infos if not MEMBER.fullmatch(name)]
            if strange or len(infos) < len(whole.infolist()):
                odd = repr(strange[0][:100]) if strange else "two members of one name"
                raise MergeError(f"{where} is no session that was saved here: it has {odd}.")
            size = sum(info.file_size for info in infos.values())
            if size > MAX_TOTAL_BYTES or infos[INDEX].file_size > MAX_INDEX_BYTES:
                raise MergeError(f"{where} holds {size:,} bytes, at most {MAX_TOTAL_BYTES:,} are read.")
            for name, info in infos.items():
                copy_member(whole, info, folder / name)
        session = SavedSession.model_validate_json((folder / INDEX).read_bytes())
        zips = [folder / f"adapter-{place}.zip" for place in range(len(session.adapters))]
        tasks = [
            _task(folder / f"task-{place}.jsonl", saved, place, where) for place, saved in enumerate(session.tasks)
        ]
    except (ValidationError, KeyError) as error:
        raise MergeError(f"{where} is no session that was saved here: its {INDEX} cannot be read.") from error
    except MergeError:
        raise
    except DAMAGED as error:
        raise MergeError(f"{where} cannot be read ({error}): save the session again.") from error
    missing = [file.name for file in zips if not file.exists()]
    if missing:
        raise MergeError(f"{where} lists {missing[0]} and does not hold it: save the session again.")
    return session, zips, tasks


def _rows(task: Task) -> list[Mapping[str, str]]:
    rows: list[Mapping[str, str]] = []
    for split in SPLITS:
        part = getattr(task, split)
        for place, (text, label) in enumerate(zip(part.texts, part.labels, strict=True)):
            pair = {"pair": part.pairs[place]} if part.pairs else {}
            rows.append({"text": text, **pair, "label": task.labels[label], "split": split})
    return rows


def _task(file: Path, saved: SavedTask, place: int, where: str) -> Task:
    """Return a task with the very splits that it had."""
    if not file.exists():
        raise MergeError(f"{where} lists {file.name} and does not hold it: save the session again.")
    pair = "pair" if saved.pairs else ""
    table = read_table(file, "text", pair, "label", split="split", classes=saved.labels)
    if set(table.splits or ()) == {"test"}:
        task = table.test_task(saved.name)
    else:
        task = Task.from_rows(
            saved.name, table.texts, table.labels, table.pairs, table.splits, classes=tuple(saved.labels)
        )
        task = replace(task, source=f"a saved session, {where}")
    return replace(task, title=saved.name)
