"""What the panels ask of the core: plain settings in, plain data out. The panels never see a tensor."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from merging.diagnostics.linked import Diagnosis
from merging.evaluation.intervals import Recovered
from merging.features.progress import Progress
from merging.services.settings import Settings

__all__ = ["Estimate", "MergeView", "Method", "Param", "Plugin", "Progress", "Settings", "Workbench"]


class Estimate(Protocol):
    """Accuracy of one task so far: `interval` is (low, high) at 95 %, `done` of `total` texts."""

    task: str
    accuracy: float
    interval: tuple[float, float]
    done: int
    total: int
    marks: str


class MergeView(Protocol):
    """What a merge shows before it is evaluated.

    `magnitude` has `task`, `module`, `column`, `log10_norm`, `magnitude_variance` has `module`, `variance`,
    `norm_ratio`; both are None while texts that they depend on are still to be read.
    """

    recipe_yaml: str
    notes: list[str]
    magnitude: pd.DataFrame | None
    magnitude_variance: pd.DataFrame | None


class Param(Protocol):
    """A parameter that draws its own control: a slider, or segments where it has `choices` or is a yes or no.

    None is a value too where it is `optional`.
    """

    name: str
    label: str
    minimum: float | None
    maximum: float | None
    step: float | None
    default: Any
    help: str
    choices: tuple[str, ...]
    optional: bool


class Method(Protocol):
    """A merging method: what it is called, where it comes from, what it needs, which controls it has.

    `plugins` says whether plug-ins may change the updates before it, `random` whether its result depends on the seed,
    `low_rank` whether it is an adapter as it is.
    """

    title: str
    paper: str
    doc: str
    needs: set[str]
    params: tuple[Param, ...]
    plugins: bool
    random: bool
    low_rank: bool


class Plugin(Protocol):
    """A plug-in: its name for people, where it comes from, what it needs and its parameters."""

    title: str
    paper: str
    doc: str
    needs: set[str]
    params: tuple[Param, ...]


class Workbench(Protocol):
    """The pools, merges and measurements behind the panels."""

    pools: Mapping[str, str]
    tables: Path
    device: str

    def tasks(self, pool: str) -> list[str]:
        """Name the tasks of a pool, in the order of its weights."""

    def title(self, task: str) -> str:
        """Give a task its human name."""

    def base_title(self, pool: str) -> str:
        """Name the base of a pool for people."""

    def modules(self, pool: str) -> list[str]:
        """Name the modules that the pool's adapters change, in full."""

    def defaults(self, pool: str, method: str) -> dict[str, Any]:
        """Give the values tuned on validation: `params`, `orthogonalize`, `penalty`, `decouple`."""

    def penalty(self, mode: str) -> float:
        """Give the penalty that a mode of orthogonalize has by default."""

    def measured(self, pool: str) -> bool:
        """Tell whether a pool's tasks are known, so that there are texts to read and to evaluate."""

    def help(self, pool: str) -> str:
        """Say in a sentence what a pool teaches; nothing for a visitor's own."""

    def hardness(self, pool: str) -> Recovered | None:
        """Give the gap that a plain sum recovers at its best λ, where it was measured."""

    def starts(self, pool: str) -> set[str]:
        """Name how the A's of a pool's adapters started, as far as they record it."""

    def shipped(self, settings: Settings, limit: int) -> list[Estimate]:
        """Give the accuracy of a merge that was measured before the app shipped; nothing for any other."""

    def references(self, pool: str) -> pd.DataFrame:
        """Give `task`, `base`, `single`, `rows`: base with the task's head and adapter alone on the whole test split.

        `base_marks`, `single_marks` have a 1 or 0 per test row, or are empty where the rows were not kept.
        """

    def sweep(self, pool: str) -> pd.DataFrame:
        """Give `method`, `scaling`, `average`, `low`, `high` on validation."""

    def update(self, settings: Settings) -> MergeView:
        """Merge and describe the result as far as no text is read for it; fast enough for a moving slider."""

    def read(self, settings: Settings) -> Iterator[Progress]:
        """Read the texts that a merge needs, unless that has been done; closing the iterator stops the work."""

    def read_moments(self, settings: Settings) -> Iterator[Progress]:
        """Read the texts that a merge's diagnosis needs, unless that has been done; closing the iterator stops the
        work.
        """

    def texts_read(self, settings: Settings) -> bool:
        """Tell whether `read_moments` has nothing left to do."""

    def diagnosis(self, settings: Settings) -> Diagnosis:
        """Give all diagnostics of a merge; those on data only where the texts have been read."""

    def overlap(self, settings: Settings, side: str, modules: list[str]) -> tuple[pd.DataFrame, float]:
        """Give `adapter_a`, `adapter_b`, `overlap` (mean over the modules) and the chance level."""

    def rank_curve(self, pool: str, task: str, module: str, k: int) -> pd.DataFrame:
        """Give `k`, `rank`, `energy_rank` of a module's inputs, up to k texts."""

    def evaluate(self, settings: Settings, limit: int) -> Iterator[Progress | Estimate]:
        """Yield the progress of reading and merging, then estimates, task after task in turn; closing the iterator
        stops the work.
        """

    def warm_up(self, settings: Settings) -> None:
        """Load and compute what the first look at a merge and its evaluation need."""
