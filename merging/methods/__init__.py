"""All merging methods by name, in the order in which the app shows them. A new one is a file and a line here."""

from __future__ import annotations

from .base import SCALING, Method, Param, Stack
from .linear import AVERAGE, DO_MERGING, TASK_ARITHMETIC

METHODS: dict[str, Method] = {method.name: method for method in (AVERAGE, TASK_ARITHMETIC, DO_MERGING)}

__all__ = ["METHODS", "SCALING", "Method", "Param", "Stack"]
