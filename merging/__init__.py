"""Mergescope's core: exact LoRA merging, diagnosis and evaluation; tensors in, tensors out.

Names are loaded when they are first used, so that ``import merging`` and the command line's help stay quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import Cancelled, MergeError, ResourceError

if TYPE_CHECKING:
    from .adapter import Adapter, Head
    from .engine import Merged, merge
    from .evaluation import Estimate, evaluate
    from .features import Features, collect_features
    from .lowrank import LowRank
    from .methods import METHODS
    from .plugins import PLUGINS, Decouple, Orthogonalize, SoftOSRM
    from .pool import CompatibilityReport, compatibility
    from .recipe import Recipe
    from .tasks import Task
    from .verbalisers import Verbaliser

_HOME = {
    "Adapter": "adapter",
    "Head": "adapter",
    "Merged": "engine",
    "merge": "engine",
    "Estimate": "evaluation",
    "evaluate": "evaluation",
    "Features": "features",
    "collect_features": "features",
    "LowRank": "lowrank",
    "METHODS": "methods",
    "PLUGINS": "plugins",
    "Decouple": "plugins",
    "Orthogonalize": "plugins",
    "SoftOSRM": "plugins",
    "CompatibilityReport": "pool",
    "compatibility": "pool",
    "Recipe": "recipe",
    "Task": "tasks",
    "Verbaliser": "verbalisers",
}

__all__ = [  # noqa: RUF022 - errors first
    "Cancelled", "MergeError", "ResourceError",
    "Adapter", "CompatibilityReport", "Decouple", "Estimate", "Features", "Head", "LowRank", "METHODS", "Merged",
    "Orthogonalize", "PLUGINS", "Recipe", "SoftOSRM", "Task", "Verbaliser", "collect_features", "compatibility", "evaluate", "merge",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'merging' has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)
