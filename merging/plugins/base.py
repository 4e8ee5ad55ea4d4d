"""What every plug-in is: a function from updates to updates, with the same description as a method."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ..adapters.lowrank import LowRank
from ..methods.base import Param

Updates = list[dict[str, LowRank]]
"""Per adapter {module: update}; plug-ins map one such list to another of the same modules and shapes."""
DO_PAPER = "Zheng et al., 2025, arXiv 2505.15875"


@dataclass(frozen=True)
class Plugin:
    """Description of a plug-in, with the same fields as a `Method`'s where both have them."""

    name: str
    title: str
    paper: str
    params: tuple[Param, ...]
    function: Callable[..., Updates]
    needs: frozenset[str] = frozenset()

    @property
    def doc(self) -> str:
        """The plug-in's page."""
        return inspect.getdoc(self.function) or ""


def modules_of(updates: Sequence[Mapping[str, LowRank]]) -> list[str]:
    """Return the sorted union of all modules."""
    return sorted({module for update in updates for module in update})
