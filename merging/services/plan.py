"""What is planned and shown on the OSRM tab: a training, the subspace it starts from, what came of it."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from ..errors import MergeError
from ..features.store import TextsOf
from ..training.settings import TrainingSettings
from ..training.variants import VARIANTS, Variant

MAX_LENGTH = 64
"""Tokens of each text: the panel is for short trainings."""


@dataclass(frozen=True)
class Plan:
    """Everything that decides a training in the OSRM panel, as plain values.

    Attributes
    ----------
    tasks : names in `Lab.tasks`; every one gets an adapter, and OSRM keeps each away from all others
    variant : a name in `merging.training.variants.VARIANTS`
    modules : last parts of the names to adapt, or whole names
    seed : of the repetition; variants with own seeds add the task's place
    base, dtype : see `merging.models.load.load_base`
    max_length : tokens of each text that features are taken from
    """

    tasks: tuple[str, ...]
    variant: str = "osrm"
    freeze_A: bool = False
    k: int = 100
    rank: int = 8
    modules: tuple[str, ...] = ("query", "value")
    epochs: int = 2
    learning_rate: float = 2e-3
    rows: int = 500
    seed: int = 0
    base: str = "minilm"
    dtype: str = "float32"
    max_length: int = MAX_LENGTH

    @property
    def texts(self) -> TextsOf:
        """Whose inputs its features are taken from."""
        return TextsOf(self.tasks, self.modules, self.base, self.dtype, self.max_length)

    def settings(self, task: str) -> TrainingSettings:
        """Return the trainer's settings for one task."""
        training = TrainingSettings(
            rank=self.rank,
            alpha=2.0 * self.rank,
            k=self.k,
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            rows=self.rows,
            validation_rows=300,
            freeze_A=self.freeze_A,
            modules=self.modules,
            max_length=MAX_LENGTH,
        )
        return self._variant.settings(training, self.tasks.index(task), self.seed)

    @property
    def _variant(self) -> Variant:
        if self.variant not in VARIANTS:
            raise MergeError(f"Unknown initialisation {self.variant!r}: choose one of {', '.join(VARIANTS)}.")
        return VARIANTS[self.variant]


@dataclass(frozen=True, eq=False)
class SubspaceView:
    """The subspace that one task's A would start in, at one module.

    Attributes
    ----------
    spectrum : DataFrame
        index (1 = least energy), eigenvalue, chosen (bool): of the others' second moment; chosen are the rank
        directions of A.
    seen : DataFrame
        task, own (bool), share = ||A H^T|| / ||H|| of that task's texts, random (what a random orthonormal A would
        see).
    null_dimension, unique, energy : see `merging.osrm.Subspace`
    change : float or None
        1 - overlap with the subspace from all texts that were read: 0 the same, 1 orthogonal.
    texts : dict of str to int
        How many texts of each task were used; fewer than k where a task has no more.
    erased : float or None
        The share of its energy that OSRM's post-hoc variant would leave to an adapter trained before
        (`merging.osrm.erase`).
    """

    spectrum: pd.DataFrame
    seen: pd.DataFrame
    null_dimension: int
    unique: bool
    energy: float
    change: float | None
    texts: dict[str, int]
    erased: float | None


@dataclass(frozen=True)
class Trained:
    """One event of `Lab.train`: a step of one task's training; ``folder`` is set when its adapter has been written.

    Attributes
    ----------
    validation, drift : after an epoch, else None
    single, base : accuracies on test rows of the finished adapter, and of the base with its head
    """

    task: str
    place: int
    tasks: int
    step: int
    steps: int
    loss: float
    validation: float | None
    drift: tuple[float, float] | None
    seconds: float
    left: float
    folder: str | None = None
    single: float | None = None
    base: float | None = None
