"""What goes with every job: a line of JSON at its end (what kind, how long, how it ended, whose; no text, no name of a
file), and the memory that jobs have freed goes back to the system when the last has ended.
"""

import inspect
import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import wraps
from hashlib import blake2b
from threading import RLock
from time import monotonic
from typing import Any

import gradio as gr
from gradio.context import LocalContext

from merging.errors import MergeError
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


def watch(demo: gr.Blocks) -> None:
    """Log all that waits for its turn by the kind of its work, see `viz.panels.kit.events.turns`."""
    for listener in demo.fns.values():
        if listener.fn is not None and not str(listener.concurrency_id).isdigit():
            listener.fn = logged(str(listener.concurrency_id), listener.fn)


def logged(kind: str, work: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function or generator that does the same and is logged."""
    if inspect.isgeneratorfunction(work):

        @wraps(work)
        def steps(*given: Any, **named: Any) -> Iterator[Any]:
            with job(kind):
                yield from work(*given, **named)

        return steps

    @wraps(work)
    def once(*given: Any, **named: Any) -> Any:
        with job(kind):
            return work(*given, **named)

    return once


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
    request = LocalContext.request.get(None)
    session = getattr(request, "session_hash", None)
    return blake2b(str(session).encode(), key=_SALT, digest_size=6).hexdigest() if session else ""
