"""Labelled texts: what an adapter is trained on, what features are taken from, what accuracy is measured on.

Eight tasks come from pinned wheels (`merging.io.wheels`); any other data become a task with `Task.from_rows`. Rows are
cleaned, de-duplicated and put into train, validation and test by a hash of their text, so a split depends neither on
the order of a file nor on the version of a random number generator.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from numbers import Integral

from ..errors import MergeError
from ..io import wheels
from .embedded import SOURCES, clean
from .splitting import SPLITS, Row, deduplicate, rank, row_of, stratified

DEFAULT_TASKS = ("trec", "sms_spam", "movie", "bbc", "tweets3", "newspaper", "amazon", "tweets2")


@dataclass(frozen=True)
class Split:
    """Rows in random order, so a prefix is a fair sample.

    Attributes
    ----------
    texts : tuple of str
        One text per row.
    labels : tuple of int
        Indices into `Task.labels`, one per row.
    pairs : tuple of str or None
        The second texts of a task on pairs.
    """

    texts: tuple[str, ...] = field(repr=False)
    labels: tuple[int, ...] = field(repr=False)
    pairs: tuple[str, ...] | None = field(default=None, repr=False)

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.texts)

    def first(self, rows: int) -> Split:
        """Return the first ``rows`` rows, and one of each label that none of them has."""
        seen = set(self.labels[:rows])
        picked = list(range(min(rows, len(self))))
        for row in range(rows, len(self)):
            if self.labels[row] not in seen:
                seen.add(self.labels[row])
                picked.append(row)
        pairs = tuple(self.pairs[row] for row in picked) if self.pairs else None
        return Split(tuple(self.texts[row] for row in picked), tuple(self.labels[row] for row in picked), pairs)


@dataclass(frozen=True)
class Task:
    """A classification task with its rows.

    Attributes
    ----------
    name, title, description : str
        The key, a short name for figures, one sentence.
    labels : tuple of str
        The class names; the rows hold indices into it.
    train, validation, test : Split
        Disjoint after normalising the texts (see `normalise`) and each class in each of them, unless `from_rows` was
        given splits: these stay as they are.
    licence, citation, source : str
        Whose data these are and where they were read.
    max_length : int
        Tokens to keep of each text.
    """

    name: str
    title: str
    description: str
    labels: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    licence: str = ""
    citation: str = ""
    source: str = ""
    max_length: int = 64

    def shortened(self, max_length: int | None) -> int:
        """Return the task's own limit in tokens, or ``max_length`` if that is shorter."""
        return self.max_length if max_length is None else min(self.max_length, max_length)

    @classmethod
    def load(cls, name: str) -> Task:
        """Return one of the embedded tasks: trec, sms_spam, movie, bbc, tweets3, newspaper, amazon or tweets2.

        Raises
        ------
        MergeError
            If there is no such task; as `ResourceError` if its data cannot be fetched.
        """
        if name not in SOURCES:
            raise MergeError(
                f"There is no embedded task {name!r}: choose from {', '.join(SOURCES)}, or bring rows of your own "
                "with Task.from_rows."
            )
        return _load(name)

    @classmethod
    def from_rows(
        cls,
        name: str,
        texts: Sequence[str],
        labels: Sequence[str | int],
        pairs: Sequence[str] | None = None,
        splits: Sequence[str] | None = None,
        seed: int = 0,
        classes: Sequence[str] | None = None,
    ) -> Task:
        """Make a task of one's own rows.

        Parameters
        ----------
        name : str
            The key of the task.
        texts, labels : sequences of equal length
            One text and one class name (or whole number) per row.
        pairs : sequence of str, optional
            The second text of each row.
        splits : sequence of str, optional
            "train", "validation" or "test" per row, kept as given. Without it, duplicates are dropped (all of them when
            their labels differ) and 60 / 20 / 20 % of each class go to train, validation and test.
        seed : int
            Chooses the split and the order of the rows in it.
        classes : sequence of str, optional
            All class names in their order (a head's outputs follow it); without it, numbers by value and names by
            alphabet.

        Raises
        ------
        MergeError
            If a text is empty, a label is missing or not in ``classes``, lengths differ, a split name is unknown, there
            are fewer than two classes, or a class is absent from train or too small to be split.
        """
        columns = {"labels": labels, "pairs": pairs, "splits": splits}
        for column, given in columns.items():
            if given is not None and len(given) != len(texts):
                raise MergeError(f"Task {name!r} has {len(texts)} texts but {len(given)} {column}: give one per text.")
        for column, cells in (("text", texts), ("second text", () if pairs is None else pairs)):
            for i, cell in enumerate(cells):
                if not isinstance(cell, str) or not cell.strip():
                    raise MergeError(
                        f"Row {i} (counted from 0) of task {name!r} has no {column} (it is {cell!r}): fill it in or "
                        "drop the row."
                    )
        names, indices = _class_names(name, labels, classes)
        seconds = [""] * len(texts) if pairs is None else pairs
        rows = [row_of(text, label, pair) for text, label, pair in zip(texts, indices, seconds, strict=True)]
        if splits is None:
            rows = deduplicate(rows)
            counts = Counter(row.label for row in rows)
            for label, label_name in enumerate(names):
                if counts[label] < 3:
                    raise MergeError(
                        f"Class {label_name!r} of task {name!r} has {counts[label]} distinct rows, too few for train, "
                        "validation and test: add rows (3 at least), drop the class, or give splits."
                    )
            parts = stratified(rows, round(0.2 * len(rows)), round(0.2 * len(rows)), seed)
        else:
            parts = {split: [] for split in SPLITS}
            for i, (row, split) in enumerate(zip(rows, splits, strict=True)):
                if split not in parts:
                    raise MergeError(
                        f"Row {i} (counted from 0) of task {name!r} is in split {split!r}: call it one of "
                        f"{', '.join(SPLITS)}."
                    )
                parts[split].append(row)
            absent = set(range(len(names))) - {row.label for row in parts["train"]}
            if absent:
                raise MergeError(f"Class {names[min(absent)]!r} of task {name!r} has no row in train: put some there.")
        train, validation, test = (_shuffled(parts[split], seed, pairs is not None) for split in SPLITS)
        return cls(name, name, "Your own rows.", names, train, validation, test, source="rows given", max_length=128)


