"""A cache of a function whose first argument is a pool (or a task): what belongs to one of them can be forgotten."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Generic, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class PerPool(Generic[P, T]):
    """Return what ``function`` returned for the same arguments before; the least recently used go.

    Parameters
    ----------
    largest : how much is kept, in what ``size`` counts (by default each value as one); the last value is kept anyway
    """

    def __init__(self, function: Callable[P, T], largest: int, size: Callable[[T], int] = lambda value: 1) -> None:
        self.function, self.largest, self.size = function, largest, size
        self._kept: OrderedDict[tuple[Hashable, ...], T] = OrderedDict()
        self._lock = Lock()

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """Return the function's value; computed without the lock, so that a slow pool holds nobody else up."""
        key = (*args, *sorted(kwargs.items()))
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        value = self.function(*args, **kwargs)
        with self._lock:
            self._kept[key] = value
            while len(self._kept) > 1 and sum(map(self.size, self._kept.values())) > self.largest:
                self._kept.popitem(last=False)
        return value

    def forget(self, pool: str) -> None:
        """Drop all that was computed of one pool."""
        with self._lock:
            for key in [key for key in self._kept if key[0] == pool]:
                del self._kept[key]
