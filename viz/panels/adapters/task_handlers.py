"""What happens in "Your own task": a visitor's file or a data set of the hub is looked at, its columns are named, it
becomes a task.

No Gradio here. What is read stays with its visitor: the lab keeps a task under its owner and forgets it with the
session.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from html import escape
from importlib.util import find_spec
from itertools import count
from pathlib import Path, PurePath
from typing import Any

from merging.errors import MergeError
from merging.io.hub import BASE_ID
from merging.services.lab import Lab
from merging.services.limits import LIMITS
from merging.tasks.files import Preview, preview, read_table
from merging.tasks.hub import hub_preview, hub_task
from merging.tasks.task import Task
from viz.panels.adapters.task_preview import ROLES, cut, preview_html, used_html
from viz.panels.kit.alert import alert

NONE = ""
OPTIONAL = ("pair", "split")
MOST_COLUMNS = 200
NAME = re.compile(r"\w[\w .()+-]{0,39}")
"""A task's name is a folder's name later."""
CONFIG = re.compile(r"\w[\w .+-]{0,99}")
Named = Mapping[str, Any]
Values = dict[str, Any]


@dataclass(frozen=True)
class Source:
    """Rows that can be looked at and read: ``look(named)`` and ``load(named, rows=)``; ``roles`` are the columns to
    choose.
    """

    name: str
    look: Callable[[Named], Preview]
    load: Callable[..., Task]
    roles: tuple[str, ...] = tuple(ROLES)


@dataclass
class TaskSession:
    """What one visitor is looking at."""

    source: Source | None = None
    found: Preview | None = None


class TaskHandlers:
    """The handlers; what belongs to a visitor is in the session that they are given.

    Parameters
    ----------
    lab : takes the tasks
    look, load : read data sets of the hub, as `merging.tasks.hub.hub_preview` and `hub_task`
    largest : bytes that a file may have
    """

    def __init__(
        self,
        lab: Lab,
        look: Callable[..., Preview] = hub_preview,
        load: Callable[..., Task] = hub_task,
        largest: int = LIMITS.table_bytes,
    ) -> None:
        self.lab, self.look, self.load, self.largest = lab, look, load, largest

    def file(self, session: TaskSession, path: str) -> Iterator[Values]:
        """Look through an uploaded file."""
        place = Path(path)
        yield {"note": _status(f"Looking through {place.name}.")}

        def look(named: Named) -> Preview:
            return preview(place, **named, max_bytes=self.largest)

        def load(named: Named, rows: int | None) -> Task:
            return read_table(place, **named, rows=rows, max_bytes=self.largest).task()

        yield self._first(session, Source(place.stem, look, load))

    def hub(self, session: TaskSession, name: str, config: str, splits: Mapping[str, str]) -> Iterator[Values]:
        """Load a data set of the hub and look through it."""
        try:
            told = (
                hub_name(name),
                _config(config),
                {ours: theirs.strip() for ours, theirs in splits.items() if theirs.strip()} or None,
            )
        except MergeError as error:
            yield self._nothing(session, error)
            return
        yield {"note": _status(f"Loading {told[0]} from the hub.")}

        def load(named: Named, rows: int | None) -> Task:
            return self.load(*told, **named, rows=rows)

        source = Source(
            told[1] or told[0].rsplit("/", 1)[-1], partial(self.look, *told), load, ("text", "pair", "label")
        )
        yield self._first(session, source)

    def again(self, session: TaskSession, named: Named) -> Values:
        """Look through the same rows with other columns."""
        if session.source is None or session.found is None:
            return {}
        try:
            session.found = session.source.look(_asked(session.source, named))
        except MergeError as error:
            wrong = replace(session.found, labels={}, splits={}, guessed=(), problem=str(error))
            return {"preview": preview_html(wrong), "note": ""}
        return {"preview": preview_html(session.found), "note": ""}

    def use(self, session: TaskSession, owner: str, named: Named, name: str, rows: float | None) -> Iterator[Values]:
        """Read the rows with these columns and offer them as a task to every adapter of ``owner``."""
        source, found = session.source, session.found
        try:
            if source is None or found is None:
                raise MergeError("Choose a file first, or look at a data set of the hub.")
            most, called = _most(rows, found), _called(name or suggested(source.name))
            known = self.lab.titles(owner)
            if sum(key.startswith(f"{owner}-") for key in known) >= LIMITS.own_tasks:
                raise MergeError(f"{LIMITS.own_tasks} tasks of yours are here already: reload the page to begin again.")
            yield {
                "note": _status(f"Reading {found.rows:,} rows: each is checked, duplicates go, the rest is divided.")
            }
            task = source.load(_asked(source, named), rows=most)
            free = next(one for one in _numbered(called) if f"{owner}-{one}" not in known)
            task = replace(task, name=free, title=free)
            self.lab.add(task, owner)
        except MergeError as error:
            yield {"note": alert(error)}
            return
        yield {"note": used_html(task, found.rows, sampled=most is not None and most < found.rows)}

    def _first(self, session: TaskSession, source: Source) -> Values:
        """Look at a new source, its columns guessed."""
        try:
            found = source.look(dict.fromkeys(source.roles))
            if len(found.columns) > MOST_COLUMNS:
                raise MergeError(
                    f"{found.name} has {len(found.columns):,} columns: keep those with texts and labels, "
                    f"{MOST_COLUMNS} at most."
                )
        except MergeError as error:
            return self._nothing(session, error)
        session.source, session.found = source, found
        columns = {role: _choices(found, role, role in source.roles) for role in ROLES}
        return {
            "note": "",
            "preview": preview_html(found),
            "columns": columns,
            "name": suggested(source.name),
            "open": True,
        }

    @staticmethod
    def _nothing(session: TaskSession, error: MergeError) -> Values:
        """Say why a source cannot be read; what was looked at before is gone, so that nobody takes it for this one."""
        session.source = session.found = None
        return {"note": alert(error), "preview": "", "open": False}


def hub_name(name: str) -> str:
    """Return ``name`` if it can only be a data set of the hub.

    Raises
    ------
    MergeError
        For what has not the form of an id, and for what `datasets` would take for something on this machine: a path, or
        one of its readers of local files (json, csv, pandas, ...). Nothing is opened.
    """
    name = name.strip()
    parts = BASE_ID.fullmatch(name)
    reader = name.isidentifier() and find_spec("datasets") and find_spec(f"datasets.packaged_modules.{name}")
    if parts is None or parts["revision"] or name.startswith("buckets/") or reader or Path(name).exists():
        said = f"{cut(name)} is no data set of the hub: its id" if name else "Give the id of a data set of the hub: it"
        raise MergeError(f"{said} has the form user/name or name.")
    return name


def suggested(name: str) -> str:
    """Return what a task may be called after its file or data set."""
    return re.sub(r"[^\w .()+-]+|^\W+", "_", PurePath(name).name)[:40].strip() or "task"


def _choices(found: Preview, role: str, asked: bool) -> Values:
    none = [("none", NONE)] if role in OPTIONAL else []
    chosen = getattr(found.chosen, role) or (NONE if none else None)
    return {
        "choices": [*none, *((cut(column), column) for column in found.columns if column)],
        "value": chosen,
        "visible": asked,
    }


def _asked(source: Source, named: Named) -> dict[str, str | None]:
    return {role: named[role] for role in source.roles}


def _config(config: str) -> str | None:
    config = config.strip()
    if config and not CONFIG.fullmatch(config):
        raise MergeError(
            f"{cut(config)} is no configuration of a data set: leave it empty, or give a name such as rte."
        )
    return config or None


def _most(rows: float | None, found: Preview) -> int | None:
    if not rows:
        if found.rows > LIMITS.table_rows:
            raise MergeError(
                f"{found.name} has {found.rows:,} rows: give “Rows at most”, up to {LIMITS.table_rows:,}, for a sample "
                "of them."
            )
        return None
    if not 2 <= rows <= LIMITS.table_rows:
        raise MergeError(f"Rows at most is {rows:g}: give a number from 2 to {LIMITS.table_rows:,}, or 0 for all.")
    return int(rows)


def _called(name: str) -> str:
    name = name.strip()
    if not NAME.fullmatch(name):
        raise MergeError(
            f"{cut(name)!r} cannot be a task’s name: begin with a letter, then letters, digits, spaces and . _ ( ) + "
            "-, 40 at most."
        )
    return name


def _numbered(name: str) -> Iterator[str]:
    yield name
    yield from (f"{name}{number}" for number in count(2))


def _status(text: str) -> str:
    return f'<p role="status">{escape(text)}</p>'
