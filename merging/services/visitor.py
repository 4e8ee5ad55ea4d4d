"""Visitor: what one person with a page open holds here. When the page goes, all of it goes."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from .pools import Pools


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
    """

    key: str = field(default_factory=lambda: f"guest{secrets.token_hex(8)}")
    pools: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    work: list[Work] = field(default_factory=list)
    _folder: TemporaryDirectory[str] | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Visitor:
        """Return a new visitor: Gradio copies a state's first value for every page."""
        return Visitor()

    def folder(self, tab: str) -> Path:
        """Return where the files of one tab are; it goes with the visitor, or at the latest with the server."""
        if self._folder is None:
            self._folder = TemporaryDirectory(prefix="mergescope-", ignore_cleanup_errors=True)
        place = Path(self._folder.name) / tab
        place.mkdir(exist_ok=True)
        return place

    @property
    def choices(self) -> list[tuple[str, str]]:
        """The own pools of all tabs: (title, pool)."""
        return [pool for pools in self.pools.values() for pool in pools]

    def take(self, work: Iterable[Work]) -> None:
        """Make what the tabs have going this visitor's."""
        self.work = list(work)
        for one in self.work:
            one.visitor = self

    def leave(self, pools: Pools) -> None:
        """Stop what runs; forget pools, tasks and files."""
        for one in self.work:
            one.close()
        for _, pool in self.choices:
            pools.remove_pool(pool)
        pools.lab.forget(self.key)
        if self._folder is not None:
            self._folder.cleanup()
