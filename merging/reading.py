"""Reading the tasks' texts once for everybody who needs their features, step by step, with its progress."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from threading import Lock

from .features import Features

READ_LENGTH = 128
"""Tokens of each text that the features of a merge are taken from."""
TEXTS = (100, 600)
"""Texts per task that are read at a time."""


def texts_for(k: int) -> int:
    """Return how many texts per task are read for a k: the smallest of `TEXTS` that holds it, so that a slider rarely reads."""
    return next((size for size in TEXTS if k <= size), TEXTS[-1])


@dataclass(frozen=True)
class Progress:
    """How far the work before an evaluation is; plain values, so that it can cross a process boundary.

    Attributes
    ----------
    what : "loading" (the base model), "reading" (texts, through it) or "merging" (modules)
    """

    what: str
    done: int
    total: int

    @property
    def sentence(self) -> str:
        """What goes on, for people."""
        if self.what == "loading":
            return "Loading the base model."
        return f"{'Reading texts' if self.what == 'reading' else 'Merging modules'}: {self.done} of {self.total}."


class Reading:
    """Features that are read step by step by whoever needs them.

    Every step is taken under a lock, so that sessions that need the same features share the work; one that is left alone half
    way goes on where it was, and one that fails starts again.
    """

    def __init__(self, start: Callable[[], Generator[tuple[int, int], None, Features]]) -> None:
        self.features: Features | None = None
        self._start = start
        self._steps: Generator[tuple[int, int], None, Features] | None = None
        self._lock = Lock()

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
