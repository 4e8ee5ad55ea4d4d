"""Tasks from a visitor's own files (CSV, TSV, JSON lines), and a look at one before it becomes a task."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import MergeError
from .columns import Columns, choose, missing_sentence
from .labelled import Checked, Table, shown
from .records import MAX_BYTES, opened

FIRST_ROWS = 5


@dataclass(frozen=True)
class Preview:
    """What a file or a data set holds, as plain values for a person to look at before it becomes a task.

    Attributes
    ----------
    format, delimiter : see `merging.tasks.records.Records`; the format is "hub" for a data set of the hub
    columns : all there are
    first : the first rows, long cells cut
    rows : how many there are
    labels, splits : {label or split: rows}; empty where no column holds them, and of at most 500 labels
    chosen : which column holds what
    guessed : the roles in ``chosen`` that were guessed from names
    problem : the first thing that keeps the file from becoming a task, a sentence; "" if there is none
    """

    name: str
    format: str
    delimiter: str
    columns: tuple[str, ...]
    chosen: Columns
    guessed: tuple[str, ...]
    first: tuple[tuple[str, ...], ...] = ()
    rows: int = 0
    labels: dict[str, int] = field(default_factory=dict)
    splits: dict[str, int] = field(default_factory=dict)
    problem: str = ""


def read_table(
    path: str | Path,
    text: str | None = None,
    pair: str | None = None,
    label: str | None = None,
    format: str | None = None,
    split: str | None = None,
    classes: Sequence[str] | None = None,
    rows: int | None = None,
    seed: int = 0,
    max_bytes: int = MAX_BYTES,
) -> Table:
    """Read labelled texts from a CSV, TSV or JSON lines file; ``read_table(path).task()`` makes a task of them.

    Parameters
    ----------
    text, pair, label, split : columns with the texts, second texts, labels and train/validation/test; None guesses from
        the usual names, "" says that there is none
    format : see `merging.tasks.records.opened`
    classes : all labels in their order; without it, numbers by value and names by alphabet
    rows : keep a sample of so many, chosen by ``seed`` (see `Table.sample`)
    max_bytes : a larger file is refused before it is read

    Raises
    ------
    MergeError
        With one sentence: as `merging.tasks.records.opened`; for a column that is not there or cannot be guessed, an
        empty text, a missing or unknown label, an unknown split, fewer than 2 or more than 500 labels, more than 2
        million rows.
    """
    records = opened(path, format, max_bytes)
    chosen, _ = choose(records.columns, {"text": text, "label": label, "pair": pair, "split": split}, records.where)
    if chosen.missing:
        raise MergeError(missing_sentence(chosen, records.columns, records.where))
    checked = Checked(records.where, records.columns, chosen, classes)
    for line, cells in records.rows:
        checked.add(f"line {line}", cells)
    table = checked.table(Path(path).stem[:40] or "task", records.where)
    return table if rows is None else table.sample(rows, seed)


def preview(
    path: str | Path,
    text: str | None = None,
    pair: str | None = None,
    label: str | None = None,
    format: str | None = None,
    split: str | None = None,
    classes: Sequence[str] | None = None,
    max_bytes: int = MAX_BYTES,
) -> Preview:
    """Look through a file without keeping it; the arguments are those of `read_table`.

    Raises
    ------
    MergeError
        For what cannot be read at all and for a named column that is not there; what is wrong with the rows is in
        ``problem``.
    """
    records = opened(path, format, max_bytes)
    chosen, guessed = choose(
        records.columns, {"text": text, "label": label, "pair": pair, "split": split}, records.where
    )
    empty = Preview(records.where, records.format, records.delimiter, records.columns, chosen, guessed)
    return looked_through(empty, ((f"line {line}", cells, None) for line, cells in records.rows), classes)


def looked_through(
    empty: Preview, rows: Iterable[tuple[str, Sequence[Any], str | None]], classes: Sequence[str] | None = None
) -> Preview:
    """Return ``empty`` with what its rows hold; a row is (how messages call it, cells, its split where no column says
    so).
    """
    checked = Checked(empty.name, empty.columns, empty.chosen, classes, keep=False)
    unknown = empty.chosen.missing
    problems = [missing_sentence(empty.chosen, empty.columns, empty.name)] if unknown else []
    first: list[tuple[str, ...]] = []
    count = 0
    for place, cells, split in rows:
        count += 1
        if len(first) < FIRST_ROWS:
            first.append(tuple(shown(cell) for cell in cells))
        if unknown:
            continue
        try:
            checked.add(place, cells, split)
        except MergeError as error:
            problems = problems or [str(error)]
    try:
        checked.finish()
    except MergeError as error:
        problems = problems or [str(error)]
    found: dict[str, Any] = {"labels": dict(checked.labels), "splits": dict(checked.splits)}
    return replace(empty, first=tuple(first), rows=count, problem=problems[0] if problems else "", **found)
