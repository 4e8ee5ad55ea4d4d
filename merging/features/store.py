"""One cache of features for everybody: texts are read once, step by step, and what is kept is bounded in bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from threading import Lock
from time import monotonic
from typing import Any

from torch import nn

from ..errors import MergeError
from ..models.layers import target_names, working_copy
from ..tasks.task import Task
from .moments import Features, Moments
from .reading import reading_features

TEXTS = (100, 600)
"""Texts per task that are read at a time."""
LARGEST = 800_000_000
"""Bytes of features that are kept in memory, beside `merging.features.moments.Moments`; the least recently used go."""
BaseOf = Callable[[str, str], tuple[nn.Module, Any]]
"""(source, dtype) -> (model, tokenizer), see `merging.models.load.load_base`."""


@dataclass(frozen=True)
class TextsOf:
    """Whose inputs are read, and by which base.

    Attributes
    ----------
    base, dtype : see `merging.models.load.load_base`
    tasks : names of tasks
    modules : last parts of the names of the layers, or whole names
    max_length : tokens of each text
    """

    tasks: tuple[str, ...]
    modules: tuple[str, ...]
    base: str = "minilm"
    dtype: str = "float32"
    max_length: int = 128


class FeatureStore:
    """Features by `TextsOf`, shared by all sessions.

    Parameters
    ----------
    base : returns a base on the CPU that nobody changes
    task : returns a task by its name
    """

    def __init__(self, base: BaseOf, task: Callable[[str], Task], largest: int = LARGEST) -> None:
        self.base, self.task, self.largest = base, task, largest
        self.moments = Moments()
        self._readings: OrderedDict[tuple[TextsOf, int], _Reading] = OrderedDict()
        self._lock = Lock()

    def ready(self, texts: TextsOf, k: int) -> bool:
        """Tell whether the first ``k`` texts of each task have been read."""
        reading = self._readings.get((texts, texts_for(k)))
        return reading is not None and reading.features is not None

    def reading(self, texts: TextsOf, k: int) -> Iterator[tuple[int, int]]:
        """Read what is lacking; yields (texts read, texts to read).

        Sessions that need the same texts share the work; one that is left alone half way goes on where it was.
        """
        reading = self._reading(texts, k)
        while (step := reading.step()) is not None:
            yield step
        self._make_room()

    def features(self, texts: TextsOf, k: int) -> Features:
        """Return the features of the first ``k`` texts of each task, read now if nobody has."""
        reading = self._reading(texts, k)
        while reading.features is None:
            reading.step()
        self._make_room()
        return reading.features.first(k)

    def forget(self, tasks: Iterable[str]) -> None:
        """Drop all that was read of any of these tasks."""
        gone = set(tasks)
        with self._lock:
            for key in [key for key in self._readings if gone & set(key[0].tasks)]:
                self._drop(key)

    @property
    def nbytes(self) -> int:
        """Bytes that are kept in memory, moments included."""
        return self.moments.nbytes + sum(reading.nbytes for reading in list(self._readings.values()))

    def kept(self) -> Iterator[tuple[tuple[TextsOf, int], float, Features]]:
        """Yield (key for `drop`, when it was used last as `time.monotonic` counts, features) of what has been read."""
        for key, reading in [*self._readings.items()]:
            if reading.features is not None:
                yield key, reading.used, reading.features

    def drop(self, key: tuple[TextsOf, int]) -> None:
        """Drop what was read, if it is still there."""
        with self._lock:
            if key in self._readings:
                self._drop(key)

    def _reading(self, texts: TextsOf, k: int) -> _Reading:
        key = (texts, texts_for(k))
        with self._lock:
            if key not in self._readings:
                self._readings[key] = _Reading(lambda: self._start(*key))
            self._readings.move_to_end(key)
            self._readings[key].used = monotonic()
            return self._readings[key]

    def _start(self, texts: TextsOf, size: int) -> Generator[tuple[int, int], None, Features]:
        model, tokenizer = self.base(texts.base, texts.dtype)
        rows = {name: self.task(name).train.texts[:size] for name in texts.tasks}
        for name, some in rows.items():
            if not some:
                raise MergeError(
                    f"The task {self.task(name).title} has no training texts to read, all its rows are test rows: "
                    "choose what needs no texts, or bring training rows too."
                )
        # a copy to hang hooks on, which shares every weight with the base
        own = working_copy(model, ())
        modules = target_names(model, texts.modules)
        return reading_features(
            own, tokenizer, rows, size, modules, texts.max_length, moments=self.moments, largest=self.largest
        )

    def _make_room(self) -> None:
        """Drop the least recently used, but the newest stays."""
        with self._lock:
            while len(self._readings) > 1 and sum(reading.nbytes for reading in self._readings.values()) > self.largest:
                self._drop(next(iter(self._readings)))

    def _drop(self, key: tuple[TextsOf, int]) -> None:
        features = self._readings.pop(key).features
        if features is not None:
            self.moments.forget(id(features.rows))


def texts_for(k: int) -> int:
    """Return how many texts per task are read for a k: the smallest of `TEXTS` that holds it, so that a slider rarely
    reads.
    """
    return next((size for size in TEXTS if k <= size), TEXTS[-1])


class _Reading:
    """Features that are read step by step by whoever needs them; one that fails starts again."""

    def __init__(self, start: Callable[[], Generator[tuple[int, int], None, Features]]) -> None:
        self.features: Features | None = None
        self.used = monotonic()
        self._start = start
        self._steps: Generator[tuple[int, int], None, Features] | None = None
        self._lock = Lock()

    @property
    def nbytes(self) -> int:
        """Bytes that stay taken once all is read."""
        return self.features.nbytes if self.features is not None else 0

    def step(self) -> tuple[int, int] | None:
        """Read one more batch and return (texts read, texts to read); None when all are read."""
        with self._lock:
            if self.features is not None:
                return None
            try:
                self._steps = self._steps or self._start()
                return next(self._steps)
            except StopIteration as finished:
                self.features = finished.value
            except BaseException:
                self._steps = None
                raise
            self._steps = None
            return None
