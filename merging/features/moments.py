"""Features: what enters each linear layer of the frozen base model, per task, and its second moments.

OSRM, RegMean and the interference diagnostics all start from H^T H of a layer's inputs. Three poolings exist because
the OSRM paper, its code and common sense differ: every token (the default), the mean of each text, the mean of the
task.
"""

from __future__ import annotations

import os
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import MergeError
from ..io.whole import writing

POOLINGS = ("token", "mean", "task_mean")
BLOCK = 50
"""Texts whose second moments are added up at a time, always in the same order: a prefix does not depend on what was
asked before.
"""
LARGEST_MOMENTS = 500_000_000
"""Bytes of second moments that are kept beside the running ones; the least recently used go."""


class Moments:
    """Second moments by key, the least recently used forgotten beyond a number of bytes; shared between threads."""

    def __init__(self, largest: int = LARGEST_MOMENTS) -> None:
        self.largest, self.nbytes = largest, 0
        self._kept: OrderedDict[tuple[Any, ...], Tensor] = OrderedDict()
        self._lock = Lock()

    def get(self, key: tuple[Any, ...], make: Callable[[], Tensor]) -> Tensor:
        """Return what is kept under a key, made now where nothing is."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        made = make()
        with self._lock:
            if key not in self._kept:
                self.nbytes += made.nbytes
            self._kept[key] = made
            while self.nbytes > self.largest and len(self._kept) > 1:
                self.nbytes -= self._kept.popitem(last=False)[1].nbytes
        return made

    def forget(self, owner: int) -> None:
        """Drop every key that begins with ``owner``."""
        with self._lock:
            for key in [key for key in self._kept if key[0] == owner]:
                self.nbytes -= self._kept.pop(key).nbytes


class TokenFile:
    """Token rows in an unnamed temporary file, float32: a smaller k is read from there, and memory holds none of
    them."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="mergescope-tokens-")  # noqa: SIM115 - lives as long as the object
        self.size = 0

    def reserve(self, rows: int, width: int) -> int:
        """Set room for (rows, width) aside; returns where it begins, in bytes."""
        begin, self.size = self.size, self.size + 4 * rows * width
        return begin

    def write(self, begin: int, rows: Tensor) -> None:
        """Write rows (n, width) from a byte on.

        Raises
        ------
        MergeError
            Where the disk is full.
        """
        left = memoryview(rows.contiguous().numpy().tobytes())
        with writing("what the layers see"):
            while left:  # a disk that fills up takes a part, and refuses the next
                count = os.pwrite(self._file.fileno(), left, begin)
                left, begin = left[count:], begin + count

    def read(self, begin: int, rows: int, width: int) -> Tensor:
        """Return rows (n, width) from a byte on."""
        raw = os.pread(self._file.fileno(), 4 * rows * width, begin)
        return torch.from_numpy(np.frombuffer(raw, dtype=np.float32).reshape(rows, width).copy())


@dataclass(frozen=True, eq=False)
class Rows:
    """Inputs of one layer for one task."""

    samples: Tensor  # (k, in) one mean per text
    moment: Tensor  # (in, in) sum over all tokens of h h^T
    count: int  # tokens in the moment
    begin: int  # of the first token row in the file of tokens
    ends: Tensor  # (k,) tokens up to the end of text i