def fingerprint(task: Task) -> str:
    """Return the SHA-256 of the class names and of all rows in their order, so that changed data are noticed."""
    splits = [(part.texts, part.labels, part.pairs) for part in (task.train, task.validation, task.test)]
    return hashlib.sha256(json.dumps([task.labels, splits]).encode()).hexdigest()


def _shuffled(rows: Iterable[Row], seed: int, paired: bool) -> Split:
    ordered = sorted(rows, key=lambda row: rank(row, seed, "order"))
    pairs = tuple(row.pair for row in ordered) if paired else None
    return Split(tuple(row.text for row in ordered), tuple(row.label for row in ordered), pairs)


def _class_names(
    name: str, labels: Sequence[str | int], classes: Sequence[str] | None = None
) -> tuple[tuple[str, ...], list[int]]:
    """Return the class names (without ``classes``: numbers by value, others by alphabet), and the index of each row's
    class.
    """
    for row, label in enumerate(labels):
        if not isinstance(label, (str, Integral)) or not str(label).strip():
            missing = label is None or isinstance(label, str) or (isinstance(label, float) and math.isnan(label))
            problem = "has no label" if missing else "has a label that is neither a name nor a whole number"
            raise MergeError(
                f"Row {row} (counted from 0) of task {name!r} {problem} (it is {label!r}): fill it in or drop the row."
            )
    numbers = {str(label): int(label) for label in labels if isinstance(label, Integral)}
    names = tuple(sorted({str(label).strip() for label in labels}))
    if len(numbers) == len(names):
        names = tuple(sorted(names, key=numbers.__getitem__))
    if classes is not None:
        names = _in_given_order(name, names, classes)
    if len(names) < 2:
        raise MergeError(
            f"Task {name!r} has {len(names)} class ({', '.join(names)}): a classification needs at least two."
        )
    index = {label_name: i for i, label_name in enumerate(names)}
    return names, [index[str(label).strip()] for label in labels]


def _in_given_order(name: str, found: Sequence[str], classes: Sequence[str]) -> tuple[str, ...]:
    given = tuple(label.strip() for label in classes)
    if len(set(given)) < len(given) or not all(given):
        raise MergeError(f"The classes given for task {name!r} ({', '.join(given)}) are not all different names.")
    unknown = sorted(set(found) - set(given))
    if unknown:
        raise MergeError(
            f"Task {name!r} has the label {unknown[0]!r}, which is none of the classes given ({', '.join(given)})."
        )
    return given


def task_title(name: str) -> str:
    """Return the human name of an embedded task without reading its data; any other name is its own title."""
    return SOURCES[name].title if name in SOURCES else name


@lru_cache(maxsize=len(SOURCES))
def _load(name: str) -> Task:
    source, wheel = SOURCES[name], wheels.WHEELS[SOURCES[name].wheel]
    rows = deduplicate(row_of(clean(text), source.labels.index(label)) for text, label in source.read())
    n_test, n_validation = min(1000, round(0.2 * len(rows))), min(500, round(0.15 * len(rows)))
    parts = stratified(rows, n_test, n_validation, seed=0)
    train, validation, test = (_shuffled(parts[split], 0, False) for split in SPLITS)
    return Task(
        name,
        source.title,
        source.description,
        source.labels,
        train,
        validation,
        test,
        source.licence,
        source.citation,
        f"{wheel.name} {wheel.version} (Python package)",
        source.max_length,
    )
