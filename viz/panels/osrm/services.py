"""What the OSRM panel asks of the core: plain plans in, plain data out."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import pandas as pd

from merging.features.store import TextsOf
from merging.services.plan import Plan, SubspaceView, Trained
from merging.tasks.task import Task
from merging.training.variants import VARIANTS, Variant

__all__ = ["VARIANTS", "Lab", "Merge", "Plan", "Pools", "SubspaceView", "Train", "Trained", "Variant"]

Train = Callable[[dict[str, Any], str, str], Iterator[Trained]]
"""`train(plan, root, stop)`: trains into the folder `root` until done or until a file `stop` exists."""
Merge = Callable[[dict[str, str], float], Iterator[tuple[str, float, float, float, int, int]]]
"""`merge({task: folder}, scaling)`: yields task, accuracy, low, high, done, total."""


class Lab(Protocol):
    """Reads texts, solves subspaces; see `merging.services.lab.Lab`."""

    def titles(self, owner: str = "") -> Mapping[str, str]:
        """Give {name: title} of the tasks that a visitor may choose."""

    def add(self, task: Task, owner: str) -> str:
        """Make a visitor's own task available to that visitor; gives its name here."""

    def forget(self, owner: str) -> None:
        """Drop a visitor's own tasks."""

    def check(self, plan: Plan) -> None:
        """Raise MergeError if a plan cannot be carried out."""

    def kinds(self, base: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Name the kinds of modules of a base that can be adapted, and the usual ones."""

    def modules(self, plan: Plan) -> list[str]:
        """Name the modules that a plan adapts, in full."""

    def ready(self, plan: Plan) -> bool:
        """Tell whether the texts of a plan have been read."""

    def reading(self, plan: Plan) -> Iterator[tuple[int, int]]:
        """Read the texts of a plan; yields (done, total)."""

    def subspace(self, plan: Plan, task: str, module: str) -> SubspaceView:
        """Solve the subspace that one task's A starts in."""

    def rank_curve(self, plan: Plan, task: str, module: str) -> pd.DataFrame:
        """Give k, rank, energy_rank of a task's inputs."""


class Pools(Protocol):
    """The part of the workbench that takes a visitor's own sets of adapters."""

    def add_pool(self, key: str, title: str, folders: Mapping[str, str], texts: TextsOf, measured: bool = True) -> None:
        """Make a set of adapters available as a pool."""

    def remove_pool(self, key: str) -> None:
        """Forget a pool that was added."""
