"""Tasks from data sets of the Hugging Face hub, or from a folder in its layout, through the `datasets` library."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from itertools import count
from typing import Any

from .columns import choose, missing_sentence
from .errors import MergeError
from .labelled import MAX_ROWS, SPLIT_NAMES, Checked
from .tasks import Task

SplitChoice = str | Mapping[str, str]


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
    """Do the work of `Task.from_hub`; see there."""
    where = name if config is None else f"{name} ({config})"
    parts = _loaded(name, config, split, where)
    columns = [*dict.fromkeys(column for part in parts.values() for column in part.column_names)]
    chosen, _ = choose(columns, {"text": text, "pair": pair, "label": label, "split": ""}, where)
    if chosen.missing:
        raise MergeError(missing_sentence(chosen, columns, where))
    parts = {key: part for key, part in parts.items() if _labelled(part, chosen.label)}
    if not parts:
        raise MergeError(f"{where} has no labelled rows in its column {chosen.label!r}.")
    total = sum(map(len, parts.values()))
    if total > MAX_ROWS:
        first = next(iter(parts))
        raise MergeError(
            f'{where} has {total:,} rows, at most {MAX_ROWS:,} can be kept: choose a slice such as split="{first}[:{MAX_ROWS}]".'
        )
    names = _class_names(next(iter(parts.values())).features[chosen.label])
    checked = Checked(where, columns, chosen, names)
    for key, part in parts.items():
        target = _split_name(key, [*parts], where) if len(parts) > 1 else None
        cells = [
            list(part[column]) if column in (chosen.text, chosen.pair, chosen.label) else [None] * len(part) for column in columns
        ]
        if names is not None:
            place = columns.index(chosen.label)
            cells[place] = [_named(value, names) for value in cells[place]]
        for number, row in zip(count(1), zip(*cells, strict=True), strict=False):
            checked.add(f"row {number} of {key}", row, target)
    table = checked.table(name.rstrip("/").rsplit("/", 1)[-1] if config is None else config, f"{where} (Hugging Face data set)")
    return (table if rows is None else table.sample(rows, seed)).task(seed=seed)


def _loaded(name: str, config: str | None, split: SplitChoice | None, where: str) -> dict[str, Any]:
    """Return {split as it is called there, or as we were told to call it: data set}."""
    try:
        datasets = import_module("datasets")
    except ImportError as error:
        raise MergeError(f"Reading {where} needs the library datasets: pip install datasets.") from error
    if isinstance(split, Mapping):
        wrong = sorted(set(split) - {"train", "validation", "test"})
        if wrong or not split:
            raise MergeError(f"split = {dict(split)}: its keys are train, validation and test, its values the splits of {where}.")
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
            f'{where} has the splits {", ".join(there)}: say which are which with split={{"train": .., "test": ..}}, or choose one to divide.'
        )
    return split
