"""How a server is, as plain values: load, what waits, memory and limits. No name of anybody or anything of theirs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from threading import Lock
from time import monotonic
from typing import Any

import gradio as gr
import psutil
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from merging.services.governor import Governor
from merging.services.limits import LIMITS

PATH = "/healthz"
FRESH = 2.0
"""Seconds for which an answer is given again: counting takes time, and anybody may ask."""
KINDS = (
    "evaluations",
    "readings",
    "tables",
    "trainings",
    "searches",
    "answers",
    "chats",
    "exports",
    "pushes",
    "loadings",
    "programs",
)


@dataclass
class Health:
    """Looks after one app; the page that it serves says so."""

    governor: Governor
    demo: gr.Blocks | None = None
    began: float = field(default_factory=monotonic)
    _last: tuple[float, dict[str, Any]] = (-FRESH, {})
    _lock: Lock = field(default_factory=Lock)

    def now(self) -> Mapping[str, Any]:
        """Return how the server is, at most `FRESH` seconds ago."""
        with self._lock:
            if monotonic() - self._last[0] >= FRESH:
                self._last = monotonic(), self._look()
            return self._last[1]

    def route(self) -> Route:
        """Return the route that answers programs."""

        def answer(request: Request) -> JSONResponse:
            return JSONResponse(dict(self.now()), headers={"Cache-Control": "no-store"})

        return Route(PATH, answer)

    def _look(self) -> dict[str, Any]:
        held, waiting = self.governor.held(), {kind: self._turns(kind) for kind in KINDS}
        full = held.memory > LIMITS.memory_bytes or held.disk >= LIMITS.disk_bytes
        full = full or sum(turns["waiting"] for turns in waiting.values()) >= LIMITS.waiting
        return {
            "status": "full" if full else "ok",
            "version": _version(),
            "uptime_seconds": round(monotonic() - self.began),
            "visitors": held.pages,
            "queue": waiting,
            "memory": {
                "held_bytes": held.memory,
                "shared_bytes": held.shared,
                "limit_bytes": LIMITS.memory_bytes,
                "process_bytes": psutil.Process().memory_info().rss,
            },
            "disk": {"held_bytes": held.disk, "limit_bytes": LIMITS.disk_bytes},
        }

    def _turns(self, kind: str) -> dict[str, int]:
        """Return what of a kind of work goes on and waits; Gradio makes a queue when it is used first."""
        queue = self.demo._queue.event_queue_per_concurrency_id.get(kind) if self.demo else None
        running, waiting = (queue.current_concurrency, len(queue.queue)) if queue else (0, 0)
        return {"running": running, "waiting": waiting, "at_once": getattr(LIMITS, kind)}


def _version() -> str:
    try:
        return version("mergescope")
    except PackageNotFoundError:  # a Space runs from the checkout
        return "checkout"
