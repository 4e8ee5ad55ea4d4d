"""Files that appear complete or not at all: also where the process is killed, or the disk is full."""

from __future__ import annotations

import errno
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from ..errors import MergeError

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""The disk is full, a quota is, or a file may grow no more."""


@contextmanager
def writing(what: str) -> Iterator[None]:
    """Say in a sentence that there is no room to write ``what``.

    Raises
    ------
    MergeError
        Where the disk is full.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        # safetensors says it in words alone
        full = error.errno in NO_ROOM if isinstance(error, OSError) else "os error" in str(error)
        if not full:
            raise
        raise MergeError(
            f"There is no room on the disk to write {what}, and nothing of it was kept: free some, or try again later."
        ) from error


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a place to write a file to; it stands under its own name when this is left without an error.

    Raises
    ------
    MergeError
        Where the disk is full.
    """
    fresh = path.with_name(f".{secrets.token_hex(4)}-{path.name}")
    try:
        with writing(path.name):
            yield fresh
            fresh.replace(path)
    finally:
        with suppress(OSError):
            fresh.unlink(missing_ok=True)
