"""Tasks from data sets of the Hugging Face hub, or from a folder in its layout, through the `datasets` library."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

from ..errors import MergeError
from .columns import Columns, choose, missing_sentence
from .files import FIRST_ROWS, Preview, looked_through
from .labelled import MAX_ROWS, SPLIT_NAMES, Checked, shown
from .task import Task

SplitChoice = str | Mapping[str, str]


@dataclass(frozen=True, eq=False)
class _Found:
    """A data set that was loaded: {split: its rows}, and which column holds what."""

    where: str
    parts: Mapping[str, Any]
    columns: tuple[str, ...]
    chosen: Columns
    guessed: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...] | None:
        """The names of the labels in their order, where the data set says them."""
        return _class_names(next(iter(self.parts.values())).features[self.chosen.label]) if self.chosen.label else None

    def rows(self) -> Iterator[tuple[str, Sequence[Any], str | None]]:
        """Yield (how messages call the row, its cells, its split); a cell is None unless its column is chosen."""
        used, names = {*vars(self.chosen).values()}, self.names
        for key, part in self.parts.items():
            target = _split_name(key, [*self.parts], self.where) if len(self.parts) > 1 else None
            cells = [list(part[column]) if column in used else [None] * len(part) for column in self.columns]
            if names is not None:
                place = self.columns.index(self.chosen.label)
                cells[place] = [_named(value, names) for value in cells[place]]
            for number, row in enumerate(zip(*cells, strict=True), 1):
                yield f"row {number} of {key}", row, target

    def first(self) -> tuple[tuple[str, ...], ...]:
        """Return the first rows, cells cut, pictures and lists left out."""
        datasets = import_module("datasets")
        part = next(iter(self.parts.values()))
        plain = [name for name, kind in part.features.items() if isinstance(kind, datasets.Value | datasets.ClassLabel)]
        cells = part.select_columns(plain)[:FIRST_ROWS]
        for name in plain:
            names = _class_names(part.features[name])
            cells[name] = [_named(value, names) for value in cells[name]] if names else cells[name]
        count = min(FIRST_ROWS, len(part))
        return tuple(tuple(shown(cells[c][row]) if c in cells else "…" for c in self.columns) for row in range(count))


def hub_task(
    name: str,
    config: str | None = None,
    split: SplitChoice | None = None,
    text: str | None = None,
    pair: str | None = None,
    label: str | None = None,
    rows: int | None = None,
    seed: int = 0,
) -> Task:
    """Read a data set of the Hugging Face hub, or a folder in its layout, with the library `datasets`; no code of
    theirs is run.

    Parameters
    ----------
    name, config : as `datasets.load_dataset` takes them ("nyu-mll/glue", "rte")
    split : one split to be divided as in `Task.from_rows`, or {"train": .., "validation": .., "test": ..} with splits
        of the data set (slices such as "validation[:50%]" too); by default those that it has. Splits without labels are
        left out, and `merging.tasks.splitting.completed` says what becomes of those that are missing then.
    text, pair, label : columns; None guesses from the usual names, "" says that there is none
    rows : keep a stratified sample of so many, chosen by ``seed``

    Raises
    ------
    MergeError
        With one sentence if the data set cannot be reached or found, for splits or columns that cannot be told apart,
        and as `merging.tasks.files.read_table` for its rows.
    """
    found = _found(name, config, split, {"text": text, "pair": pair, "label": label})
    if found.chosen.missing:
        raise MergeError(missing_sentence(found.chosen, found.columns, found.where))
    checked = Checked(found.where, found.columns, found.chosen, found.names)
    for place, cells, target in found.rows():
        checked.add(place, cells, target)
    called = name.rstrip("/").rsplit("/", 1)[-1] if config is None else config
    table = checked.table(called, f"{found.where} (Hugging Face data set)")
    return (table if rows is None else table.sample(rows, seed)).task(seed=seed)


def hub_preview(name: str, config: str | None, split: SplitChoice | None, named: Mapping[str, str | None]) -> Preview:
    """Look through a data set before it becomes a task, as `merging.tasks.files.preview` looks through a file.

    Parameters
    ----------
    name, config, split : as `hub_task` takes them
    named : {"text": .., "pair": .., "label": ..}, columns; None guesses, "" says that there is none

    Raises
    ------
    MergeError
        As `hub_task`, but for what is wrong with the rows, which is in ``problem``.
    """
    found = _found(name, config, split, named)
    empty = Preview(found.where, "hub", "", found.columns, found.chosen, found.guessed)
    return replace(looked_through(empty, found.rows(), found.names), first=found.first())


def _found(name: str, config: str | None, split: SplitChoice | None, named: Mapping[str, str | None]) -> _Found:
    where = name if config is None else f"{name} ({config})"
    parts = _loaded(name, config, split, where)
    columns = tuple(dict.fromkeys(column for part in parts.values() for column in part.column_names))
    chosen, guessed = choose(columns, {**named, "split": ""}, where)
    if chosen.label:
        parts = {key: part for key, part in parts.items() if _labelled(part, chosen.label)}
    if not parts:
        raise MergeError(f"{where} has no labelled rows in its column {chosen.label!r}.")
    total = sum(map(len, parts.values()))
    if total > MAX_ROWS:
        first = next(iter(parts))
        raise MergeError(
            f"{where} has {total:,} rows, at most {MAX_ROWS:,} can be kept: choose a slice such as "
            f'split="{first}[:{MAX_ROWS}]".'
        )
    return _Found(where, parts, columns, chosen, guessed)


def _loaded(name: str, config: str | None, split: SplitChoice | None, where: str) -> dict[str, Any]:
    """Return {split as it is called there, or as we were told to call it: data set}."""
    try:
        datasets = import_module("datasets")
    except ImportError as error:
        raise MergeError(f"Reading {where} needs the library datasets: pip install datasets.") from error
    if isinstance(split, Mapping):
        wrong = sorted(set(split) - {"train", "validation", "test"})
        if wrong or not split:
            raise MergeError(
                f"split = {dict(split)}: its keys are train, validation and test, its values the splits of {where}."
            )
    wanted = [*split.values()] if isinstance(split, Mapping) else split
    try:
        found = datasets.load_dataset(os.fspath(name), config, split=wanted)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise MergeError(f"The data set {where} could not be loaded: {reason[:300]}.") from error
    if isinstance(split, Mapping):
        return dict(zip(split, found, strict=True))
    return {split: found} if isinstance(split, str) else dict(found)


def _labelled(part: Any, label: str) -> bool:
    """Tell whether a split has labels: some are published without (GLUE's tests say -1)."""
    return label in part.column_names and not set(part.unique(label)) <= {None, -1}


def _class_names(feature: Any) -> tuple[str, ...] | None:
    return tuple(map(str, feature.names)) if hasattr(feature, "names") else None


def _named(value: Any, names: tuple[str, ...]) -> str | None:
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else None


def _split_name(split: str, there: list[str], where: str) -> str:
    if split not in SPLIT_NAMES:
        raise MergeError(
            f'{where} has the splits {", ".join(there)}: say which are which with split={{"train": .., "test": ..}}, '
            "or choose one to divide."
        )
    return split
