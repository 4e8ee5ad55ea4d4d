"""Ways to start A that the OSRM experiment compares and the OSRM panel offers, each with its seed rule, length of rows
and shipped pool.

OSRM's own baseline is PEFT's gaussian A from one seed for all tasks. Between it and OSRM lie four changes: an own A for
each task, orthonormal rows, rows of length 1 instead of sqrt(in) / rank, and the data; so there is an arm for each
step.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from .settings import TrainingSettings


@dataclass(frozen=True)
class Variant:
    """One way to start A.

    Attributes
    ----------
    init, pooling, row_norm : see `merging.training.trainer.TrainingSettings`
    shared_seed : A starts from the same random numbers in all tasks
    pool : the shipped pool that is this arm's first repetition, see `merging.shipped.POOLS`
    """

    name: str
    title: str
    init: str
    shared_seed: bool = False
    row_norm: float | Literal["gaussian"] | None = None
    pooling: str = "token"
    pool: str | None = None

    def seed(self, task: int, repetition: int) -> int:
        """Return the seed of the run of one task (its place) in one repetition; in the first one, that of the shipped
        pools.
        """
        return 100 * repetition + (0 if self.shared_seed else task + 1)

    def settings(self, training: TrainingSettings, task: int, repetition: int) -> TrainingSettings:
        """Return ``training`` with what this way to start A decides."""
        return replace(
            training, init=self.init, pooling=self.pooling, row_norm=self.row_norm, seed=self.seed(task, repetition)
        )


VARIANTS = {
    variant.name: variant
    for variant in (
        Variant("gaussian_shared", "PEFT gaussian, one seed", "gaussian", shared_seed=True, pool="papers"),
        Variant("gaussian_own", "PEFT gaussian, own seeds", "gaussian"),
        Variant("default_own", "PEFT default, own seeds", "default", pool="default"),
        Variant("orthonormal_own", "random orthonormal", "orthonormal"),
        Variant("orthonormal_scaled", "random orthonormal, gaussian's length", "orthonormal", row_norm="gaussian"),
        Variant("osrm", "OSRM, full second moment", "osrm", pool="osrm"),
        Variant("osrm_scaled", "OSRM, gaussian's length", "osrm", row_norm="gaussian"),
        Variant("osrm_official", "OSRM, as released", "osrm", pooling="official"),
    )
}
BASELINE = "gaussian_shared"
"""What OSRM's authors compare with."""
