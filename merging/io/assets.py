"""What ships beside the package: the ``assets`` folder, and the names of the adapters in it."""

from __future__ import annotations

import re
from pathlib import Path

from ..errors import MergeError

SHIPPED_ADAPTER = re.compile(r"shipped:([a-z0-9_]+)/([a-z0-9_]+)", re.ASCII)
"""What a recipe calls an adapter that ships, the same on every machine: shipped:POOL/TASK."""


def assets_folder() -> Path:
    """Return the ``assets`` folder of the checkout.

    Raises
    ------
    MergeError
        If the package was installed without it.
    """
    folder = Path(__file__).resolve().parents[2] / "assets"
    if not folder.is_dir():
        raise MergeError(
            "The assets folder is not beside the package: install Mergescope with pip install -e from a checkout."
        )
    return folder
