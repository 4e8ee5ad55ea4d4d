"""What a fine-tuning is told, and what it tells while it goes on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ..adapters.adapter import Adapter

INITS = ("default", "gaussian", "orthonormal", "osrm")


HEADS = ("scratch", "probe")


@dataclass(frozen=True)
class TrainingSettings:
    """Hyper-parameters of one fine-tuning; everything that a repetition needs but the data and the base.

    Attributes
    ----------
    init : "default" (PEFT's Kaiming-uniform A), "gaussian" (PEFT's N(0, 1/rank²)), "orthonormal" (random) or "osrm"
    row_norm : length to which every row of A is brought at the start: a number, or "gaussian" for sqrt(in) / rank,
        which PEFT's gaussian rows have on average; None = as the init gives them (orthonormal and OSRM: 1)
    head : where a classifier starts: "scratch" (small random weights) or "probe" (logistic regression on the frozen
        base)
    seed : of A, of a head from scratch, of the order of the rows, and of nothing else
    checkpoints : epochs (counted from 1) after which the adapter is handed out as it is then, out of this one run
    k : texts per task from which OSRM's second moments are taken
    pooling : of those moments; "official" is OSRM's released code (task means, see `merging.osrm.official_init`)
    rows, validation_rows : so many rows of the splits (the first, whose order is random, and one of each label missing
        there)
    modules : last parts of the names to adapt; none = query and value projections, as PEFT picks them for the
        architecture
    max_length : cuts texts below the task's own limit
    bf16 : autocast to bfloat16; None = on a GPU only
    checkpointing : recompute activations in the backward pass; None = on a GPU only
    """

    init: str = "default"
    row_norm: float | Literal["gaussian"] | None = None
    head: str = "scratch"
    rank: int = 8
    alpha: float = 16.0
    seed: int = 0
    k: int = 100
    pooling: str = "token"
    epochs: int = 3
    learning_rate: float = 1e-3
    batch_size: int = 32
    rows: int = 10_000
    validation_rows: int = 10_000
    warmup: float = 0.06
    freeze_A: bool = False
    modules: tuple[str, ...] = ("query", "value")
    max_length: int | None = None
    bf16: bool | None = None
    checkpointing: bool | None = None
    checkpoints: tuple[int, ...] = ()

    def autocasts(self, device: str) -> bool:
        """Tell whether a training on a type of device ("cpu", "cuda") computes in bfloat16."""
        return device == "cuda" if self.bf16 is None else self.bf16


@dataclass(frozen=True, eq=False)
class Progress:
    """State of a fine-tuning.

    Attributes
    ----------
    validation, drift : accuracy and (Frobenius, Procrustes) drift of A, see `merging.training.drift.drift`; after an
        epoch only
    seconds, left : gone by, and the estimate of what remains
    checkpoint : the adapter as it is after an epoch that `TrainingSettings.checkpoints` names
    adapter : at the end only, the epoch with the best validation accuracy
    """

    step: int
    steps: int
    epoch: int
    loss: float
    validation: float | None = None
    drift: tuple[float, float] | None = None
    seconds: float = 0.0
    checkpoint: Adapter | None = field(default=None, repr=False)
    adapter: Adapter | None = field(default=None, repr=False)

    @property
    def left(self) -> float:
        """Estimated seconds to the end."""
        return self.seconds / max(self.step, 1) * (self.steps - self.step)
