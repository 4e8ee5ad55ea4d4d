"""What goes with every event: its visitor stays as long as it runs, and one who has left is refused.

And with every job, an event that waits for its turn: a line of JSON at its end (what kind, how long, how it ended,
whose; no text, no name of a file), and the memory that jobs have freed goes back to the system when the last has ended.
"""

import inspect
import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime
from functools import wraps
from hashlib import blake2b
from threading import RLock
from time import monotonic
from typing import Any

import gradio as gr
from gradio.context import LocalContext

from merging.errors import MergeError
from merging.services.governor import Governor
from merging.services.memory import trim

LOG = logging.getLogger("mergescope.jobs")
_SALT = os.urandom(16)
"""Of this process: nobody can tell a visitor of today from one of tomorrow."""
_LOCK, _RUNNING = RLock(), Counter[str]()


def log_jobs() -> None:
    """Write the lines to stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    LOG.addHandler(handler)
    LOG.setLevel(logging.INFO)
    LOG.propagate = False


def watch(demo: gr.Blocks, governor: Governor) -> None:
    """Watch all events of a page; what waits for its turn has a kind of work, see `viz.panels.kit.events.turns`."""
    for listener in demo.fns.values():
        if listener.fn is not None:
            kind = str(listener.concurrency_id)
            listener.fn = watched(listener.fn, governor, "" if kind.isdigit() else kind)


def watched(work: Callable[..., Any], governor: Governor, kind: str = "") -> Callable[..., Any]:
    """Return a function or generator that does the same and is watched, and is a job if it has a kind."""
    if inspect.isgeneratorfunction(work):

        @wraps(work)
        def steps(*given: Any, **named: Any) -> Iterator[Any]:
            with _at_work(governor, given), job(kind) if kind else nullcontext():
                yield from work(*given, **named)

        return steps

    @wraps(work)
    def once(*given: Any, **named: Any) -> Any:
        with _at_work(governor, given), job(kind) if kind else nullcontext():
            return work(*given, **named)

    return once


def _at_work(governor: Governor, given: tuple[Any, ...]) -> AbstractContextManager[None]:
    """Note that an event is at work, for the visitor whose sessions are among its values."""
    return governor.at_work(_page(), *(value.visitor for value in given if hasattr(value, "visitor")))


@contextmanager
def job(kind: str) -> Iterator[None]:
    """Log what is done within. Its page may have closed long before it noticed: nobody else gives back what it held."""
    with _LOCK:
        _RUNNING[kind] += 1
    began, outcome, visitor = monotonic(), "done", _visitor()
    try:
        yield
    except GeneratorExit:
        outcome = "stopped"
        raise
    except (MergeError, gr.Error):
        outcome = "refused"
        raise
    except BaseException as error:
        outcome = f"failed: {type(error).__name__}"
        raise
    finally:
        with _LOCK:
            _RUNNING[kind] -= 1
            last = not _RUNNING.total()
        if last:
            trim()
        line = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "kind": kind}
        LOG.info(json.dumps(line | {"seconds": round(monotonic() - began, 3), "outcome": outcome, "visitor": visitor}))


def _visitor() -> str:
    """Return a name for whoever asks, from which nothing can be told."""
    page = _page()
    return blake2b(page.encode(), key=_SALT, digest_size=6).hexdigest() if page else ""


def _page() -> str:
    """Return the name of the session of the page that asks, or ""."""
    return getattr(LocalContext.request.get(None), "session_hash", None) or ""
