"""Labelled rows from anywhere, checked one by one: nothing is corrected, what is wrong is named by its place."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import MergeError
from .columns import Columns
from .splitting import Row, completed, row_of, sampled
from .task import Task

MAX_ROWS = 2_000_000
MAX_LABELS = 500
LONGEST_CELL = 200
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev", "development"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}


@dataclass(frozen=True, eq=False)
class Table:
    """Labelled rows of a file or a data set, checked one by one.

    Attributes
    ----------
    texts, labels, pairs, splits : one per row; the latter two may be None
    classes : the names of the labels in their order
    source : where they were read
    """

    name: str
    texts: Sequence[str] = field(repr=False)
    labels: Sequence[str] = field(repr=False)
    classes: tuple[str, ...]
    pairs: Sequence[str] | None = field(default=None, repr=False)
    splits: Sequence[str] | None = field(default=None, repr=False)
    source: str = ""

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.texts)

    def sample(self, rows: int, seed: int = 0) -> Table:
        """Return ``rows`` of the rows in their order, of each label in each split its share and at least one, chosen by
        hash.
        """
        if rows < 1:
            raise MergeError(f"rows = {rows}: a sample has at least one row.")
        if rows >= len(self):
            return self
        groups = [*zip(self.splits or [""] * len(self), map(self.classes.index, self.labels), strict=True)]
        places = sampled(self._rows(), groups, rows, seed)
        columns = {"texts": self.texts, "labels": self.labels, "pairs": self.pairs, "splits": self.splits}
        kept = {key: None if values is None else [values[place] for place in places] for key, values in columns.items()}
        return replace(self, **kept)  # type: ignore[arg-type]

    def task(self, name: str = "", seed: int = 0) -> Task:
        """Return the rows as a task, called ``name`` or as the file; `merging.tasks.splitting.completed` supplies
        splits that are missing.

        Raises
        ------
        MergeError
            As `Task.from_rows`.
        """
        splits = completed(self._rows(), self.splits, seed) if self.splits else None
        task = Task.from_rows(name or self.name, self.texts, self.labels, self.pairs, splits, seed, self.classes)
        return replace(task, source=self.source)

    def test_task(self, name: str = "", seed: int = 0) -> Task:
        """Return the rows as a task of which all are test rows, whatever a split column says: nothing can be trained
        or fitted on it.

        Raises
        ------
        MergeError
            As `Task.from_rows`.
        """
        splits = ["train"] * len(self)
        whole = Task.from_rows(name or self.name, self.texts, self.labels, self.pairs, splits, seed, self.classes)
        return replace(whole, train=whole.validation, test=whole.train, source=self.source)

    def _rows(self) -> list[Row]:
        pairs = self.pairs or [""] * len(self)
        return [
            row_of(text, self.classes.index(label), pair)
            for text, label, pair in zip(self.texts, self.labels, pairs, strict=True)
        ]


class Checked:
    """Rows that are checked as they come, counted, and kept unless told otherwise.

    Attributes
    ----------
    labels, splits : Counter
    """

    def __init__(
        self,
        where: str,
        columns: Sequence[str],
        chosen: Columns,
        classes: Sequence[str] | None = None,
        keep: bool = True,
    ) -> None:
        self.where, self.chosen, self.keep = where, chosen, keep
        self.classes = None if classes is None else dict.fromkeys(classes)
        self.labels: Counter[str] = Counter()
        self.splits: Counter[str] = Counter()
        self._place = {role: columns.index(column) for role, column in vars(chosen).items() if column}
        self._kept: dict[str, list[str]] = {role: [] for role in self._place}
        self._same: dict[str, str] = {}  # one string per label and split, not one per row

    def add(self, place: str, cells: Sequence[Any], split: str | None = None) -> None:
        """Check one row; ``place`` is how messages call it, ``split`` the one it is in where no column says so.

        Raises
        ------
        MergeError
            With a sentence that names the place.
        """
        row = {role: cells[index] for role, index in self._place.items()}
        for role, what in (("text", "text"), ("pair", "second text")):
            if role in row:
                self._check_text(place, what, row[role])
        row["label"] = self._label(place, row["label"])
        if "split" in row or split is not None:
            row["split"] = self._split(place, row["split"] if split is None else split)
        self.labels[row["label"]] += 1
        if len(self.labels) > MAX_LABELS:
            del self.labels[row["label"]]
            raise MergeError(
                f"{self.where}: the column {self.chosen.label!r} has more than {MAX_LABELS} different labels; it does "
                "not hold classes."
            )
        if self.keep:
            if len(self._kept["text"]) >= MAX_ROWS:
                raise MergeError(f"{self.where} has more than {MAX_ROWS:,} rows: take a part of it.")
            for role, value in row.items():
                self._kept.setdefault(role, []).append(value)

    def finish(self) -> None:
        """Raise MergeError unless there are two labels at least."""
        if len(self.labels) < 2:
            found = f"only the label {next(iter(self.labels))!r}" if self.labels else "no row"
            raise MergeError(f"{self.where} has {found}: a classification needs at least two labels.")

    def table(self, name: str, source: str) -> Table:
        """Return the rows that were kept."""
        self.finish()
        classes = in_order(self.labels) if self.classes is None else tuple(self.classes)
        kept = self._kept
        return Table(name, kept["text"], kept["label"], classes, kept.get("pair"), kept.get("split"), source)

    def _check_text(self, place: str, what: str, value: Any) -> None:
        if not isinstance(value, str) or not value.strip():
            raise MergeError(
                f"{self.where}: {place} has no {what} (it is {shown(value)!r}); fill it in or drop the row."
            )
        try:
            value.encode()
        except UnicodeEncodeError as error:  # JSON may escape what no text can hold
            raise MergeError(
                f"{self.where}: {place} has half of a surrogate pair in its {what}, which is no character."
            ) from error

    def _label(self, place: str, value: Any) -> str:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if (
            value is None
            or (isinstance(value, float) and math.isnan(value))
            or (isinstance(value, str) and not value.strip())
        ):
            raise MergeError(f"{self.where}: {place} has no label (it is {value!r}); fill it in or drop the row.")
        if not isinstance(value, str | int):
            raise MergeError(
                f"{self.where}: {place} has a label that is neither a name nor a whole number (it is {shown(value)})."
            )
        label = str(value).strip()
        if self.classes is not None and label not in self.classes:
            raise MergeError(
                f"{self.where}: {place} has the label {label!r}, which is none of {', '.join(self.classes)}."
            )
        return self._same.setdefault(label, label)

    def _split(self, place: str, value: Any) -> str:
        split = SPLIT_NAMES.get(str(value).strip().lower())
        if split is None:
            raise MergeError(
                f"{self.where}: {place} is in split {shown(value)!r}; call it train, validation or test, or say "
                'split="" to ignore the column.'
            )
        self.splits[split] += 1
        return split


def in_order(labels: Iterable[str]) -> tuple[str, ...]:
    """Return labels sorted, whole numbers by value and anything else by alphabet."""
    names = sorted(labels)
    whole = all(name.removeprefix("-").isdecimal() and str(int(name)) == name for name in names)
    return tuple(sorted(names, key=int) if whole else names)


def shown(cell: Any) -> str:
    """Return a cell as a short text."""
    text = "" if cell is None else str(cell)
    return text if len(text) <= LONGEST_CELL else text[: LONGEST_CELL - 1] + "…"