@dataclass(frozen=True, eq=False)
class Features:
    """Layer inputs of the base model for several tasks; see `collect_features`.

    Attributes
    ----------
    tasks, modules : tuple of str
    k : int
        Largest number of texts of a task.
    """

    tasks: tuple[str, ...]
    modules: tuple[str, ...]
    rows: Mapping[tuple[str, str], Rows]
    shared: Mapping[str, str]  # module -> the module whose input it shares (query for key and value)
    limit: int | None = None  # texts per task that count, see `first`
    tokens: TokenFile | None = field(default=None, repr=False)  # None where only running moments were kept
    moments: Moments = field(default_factory=Moments, repr=False)

    @property
    def k(self) -> int:
        """Largest number of texts of a task."""
        return min(n for n in (self.limit, max(len(r.samples) for r in self.rows.values())) if n is not None)

    def _of(self, task: str, module: str) -> Rows:
        if task not in self.tasks:
            raise MergeError(f"There are no features of the task {task!r}; collected were {', '.join(self.tasks)}.")
        if module not in self.shared:
            raise MergeError(
                f"There are no features of the module {module!r}; collected were {', '.join(self.modules)}."
            )
        return self.rows[task, self.shared[module]]

    def samples(self, task: str, module: str) -> Tensor:
        """Return one masked mean per text, shape (k, in), float32."""
        return self._of(task, module).samples[: self.limit]

    def first(self, k: int) -> Features:
        """Return the features of the first ``k`` texts of each task, without running the model again."""
        if k < 1:
            raise MergeError(f"k = {k}: at least one text per task is needed.")
        return replace(self, limit=k)

    def renamed(self, names: Mapping[str, str]) -> Features:
        """Return the same features with the tasks called otherwise: {task: its other name}, all of them."""
        rows = {(names[task], module): found for (task, module), found in self.rows.items()}
        return replace(self, tasks=tuple(names[task] for task in self.tasks), rows=rows, moments=Moments())

    def second_moment(self, task: str, module: str, pooling: str = "token", k: int | None = None) -> Tensor:
        """Return H^T H / rows, uncentred, shape (in, in), float64.

        Parameters
        ----------
        pooling : "token" (a row per token), "mean" (a row per text) or "task_mean" (one row, as OSRM's official code)
        k : use only the first ``k`` texts; None = all

        Raises
        ------
        MergeError
            For an unknown task, module or pooling, for k < 1, and for a smaller k where only running moments were kept.
        """
        rows = self._of(task, module)
        if pooling not in POOLINGS:
            raise MergeError(f"Unknown pooling {pooling!r}: choose one of {', '.join(POOLINGS)}.")
        if k is not None and k < 1:
            raise MergeError(f"k = {k}: at least one text is needed.")
        k = min(n for n in (k, self.limit, len(rows.samples)) if n is not None)
        if pooling == "token":
            if k == len(rows.samples):
                return rows.moment / rows.count
            source = self.shared[module]
            return self.moments.get((id(self.rows), task, source, k), lambda: self._token_moment(rows, task, source, k))
        H = rows.samples[:k].double()
        H = H if pooling == "mean" else H.mean(0, keepdim=True)
        return H.T @ H / len(H)

    def _token_moment(self, rows: Rows, task: str, source: str, k: int) -> Tensor:
        total = self._blocks(rows, task, source, k // BLOCK) + self._gram(rows, k // BLOCK * BLOCK, k)
        return total / int(rows.ends[k - 1])

    def _blocks(self, rows: Rows, task: str, source: str, count: int) -> Tensor:
        """Return the sum of h h^T over the first ``count`` whole blocks of texts; a moving k costs no more than what it
        passes.
        """
        width = rows.samples.shape[1]
        if not count:
            return torch.zeros(width, width, dtype=torch.float64)

        def grown() -> Tensor:
            return self._blocks(rows, task, source, count - 1) + self._gram(rows, (count - 1) * BLOCK, count * BLOCK)

        return self.moments.get((id(self.rows), task, source, "blocks", count), grown)

    def _gram(self, rows: Rows, first: int, last: int) -> Tensor:
        """Return the sum of h h^T over the tokens of the texts from ``first`` up to ``last``, (in, in) float64."""
        if self.tokens is None:
            raise MergeError(
                "Only running moments were kept, so a smaller k cannot be taken: collect with keep_tokens=True."
            )
        width = rows.samples.shape[1]
        begin, end = (0 if text == 0 else int(rows.ends[text - 1]) for text in (first, last))
        H = self.tokens.read(rows.begin + 4 * width * begin, end - begin, width).double()
        return H.T @ H

    @property
    def nbytes(self) -> int:
        """Bytes of memory that stay taken, without `moments`; `tokens` are on disk."""
        return sum(rows.samples.nbytes + rows.moment.nbytes + rows.ends.nbytes for rows in self.rows.values())
