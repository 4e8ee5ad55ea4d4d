"""Adapters as the command line names them: loaded, vouched for, and what one should know before merging them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..adapters.adapter import Adapter
    from ..adapters.fetch import Source


def loaded(sources: Sequence[str], base: str | None = None) -> list[Adapter]:
    """Load adapters; ``base`` vouches for what they record by name, while a recorded fingerprint still counts."""
    from ..adapters.adapter import Adapter

    return [vouched(Adapter.load(source, base=base_called(base)), base) for source in listed(sources)]


def loaded_alone(source: str, base: str | None = None) -> Adapter:
    """Load one adapter, see `loaded`."""
    return loaded([source], base)[0]


def listed(sources: Sequence[str]) -> list[Source]:
    """Return the sources with what the hub says of those that it has; print files and sizes on stderr, before any
    download.
    """
    from ..adapters.fetch import looked_up

    places = [(source, looked_up(source)) for source in sources]
    for _, repository in places:
        if repository is not None:
            files = ", ".join(f"{name} {size:,}" for name, size in repository.sizes.items())
            print(f"{repository.pinned}: {files} bytes", file=sys.stderr)
    return [repository or source for source, repository in places]


def vouched(adapter: Adapter, base: str | None) -> Adapter:
    """Return the adapter with the fingerprint that it records, whatever was said about its base's name."""
    return replace(adapter, base_fingerprint=adapter.metadata.base_fingerprint) if base else adapter


def base_called(base: str | None) -> str | None:
    """Return the name under which files know what --base says: a folder's whole path, or the published name."""
    if base is None:
        return None
    from ..models.embedded import base_name

    return str(Path(base).resolve()) if Path(base).is_dir() else base_name(base)


def say_warnings(adapters: Sequence[Adapter]) -> None:
    """Print on stderr what `mergescope inspect` warns of."""
    from ..diagnostics.compatibility import compatibility

    for warning in compatibility(adapters).warnings:
        print(f"warning: {warning}", file=sys.stderr)
