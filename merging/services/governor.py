"""Governor: what visitors and shared caches hold in memory and on disk, what has to make room, and what is refused.

Nothing that a visitor made is lost to make room: what goes is computed or loaded again when it is asked for. Files go
only with visitors who have closed their page.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil
from threading import RLock
from time import monotonic
from typing import Any, NoReturn, Protocol

from ..errors import MergeError
from .held import Buffers, buffers_of, size, together
from .limits import LIMITS, Limits
from .memory import trim

GUEST = "guest"
"""Begins the keys of visitors."""
CLOSED = "This page was closed for so long that what it held here is deleted: reload it."
PAGES = 10_000
"""Pages whose visitors have left that are remembered."""
GRACE = 60.0
"""Seconds for which a closed page may come back, after a broken connection, and find its files."""


def owner_of(name: str) -> str:
    """Return the key of the visitor whose own pool or task this is, or "" for what everybody shares."""
    owner, mark, _ = name.partition("-")
    return owner if mark and owner.startswith(GUEST) else ""


@dataclass(frozen=True, eq=False)
class Kept:
    """A value in a cache.

    Attributes
    ----------
    owner : key of a visitor, or "" for what everybody shares
    used : when it was used last, as `time.monotonic` counts
    drop : takes it out; None where it could not be had again
    """

    owner: str
    used: float
    buffers: Buffers
    drop: Callable[[], None] | None = None


class Holder(Protocol):
    """A visitor, as the governor sees it."""

    key: str
    shelf: list[Any]
    uploads: int

    def stop(self) -> None:
        """Stop what runs."""

    @property
    def nbytes(self) -> int:
        """Bytes of the visitor's files."""


@dataclass(frozen=True)
class Held:
    """What is held now, in bytes; ``pages`` are open."""

    pages: int
    memory: int
    shared: int
    visitors: dict[str, int]
    disk: int


