"""The section of the results that the DO-Merging experiment's tables make."""

from __future__ import annotations

from pathlib import Path


def markdown_do(folder: Path) -> str:
    """Return the section, from whatever tables there are."""
    return f"Tables: {', '.join(sorted(path.stem for path in folder.glob('do_*.csv')))}"
