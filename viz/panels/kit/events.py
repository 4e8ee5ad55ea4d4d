"""How events are sent, and how running work is drawn from time to time."""

from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from contextvars import ContextVar
from threading import Condition
from time import monotonic
from typing import Any, TypeVar

from merging.services.limits import LIMITS

Step = TypeVar("Step")

QUIET: dict[str, Any] = {
    "show_progress": "hidden",
    # else every event's progress is told to all components that any event has ever had as an output
    "show_progress_on": [],
    "api_visibility": "private",
    "trigger_mode": "always_last",
}
"""Of an event that shows no spinner, is no endpoint, and of several waiting ones makes only the last."""
NOW = QUIET | {"queue": False}
"""Of one that does not wait behind running work."""


DRAWING = 0.25
"""Share of the time that running work may take for being drawn."""


CROWDED = f"{LIMITS.waiting:,} pieces of work wait here already, and no more may: try again in a minute."
"""Why an event that was to wait was refused."""


def turns(work: str, shown: Any = None) -> dict[str, Any]:
    """Let so many events of a kind of work, a name in `Limits`, go on at once; the others wait for their turn.

    Parameters
    ----------
    shown : the component that says so meanwhile, with the place in the queue (assets/css/server.css)
    """
    place = {} if shown is None else {"show_progress": "minimal", "show_progress_on": shown}
    return {"concurrency_id": work, "concurrency_limit": getattr(LIMITS, work)} | place


PATIENCE = 1.0
"""Seconds that a step of running work waits at most for what is answered at once."""
_CHANGED, _ANSWERING = Condition(), [0]
_AT_ONCE = ContextVar("at_once", default=False)


@contextmanager
def answering() -> Iterator[None]:
    """Note that something is answered at once (a moved slider, an opened page): running work lets it pass."""
    with _CHANGED:
        _ANSWERING[0] += 1
    token = _AT_ONCE.set(True)
    try:
        yield
    finally:
        _AT_ONCE.reset(token)
        with _CHANGED:
            _ANSWERING[0] -= 1
            _CHANGED.notify_all()


def let_pass() -> None:
    """Wait until nothing is answered at once, or `PATIENCE` is over; what is answered at once does not wait itself."""
    if not _AT_ONCE.get():
        with _CHANGED:
            _CHANGED.wait_for(lambda: not _ANSWERING[0], PATIENCE)


def paced(steps: Iterator[Step], pause: float) -> Generator[tuple[Step, bool], None, None]:
    """Yield every step, and whether it is time to draw: ``pause`` seconds after the last time that it was, or longer
    where drawing takes long, so that on a busy server it never takes more than a share of the work's time.

    The steps are closed with this generator, so work stops where nobody takes its steps any more; before each, what
    visitors do with their hands comes first.
    """
    drawn, took = -pause, 0.0
    with closing(steps):  # type: ignore[type-var]
        for step in steps:
            let_pass()
            if due := monotonic() - drawn > max(pause, took / DRAWING):
                drawn = monotonic()
            yield step, due
            if due:
                took = monotonic() - drawn
