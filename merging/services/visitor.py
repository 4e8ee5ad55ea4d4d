"""Visitor: what one person with a page open holds here. When the page goes, all of it goes."""

from __future__ import annotations

import os
import platform
import secrets
import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any, Protocol

import psutil

from ..io.whole import writing
from .governor import GUEST
from .pools import Pools

FOLDERS = f"mergescope-{blake2b(platform.node().encode(), digest_size=4).hexdigest()}-"
"""Begins the names of visitors' folders, with the process that made them behind it; other machines may share the disk.
"""


class Work(Protocol):
    """What a visitor has going on one tab."""

    visitor: Visitor

    def close(self) -> None:
        """Stop what runs."""


@dataclass(eq=False)
class Visitor:
    """One browser session.

    Attributes
    ----------
    key : nobody can guess it; names of the visitor's own tasks and pools begin with it
    pools : {tab: [(title, pool)]}, own sets of adapters by the tab that they were made on
    work : what the tabs have going
    shelf : the adapters that were brought along, see `merging.services.shelf.Brought`
    uploads : adapters and tables that were brought so far
    """

    key: str = field(default_factory=lambda: f"{GUEST}{secrets.token_hex(8)}")
    pools: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    work: list[Work] = field(default_factory=list)
    shelf: list[Any] = field(default_factory=list)
    uploads: int = 0
    _folder: TemporaryDirectory[str] | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Visitor:
        """Return a new visitor: Gradio copies a state's first value for every page."""
        return Visitor()

    def folder(self, tab: str) -> Path:
        """Return where the files of one tab are; it goes with the visitor, or at the latest with the server."""
        with writing("your files"):
            return self._place(tab)

    def _place(self, tab: str) -> Path:
        if self._folder is None:
            mine = f"{FOLDERS}{os.getpid()}-"  # says whose it was, see `clear_killed`
            self._folder = TemporaryDirectory(prefix=mine, ignore_cleanup_errors=True)
        place = Path(self._folder.name) / tab
        place.mkdir(exist_ok=True)
        return place

    @property
    def nbytes(self) -> int:
        """Bytes of the files."""
        return bytes_in(Path(self._folder.name)) if self._folder is not None else 0

    @property
    def choices(self) -> list[tuple[str, str]]:
        """The own pools of all tabs: (title, pool)."""
        return [pool for pools in self.pools.values() for pool in pools]

    def take(self, work: Iterable[Work]) -> None:
        """Make what the tabs have going this visitor's."""
        self.work = list(work)
        for one in self.work:
            one.visitor = self

    def stop(self) -> None:
        """Stop what runs."""
        for one in self.work:
            one.close()

    def leave(self, pools: Pools) -> None:
        """Stop what runs; forget pools, tasks and files."""
        self.stop()
        for _, pool in self.choices:
            pools.remove_pool(pool)
        pools.lab.forget(self.key)
        pools.governor.forget(self.key)
        if self._folder is not None:
            self._folder.cleanup()


def clear_killed() -> None:
    """Remove what visitors of servers that were killed have left on this machine."""
    for folder in Path(gettempdir()).glob(f"{FOLDERS}*"):
        process = folder.name.removeprefix(FOLDERS).partition("-")[0]
        if process.isdecimal() and not psutil.pid_exists(int(process)):
            shutil.rmtree(folder, ignore_errors=True)


def bytes_in(folder: Path) -> int:
    """Return the bytes of all files in a folder; some may go while they are counted."""
    total = 0
    for place, _, files in os.walk(folder):
        for file in files:
            with suppress(FileNotFoundError):
                total += (Path(place) / file).lstat().st_size
    return total
