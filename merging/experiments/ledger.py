"""Resumable tables: long CSVs that are whole after every call, which several processes may fill at the same time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout


class Ledger:
    """The tables ``<prefix>_<name>.csv`` of one experiment in a folder.

    A row is added once its work is done, so what is killed is done again and nothing else.
    """

    def __init__(self, folder: Path, prefix: str) -> None:
        self.folder, self.prefix = folder, prefix
        self._read: dict[str, tuple[int, pd.DataFrame]] = {}

    def path(self, name: str) -> Path:
        """Return where a table is kept."""
        return self.folder / f"{self.prefix}_{name}.csv"

    def table(self, name: str) -> pd.DataFrame:
        """Return a table as far as it is; empty, without columns, before its first row."""
        path = self.path(name)
        if not path.exists():
            return pd.DataFrame()
        changed = path.stat().st_mtime_ns
        if self._read.get(name, (0,))[0] != changed:
            self._read[name] = changed, pd.read_csv(path, dtype={"hits": str})
        return self._read[name][1]

    def rows(self, name: str, **key: Any) -> pd.DataFrame:
        """Return the rows of a table whose columns have the values of ``key``."""
        table = self.table(name)
        for column, value in key.items():
            if table.empty:
                break
            # a float may come back from a file one bit off
            table = table[np.isclose(table[column], value) if isinstance(value, float) else table[column] == value]
        return table

    def lacks(self, name: str, **key: Any) -> bool:
        """Tell whether no row of a table has these values."""
        return bool(self.rows(name, **key).empty)

    def append(self, name: str, rows: pd.DataFrame) -> None:
        """Add rows to a table."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self._lock(name)):
            old = self.table(name)
            temporary = self.path(name).with_suffix(".tmp")
            (rows if old.empty else pd.concat([old, rows])).to_csv(temporary, index=False)
            temporary.replace(self.path(name))

    def replace(self, name: str, rows: pd.DataFrame) -> None:
        """Write a table anew: what is made of the others."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self._lock(name)):
            temporary = self.path(name).with_suffix(".tmp")
            rows.to_csv(temporary, index=False)
            temporary.replace(self.path(name))

    @contextmanager
    def claim(self, work: str) -> Iterator[bool]:
        """Yield whether this process may do a piece of work: False while another one is at it. A process that dies lets
        go of it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self._lock(work.replace("/", "-")))
        try:
            lock.acquire(blocking=False)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def _lock(self, name: str) -> Path:
        return self.folder / f".{self.prefix}_{name}.lock"
