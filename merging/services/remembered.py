"""What was measured here once and is the same for everybody: accuracies of merges of the shipped pools."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from threading import Lock

from ..evaluation.accuracy import Estimate, estimate
from .limits import LIMITS
from .settings import Settings


class Remembered:
    """Accuracies by merge, shared by all visitors; the least recently used go.

    Parameters
    ----------
    largest : bytes that are kept, a byte a row
    """

    def __init__(self, largest: int = LIMITS.result_bytes) -> None:
        self.largest = largest
        self._marks: OrderedDict[Settings, tuple[int, dict[str, str]]] = OrderedDict()
        self._lock = Lock()

    def of(self, settings: Settings, limit: int) -> list[Estimate]:
        """Return a merge's accuracy on the first ``limit`` rows of each task; nothing where it was not measured."""
        key = settings.canonical()
        with self._lock:
            measured, marks = self._marks.get(key, (0, {}))
            if measured < limit:
                return []
            self._marks.move_to_end(key)
        return [estimate(task, rows[:limit]) for task, rows in marks.items()]

    def take(self, settings: Settings, limit: int, estimates: Iterable[Estimate]) -> None:
        """Keep an evaluation on ``limit`` rows of each task, if it came to its end."""
        marks = {one.task: one.marks for one in estimates}
        if not marks or any("." in rows for rows in marks.values()):
            return
        key = settings.canonical()
        with self._lock:
            if self._marks.get(key, (0, {}))[0] <= limit:
                self._marks[key] = limit, marks
            self._marks.move_to_end(key)
            while self.nbytes > self.largest and self._marks:
                self._marks.popitem(last=False)

    @property
    def nbytes(self) -> int:
        """Bytes that are kept."""
        return sum(len(rows) for _, marks in self._marks.values() for rows in marks.values())
