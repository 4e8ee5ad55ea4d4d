"""What the OSRM experiment trains, merges and varies: arms, axes, repetitions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..shipped import TRAINING
from ..tasks.task import DEFAULT_TASKS
from ..training.settings import TrainingSettings
from ..training.variants import BASELINE, VARIANTS

METHODS_COMPARED = ("task_arithmetic", "ties", "regmean", "emr", "tsv", "do_merging", "soft_osrm")
PAIR = (BASELINE, "osrm")
ARM = "arm"
"""What stands in the column axis for the arms themselves."""


@dataclass(frozen=True)
class Axis:
    """One thing that is varied around the arms, in the first repetition.

    Attributes
    ----------
    name : "tasks" (the first so many), "epochs" (of one run, as it is after so many), or "k", "rank", "freeze_A" of the
        training
    methods : that the sets along it are merged with
    """

    name: str
    values: tuple[float, ...]
    variants: tuple[str, ...] = PAIR
    methods: tuple[str, ...] = ("task_arithmetic",)

    def settings(self, training: TrainingSettings, value: float) -> TrainingSettings:
        """Return the training at one value; alpha goes with the rank, so that alpha / rank stays."""
        number = int(value)
        if self.name == "rank":
            return replace(training, rank=number, alpha=training.alpha / training.rank * number)
        if self.name == "epochs":
            epochs = tuple(int(value) for value in self.values)
            return replace(training, epochs=max(epochs), checkpoints=epochs)
        if self.name == "tasks":
            return training
        changed: dict[str, Any] = {self.name: bool(number) if self.name == "freeze_A" else number}
        return replace(training, **changed)


@dataclass(frozen=True)
class AdapterSet:
    """One set of adapters, a task each: an arm in one repetition, or an arm at one value of an axis."""

    variant: str
    repetition: int = 0
    axis: str = ARM
    value: float = 0.0

    @property
    def key(self) -> dict[str, Any]:
        """The columns that say which set a row is of."""
        return asdict(self)

    @property
    def name(self) -> str:
        """The folder of its adapters, below that of the experiment."""
        arm = self.axis in (ARM, "tasks")
        return f"{self.variant}{'' if arm else f'@{self.axis}={self.value:g}'}/{self.repetition}"

    def __str__(self) -> str:
        return (
            f"{self.variant}{'' if self.axis == ARM else f', {self.axis} {self.value:g}'}, repetition {self.repetition}"
        )


@dataclass(frozen=True)
class Experiment:
    """What is run; the defaults are the shipped experiment.

    Attributes
    ----------
    training : everything but what the variants and axes set
    """

    tasks: tuple[str, ...] = DEFAULT_TASKS
    variants: tuple[str, ...] = tuple(VARIANTS)
    repetitions: tuple[int, ...] = (0, 1, 2, 3)
    training: TrainingSettings = TRAINING
    methods: tuple[str, ...] = METHODS_COMPARED
    scalings: tuple[float, ...] = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.3)
    validation_rows: int = 100
    test_rows: int = 200
    axes: tuple[Axis, ...] = (
        Axis("tasks", (2, 3, 4, 5, 6, 7, 8), methods=("task_arithmetic", "do_merging")),
        Axis("k", (10, 50, 100, 500), ("osrm",)),
        Axis("rank", (4, 8, 16)),
        Axis("freeze_A", (0, 1)),
        Axis("epochs", (1, 3, 6)),
    )

    def home(self, axis: str) -> float | None:
        """Return the value of an axis at which the arms themselves are; None where no arm is on it."""
        if axis == "tasks":
            return float(len(self.tasks))
        # the arms' schedule ends after their own epochs, a checkpoint's does not
        return None if axis == "epochs" else float(getattr(self.training, axis))

    def parts(self) -> Iterator[list[AdapterSet]]:
        """Yield the sets in the order in which they are worth having: a whole first repetition, the axes, the other
        repetitions.
        """
        for repetition in self.repetitions:
            yield [AdapterSet(variant, repetition) for variant in self.variants]
            if repetition == 0:
                points = [(axis, value) for axis in self.axes for value in axis.values if value != self.home(axis.name)]
                yield [
                    AdapterSet(variant, 0, axis.name, float(value))
                    for axis, value in points
                    for variant in axis.variants
                ]

    def settings(self, which: AdapterSet, task: str) -> TrainingSettings:
        """Return the settings of one run."""
        training = self.training
        for axis in self.axes:
            training = axis.settings(training, which.value) if axis.name == which.axis else training
        return VARIANTS[which.variant].settings(training, self.tasks.index(task), which.repetition)

    def tasks_of(self, which: AdapterSet) -> tuple[str, ...]:
        """Return the tasks of a set."""
        return self.tasks[: int(which.value)] if which.axis == "tasks" else self.tasks

    def methods_of(self, which: AdapterSet) -> tuple[str, ...]:
        """Return the methods that a set is merged with."""
        return next((axis.methods for axis in self.axes if axis.name == which.axis), self.methods)


QUICK = Experiment(
    tasks=("trec", "sms_spam", "movie"),
    repetitions=(0,),
    training=replace(TRAINING, epochs=1, rows=16, validation_rows=8, learning_rate=4e-3, max_length=16, k=10),
    methods=("task_arithmetic", "regmean"),
    scalings=(0.3, 1.0),
    validation_rows=8,
    test_rows=8,
    axes=(Axis("tasks", (2, 3)), Axis("k", (5, 10), ("osrm",)), Axis("epochs", (1, 2), ("osrm",))),
)
"""The same from end to end in a minute or so: for tests, not for conclusions."""