class Governor:
    """Knows the visitors and what the caches keep.

    Parameters
    ----------
    kept : yields what the caches keep
    leave : makes a visitor leave, with all files
    """

    def __init__(
        self,
        kept: Callable[[], Iterator[Kept]],
        leave: Callable[[Any], None],
        limits: Limits = LIMITS,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.kept, self.leave, self.limits, self.clock = kept, leave, limits, clock
        self._visitors: dict[str, Holder] = {}
        self._seen: dict[str, float] = {}
        self._pages: dict[str, str] = {}
        self._gone: dict[str, float] = {}
        self._left: dict[str, None] = {}
        self._busy = Counter[str]()
        self._parting: dict[str, Holder] = {}
        self._lock = RLock()  # an abandoned generator may end, and tell, wherever memory is collected

    # -- who is here ---------------------------------------------------------------------------------------------------

    def welcome(self, visitor: Holder, page: str = "") -> None:
        """Note that a visitor is here, on a page whose session has this name; programs have no page."""
        with self._lock:
            self._visitors[visitor.key] = visitor
            if page:
                self._pages[page] = visitor.key
        self.touch(visitor.key)

    def touch(self, owner: str) -> None:
        """Note that a visitor does something."""
        if owner in self._visitors:
            self._seen[owner] = self.clock()
            self._gone.pop(owner, None)

    def closed(self, page: str) -> None:
        """Note that a page was closed: what its visitor holds in memory goes now, the files with the visitor."""
        owner = self._pages.get(page, "")
        if owner not in self._visitors:
            return
        self._gone[owner] = self.clock()
        for one in self.kept():
            if one.owner == owner and one.drop is not None:
                one.drop()
        trim()

    def forget(self, owner: str) -> None:
        """Forget a visitor who has left."""
        with self._lock:
            self._shut(owner)
            for known in (self._visitors, self._seen, self._gone):
                known.pop(owner, None)

    @contextmanager
    def at_work(self, page: str, *visitors: Holder) -> Iterator[None]:
        """Keep what visitors hold while something that a page has asked for is done with it.

        Raises
        ------
        MergeError
            If the page's visitor has left: what it shows is not here any more.
        """
        keys = {one.key for one in visitors}
        with self._lock:
            if page in self._left:
                raise MergeError(CLOSED)
            self._busy.update(keys)
        try:
            yield
        finally:
            with self._lock:
                for key in keys:
                    self._busy[key] -= 1
                    if not self._busy[key]:
                        del self._busy[key]
            self._let_go()

    @property
    def busy(self) -> bool:
        """Whether anything that a visitor has asked for is being done."""
        return bool(self._busy)

    def part(self, visitor: Holder) -> None:
        """Let a visitor leave, once nothing that was asked for is done any more."""
        visitor.stop()
        with self._lock:
            self._shut(visitor.key)
            self._parting[visitor.key] = visitor
        self._let_go()

    def _shut(self, owner: str) -> None:
        for page in [page for page, key in self._pages.items() if key == owner]:
            del self._pages[page]
            self._left[page] = None
            if len(self._left) > PAGES:
                del self._left[next(iter(self._left))]

    def _let_go(self) -> None:
        with self._lock:
            idle = [self._parting.pop(key) for key in [*self._parting] if not self._busy[key]]
        for visitor in idle:
            self.leave(visitor)

    def _idle(self, owner: str) -> bool:
        return owner in self._gone or self.clock() - self._seen.get(owner, self.clock()) >= self.limits.idle_seconds

    # -- what is held --------------------------------------------------------------------------------------------------

    def held(self) -> Held:
        """Count it."""
        every = [*self._everything()]
        owners = [*self._visitors.values()]
        return Held(
            pages=len(owners) - len(self._gone),
            memory=together(one.buffers for one in every),
            shared=together(one.buffers for one in every if not one.owner),
            visitors={owner.key: self._memory_of(owner.key, every) for owner in owners},
            disk=sum(owner.nbytes for owner in owners),
        )

    def _everything(self) -> Iterator[Kept]:
        yield from self.kept()
        for owner in [*self._visitors.values()]:
            yield Kept(owner.key, self._seen.get(owner.key, 0.0), buffers_of(owner.shelf))

    @staticmethod
    def _memory_of(owner: str, every: list[Kept]) -> int:
        """Return what only this visitor holds."""
        shared: Buffers = {}
        for one in every:
            shared |= one.buffers if not one.owner else {}
        mine: Buffers = {}
        for one in every:
            mine |= one.buffers if one.owner == owner else {}
        return sum(size for buffer, size in mine.items() if buffer not in shared)

    def make_room(self) -> int:
        """Drop what was not used for longest until the memory's limit is kept: first of what all share, then what idle
        visitors could have again; return the bytes that are held then.
        """
        every = [*self._everything()]
        holders = Counter(buffer for one in every for buffer in one.buffers)
        total = together(one.buffers for one in every)
        dropped = False
        for one in sorted(every, key=lambda one: (one.owner != "", one.used)):
            if total <= self.limits.memory_bytes:
                break
            if one.drop is None or (one.owner and not self._idle(one.owner)):
                continue
            one.drop()
            dropped = True
            for buffer, count in one.buffers.items():
                holders[buffer] -= 1
                total -= 0 if holders[buffer] else count
        if dropped:
            trim()
        return total

    # -- what is refused -----------------------------------------------------------------------------------------------

    def admit(self, owner: str, brings: int = 0) -> None:
        """Let a visitor bring so much, or begin what takes memory and disk.

        Raises
        ------
        MergeError
            With what is full and when to try again.
        """
        self.touch(owner)
        limits, visitor = self.limits, self._visitors.get(owner)
        if visitor is not None:
            if visitor.uploads + brings > limits.uploads:
                _own(f"{limits.uploads} adapters and tables are all that a visitor may bring here")
            if (mine := visitor.nbytes) >= limits.visitor_disk_bytes:
                _own(f"Your files take {size(mine)} of the {size(limits.visitor_disk_bytes)} that a visitor has here")
            if (mine := self._memory_of(owner, [*self._everything()])) >= limits.visitor_memory_bytes:
                _own(f"What you brought takes {size(mine)} of the {size(limits.visitor_memory_bytes)} of memory here")
        if (disk := self._disk()) >= limits.disk_bytes:
            _full(f"The visitors' files take all of the {size(limits.disk_bytes)}", self._until_files_go(), disk)
        if (memory := self.make_room()) > limits.memory_bytes:
            _full(f"The visitors use all of the {size(limits.memory_bytes)} of memory", self._until_idle(), memory)
        if visitor is not None:
            visitor.uploads += brings

    def _disk(self) -> int:
        """Return the bytes of all files, after those of closed pages have gone where that is needed."""
        for key, since in sorted(self._gone.items(), key=lambda gone: gone[1]):
            total = sum(visitor.nbytes for visitor in [*self._visitors.values()])
            if total < self.limits.disk_bytes:
                return total
            if self.clock() - since >= GRACE and key in self._visitors and not self._busy[key]:
                self.leave(self._visitors[key])
        return sum(visitor.nbytes for visitor in [*self._visitors.values()])

    def _until_files_go(self) -> float:
        """Return the seconds until the next closed page's files may go; without one, how long a visitor counts as
        active.
        """
        waits = [GRACE - (self.clock() - since) for since in self._gone.values()]
        return min(waits, default=float(self.limits.idle_seconds))

    def _until_idle(self) -> float:
        """Return the seconds until the first of the active visitors counts as idle."""
        waits = [self.limits.idle_seconds - (self.clock() - seen) for seen in self._seen.values()]
        return min((wait for wait in waits if wait > 0), default=float(self.limits.idle_seconds))


def _own(what: str) -> NoReturn:
    raise MergeError(f"{what}: download what you need, then reload the page and begin again, at once if you like.")


def _full(what: str, seconds: float, held: int) -> NoReturn:
    minutes = max(1, ceil(seconds / 60))
    again = "in a minute" if minutes == 1 else f"in {minutes} minutes"
    raise MergeError(f"{what} that this server has for them ({size(held)} are held): try again {again}.")
