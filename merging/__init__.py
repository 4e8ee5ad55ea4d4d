"""Mergescope's core: exact LoRA merging, diagnosis and evaluation; tensors in, tensors out.

Names are loaded when they are first used, so that ``import merging`` and the command line's help stay quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import Cancelled, MergeError, ResourceError

if TYPE_CHECKING:
    from .adapters.adapter import Adapter
    from .adapters.head import Head
    from .adapters.lowrank import LowRank
    from .diagnostics.compatibility import CompatibilityReport, compatibility
    from .engine import merge, merge_recipe, merge_spec
    from .evaluation.accuracy import Estimate, evaluate
    from .evaluation.verbalisers import Verbaliser
    from .features.moments import Features
    from .features.reading import collect_features
    from .merged import Merged
    from .methods import METHODS
    from .plugins import PLUGINS
    from .plugins.decouple import Decouple
    from .plugins.orthogonalize import Orthogonalize
    from .plugins.soft_osrm import SoftOSRM
    from .recipes.recipe import Recipe
    from .recipes.spec import MergeSpec
    from .tasks.task import Task

_HOME = {
    "Adapter": "adapters.adapter",
    "Head": "adapters.head",
    "Merged": "merged",
    "merge": "engine",
    "merge_recipe": "engine",
    "merge_spec": "engine",
    "Estimate": "evaluation.accuracy",
    "evaluate": "evaluation.accuracy",
    "Features": "features.moments",
    "collect_features": "features.reading",
    "LowRank": "adapters.lowrank",
    "METHODS": "methods",
    "PLUGINS": "plugins",
    "Decouple": "plugins",
    "Orthogonalize": "plugins",
    "SoftOSRM": "plugins",
    "CompatibilityReport": "diagnostics.compatibility",
    "compatibility": "diagnostics.compatibility",
    "Recipe": "recipes.recipe",
    "MergeSpec": "recipes.spec",
    "Task": "tasks.task",
    "Verbaliser": "evaluation.verbalisers",
}

__all__ = [  # noqa: RUF022 - errors first
    "Cancelled",
    "MergeError",
    "ResourceError",
    "Adapter",
    "CompatibilityReport",
    "Decouple",
    "Estimate",
    "Features",
    "Head",
    "LowRank",
    "METHODS",
    "MergeSpec",
    "Merged",
    "Orthogonalize",
    "PLUGINS",
    "Recipe",
    "SoftOSRM",
    "Task",
    "Verbaliser",
    "collect_features",
    "compatibility",
    "evaluate",
    "merge",
    "merge_recipe",
    "merge_spec",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'merging' has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)
