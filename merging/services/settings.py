"""A merge as the screen has it: a pool, the merge as a value, and the ranges of the controls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..recipes.spec import MergeSpec

K_RANGE = (5, 600)
LIMIT = 200
"""Test rows per task unless somebody says otherwise."""
LIMIT_RANGE = (50, 1000)
MOST_TASKS = 8
"""Adapters of a pool: the page has a weight for each, and a colour."""
WEIGHT_RANGE = (0.0, 2.0)
MOST_SEED = 2**53 - 1
"""Whole numbers above are not exact in a browser."""


@dataclass(frozen=True)
class Settings:
    """What decides the merge on a screen.

    Attributes
    ----------
    pool : name of a shipped pool, or the key of a visitor's own
    spec : has one number as weight per adapter of the pool, in its order
    """

    pool: str
    spec: MergeSpec

    def canonical(self) -> Settings:
        """Blank what does not change the result, see `MergeSpec.canonical`."""
        return replace(self, spec=self.spec.canonical())

    def changed(self, **values: Any) -> Settings:
        """Return the same with other values, by their names in `to_dict`; another method starts from its own
        defaults."""
        known = self.to_dict()
        if values.get("method", self.spec.method) != self.spec.method:
            known = {name: known[name] for name in known if name not in self.spec.values}
        return Settings.from_dict(known | values)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that can cross a process boundary."""
        return {"pool": self.pool, **self.spec.to_dict()}

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Settings:
        """Read `to_dict` back."""
        left = dict(values)
        return Settings(left.pop("pool"), MergeSpec.from_dict(left))
