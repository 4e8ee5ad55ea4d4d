"""A cache of a function whose first argument is a pool (or a task): what belongs to one of them can be forgotten."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from functools import partial
from threading import Lock
from time import monotonic
from typing import Generic, ParamSpec, TypeVar

from .governor import Kept, owner_of
from .held import Buffers, buffers_of

P = ParamSpec("P")
T = TypeVar("T")
Key = tuple[Hashable, ...]


class PerPool(Generic[P, T]):
    """Return what ``function`` returned for the same arguments before; the least recently used go.

    Parameters
    ----------
    largest : how much is kept, in what ``size`` counts (by default each value as one); the last value is kept anyway
    """

    def __init__(self, function: Callable[P, T], largest: int, size: Callable[[T], int] = lambda value: 1) -> None:
        self.function, self.largest, self.size = function, largest, size
        self._kept: OrderedDict[Key, T] = OrderedDict()
        self._held: dict[Key, Buffers] = {}
        self._used: dict[Key, float] = {}
        self._computing: dict[Key, Lock] = {}
        self._lock = Lock()

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """Return the function's value; computed without the lock, so that a slow pool holds nobody else up, and once
        for all who ask for it at the same time.
        """
        key = (*args, *sorted(kwargs.items()))
        with self._lock:
            if key in self._kept:
                return self._known(key)
            computing = self._computing.setdefault(key, Lock())
        with computing:
            with self._lock:
                if key in self._kept:
                    return self._known(key)
            value = self.function(*args, **kwargs)
            held = buffers_of(value)
            with self._lock:
                self._kept[key], self._held[key], self._used[key] = value, held, monotonic()
                self._computing.pop(key, None)
                while len(self._kept) > 1 and sum(map(self.size, self._kept.values())) > self.largest:
                    self._remove(next(iter(self._kept)))
            return value

    def _known(self, key: Key) -> T:
        self._kept.move_to_end(key)
        self._used[key] = monotonic()
        return self._kept[key]

    def forget(self, pool: str) -> None:
        """Drop all that was computed of one pool."""
        with self._lock:
            for key in [key for key in self._kept if key[0] == pool]:
                self._remove(key)

    def kept(self) -> Iterator[Kept]:
        """Yield what is kept, for the governor."""
        with self._lock:
            held = [(key, self._used[key], self._held[key]) for key in self._kept]
        for key, used, buffers in held:
            yield Kept(owner_of(str(key[0])), used, buffers, partial(self.drop, key))

    def drop(self, key: Key) -> None:
        """Drop one value, if it is still there."""
        with self._lock:
            if key in self._kept:
                self._remove(key)

    def _remove(self, key: Key) -> None:
        del self._kept[key], self._held[key], self._used[key]
