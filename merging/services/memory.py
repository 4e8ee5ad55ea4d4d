"""Memory that is free goes back to the system: glibc keeps what each of its arenas has freed, and threads have an arena
each.
"""

from __future__ import annotations

import ctypes
from typing import Any

ARENA_MAX = -8
"""glibc's M_ARENA_MAX, see mallopt(3)."""


def limit_arenas(count: int = 2) -> bool:
    """Let all threads share so many arenas; tells whether the C library knows how. Call it before threads allocate."""
    mallopt = _function("mallopt")
    return mallopt is not None and bool(mallopt(ARENA_MAX, count))


def trim() -> bool:
    """Give the system back what is free; tells whether the C library knows how."""
    malloc_trim = _function("malloc_trim")
    if malloc_trim is None:
        return False
    malloc_trim(0)
    return True


def _function(name: str) -> Any:
    """Return a function of the C library, or None where it has no such one (macOS, musl, Windows)."""
    try:
        return getattr(ctypes.CDLL(None), name, None)
    except (OSError, TypeError):
        return None
