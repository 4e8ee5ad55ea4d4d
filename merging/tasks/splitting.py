"""Rows to train, validation and test by a hash of their text: a split depends neither on the order of the rows nor on a
generator.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from .embedded import normalise

SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")


class Row(NamedTuple):
    """One labelled text; ``pair`` is "" for tasks without pairs, rows with the same ``key`` are duplicates."""

    text: str
    label: int
    pair: str
    key: str


def row_of(text: str, label: int, pair: str = "") -> Row:
    """Return a row with its key."""
    return Row(text, label, pair, f"{normalise(text)}\n{normalise(pair)}")


def deduplicate(rows: Iterable[Row]) -> list[Row]:
    """Keep the first of equal rows; drop all of them when their labels differ, for then none can be trusted."""
    first: dict[str, Row] = {}
    conflicting = set()
    for row in rows:
        if first.setdefault(row.key, row).label != row.label:
            conflicting.add(row.key)
    return [row for key, row in first.items() if key not in conflicting]


def rank(row: Row, seed: int, purpose: str) -> bytes:
    """Return the hash that rows are ordered by; duplicates have the same."""
    return hashlib.blake2b(f"{seed} {purpose} {row.key}".encode("utf-8", "surrogatepass")).digest()


def stratified(rows: Sequence[Row], n_test: int, n_validation: int, seed: int) -> dict[str, list[Row]]:
    """Give each class its share of test and validation, at least one row; the rest is for training."""
    classes: dict[int, list[Row]] = {}
    for row in sorted(rows, key=lambda row: rank(row, seed, "split")):
        classes.setdefault(row.label, []).append(row)
    sizes = [len(members) for members in classes.values()]
    parts: dict[str, list[Row]] = {split: [] for split in SPLITS}
    for members, test, validation in zip(
        classes.values(), shares(sizes, n_test), shares(sizes, n_validation), strict=True
    ):
        parts["test"] += members[:test]
        parts["validation"] += members[test : test + validation]
        parts["train"] += members[test + validation :]
    return parts


def shares(sizes: Sequence[int], total: int) -> list[int]:
    """Divide `total` in proportion to `sizes` by the largest remainders, at least one each."""
    exact = [total * size / sum(sizes) for size in sizes]
    parts = [max(1, int(quota)) for quota in exact]
    by_remainder = sorted(range(len(sizes)), key=lambda i: parts[i] - exact[i])
    for i in by_remainder[: max(0, total - sum(parts))]:
        parts[i] += 1
    return parts


def completed(rows: Sequence[Row], splits: Sequence[str], seed: int = 0) -> list[str] | None:
    """Return one's own splits with what they lack; None if there is only one of them, which `stratified` then divides.

    Without a test split the validation rows are the test (as usual for GLUE, whose test labels are secret); without a
    validation split a fifth of each class of train (one row at least, if it has two) is taken for it, duplicates
    together. What is given as test stays as it is.
    """
    names = set(splits)
    if len(names) < 2:
        return None
    full = ["test" if "test" not in names and split == "validation" else split for split in splits]
    if "validation" in full or "train" not in full:
        return full
    classes: dict[int, set[bytes]] = {}
    ranks = [rank(row, seed, "split") for row in rows]
    for row, split, place in zip(rows, full, ranks, strict=True):
        if split == "train":
            classes.setdefault(row.label, set()).add(place)
    held_out = {
        label: set(sorted(places)[: max(len(places) // 5, min(1, len(places) - 1))])
        for label, places in classes.items()
    }
    # a text with two labels goes where its smaller label sends it, so that it is not on both sides
    moved = set().union(*held_out.values())
    return [
        "validation" if split == "train" and place in moved else split for split, place in zip(full, ranks, strict=True)
    ]


def sampled(rows: Sequence[Row], groups: Sequence[tuple[str, int]], total: int, seed: int) -> list[int]:
    """Return the places of ``total`` rows in their order: of every group its share and at least one, those of the
    smallest hash.
    """
    members: dict[tuple[str, int], list[int]] = {}
    for place, group in enumerate(groups):
        members.setdefault(group, []).append(place)
    picked: list[int] = []
    for places, share in zip(members.values(), shares([*map(len, members.values())], total), strict=True):
        picked += sorted(places, key=lambda place: (rank(rows[place], seed, "sample"), place))[:share]
    return sorted(picked)
